package envoy

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	good := DefaultConfig()
	good.Validate(func(path, format string, args ...any) {
		t.Errorf("default: %s: %s", path, fmt.Sprintf(format, args...))
	})
	bad := Config{
		Listen: ListenConfig{GRPC: "nowhere", TLS: TLSConfig{Certificate: "c", ClientNames: []string{"n"}}},
		Headers: HeadersConfig{
			Claims:   map[string]string{":path": "sub", "Host": "sub", "a b": "sub", "authorization": "sub", "x-a": "", "x-b": "{", "x-c": "sub", "X_C": "iss", "transfer-encoding": "sub", "Content_Length": "sub", "x_forwarded-for": "sub"},
			Metadata: []string{""}, MaxBytes: -1,
		},
		Replies:     RepliesConfig{Realm: "a\"b", ResourceMetadata: "nowhere", RetryAfter: time.Millisecond},
		DecisionLog: DecisionLogConfig{Decisions: "some", PerSecond: -1},
	}
	var got []string
	bad.Validate(func(path, format string, args ...any) {
		assert.NotEmpty(t, fmt.Sprintf(format, args...))
		assert.NotContains(t, fmt.Sprintf(format, args...), "%!")
		got = append(got, path)
	})
	assert.ElementsMatch(t, []string{
		"listen.grpc", "listen.grpc_tls", "listen.grpc_tls.client_names",
		"headers.claims.:path", "headers.claims.Host", "headers.claims.a b", "headers.claims.authorization", "headers.claims.x-a", "headers.claims.x-b",
		"headers.claims.x-c", "headers.claims.transfer-encoding", "headers.claims.Content_Length", "headers.claims.x_forwarded-for", "headers.max_bytes", "headers.metadata[0]",
		"replies.realm", "replies.resource_metadata", "replies.retry_after", "decision_log.decisions", "decision_log.per_second",
	}, got)
	_, err := NewServer(allowAll(), bad, Options{})
	require.Error(t, err)
}
