package httpapi_test

import (
	"jwtbouncer/authz/httpapi"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	c := httpapi.DefaultConfig()
	c.Hosts = []string{"https://x"}
	c.Clients = []httpapi.ClientConfig{{ID: "a", SecretFile: "f"}, {ID: "a"}, {}}
	c.Logout = httpapi.LogoutConfig{Audiences: []string{""}, MaxAge: -time.Second}
	c.ReadTimeout = -1
	var paths []string
	report := func(path, _ string, _ ...any) { paths = append(paths, path) }
	c.Validate(report)
	assert.ElementsMatch(t, []string{"hosts[0]", "clients[1].id", "clients[1].secret_file", "clients[2].id", "clients[2].secret_file", "logout.audiences[0]", "logout.max_age", "read_timeout"}, paths)

	for addr, want := range map[string][]string{
		"127.0.0.1:9192": nil, "[::1]:0": nil, "localhost:9192": nil, "127.8.8.8:1": nil,
		":9192": {"api.token_file"}, "0.0.0.0:9192": {"api.token_file"}, "[::]:9192": {"api.token_file"}, "sidecar:9192": {"api.token_file"},
		"localhost.evil.example:1": {"api.token_file"}, "9192": {"listen.http"}, "127.0.0.1:http": {"listen.http"}, "127.0.0.1:70000": {"listen.http"},
	} {
		paths = nil
		httpapi.DefaultConfig().ValidateListen(addr, report)
		assert.Equal(t, want, paths, addr)
	}
	_, err := httpapi.New(httpapi.Options{Listen: ":9192"})
	require.ErrorContains(t, err, "api.token_file")
	require.ErrorContains(t, err, "Revoker")
}
