package sidecar

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/sharedsignals"
)

// Events are polled where the sidecar serves no HTTP at all.
func TestPollWithoutHTTP(t *testing.T) {
	t.Parallel()
	tr := authztest.NewTransmitter()
	t.Cleanup(tr.Close)
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "token"), filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(secret, []byte(tr.Token), 0o600))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `listen: {grpc: "unix://%s/s", http: ""}
issuers: [{issuer: %q, audiences: [api]}]
store: "sqlite://%s/r.db"
event_streams: [{transmitter: %q, token_file: %q, url: "%s/poll/%s", audiences: [%q], interval: 1s}]
`, dir, tr.URL, dir, tr.URL, secret, tr.URL, tr.StreamID, tr.Audience), 0o600))
	s, err := Load(file, nil)
	require.NoError(t, err)
	jti := tr.Send("https://schemas.openid.net/secevent/caep/event-type/session-revoked", map[string]any{"format": "iss_sub", "iss": tr.URL, "sub": "alice"}, nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, s, Process{Version: "test", Log: io.Discard}) }()
	require.Eventually(t, func() bool { return slices.Contains(tr.Acked(), jti) }, 30*time.Second, 10*time.Millisecond)
	stop()
	assert.NoError(t, <-ended)
}

func TestStreamCondition(t *testing.T) {
	t.Parallel()
	enabled := sharedsignals.StreamStatus{Status: sharedsignals.StatusEnabled}
	for name, c := range map[string]struct {
		state  sharedsignals.PollState
		want   httpapi.State
		reason string
	}{
		"polled":          {sharedsignals.PollState{Stream: enabled, Age: time.Second}, httpapi.StateOK, ""},
		"not yet":         {sharedsignals.PollState{Stream: enabled, Age: -1}, httpapi.StateDegraded, "not been polled yet"},
		"never":           {sharedsignals.PollState{Stream: enabled, Age: -1, Err: os.ErrNotExist}, httpapi.StateDegraded, "not been polled yet: what"},
		"not any more":    {sharedsignals.PollState{Stream: enabled, Age: time.Minute, Err: os.ErrNotExist}, httpapi.StateDegraded, "for 1m0s"},
		"paused":          {sharedsignals.PollState{Stream: sharedsignals.StreamStatus{Status: "paused"}}, httpapi.StateDegraded, "paused"},
		"a status unread": {sharedsignals.PollState{}, httpapi.StateDegraded, `""`},
		"postponed":       {sharedsignals.PollState{Stream: enabled, Postponed: 2}, httpapi.StateDegraded, "2 events"},
	} {
		got := streamCondition("https://tr.example", c.state)
		assert.Equal(t, c.want, got.State, name)
		assert.Contains(t, got.Reason, c.reason, name)
		assert.Equal(t, "events https://tr.example", got.Part)
	}
}
