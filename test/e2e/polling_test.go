package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

const sessionRevoked = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"

// pollingRig is a sidecar that polls a transmitter, behind a real Envoy. Between polls
// that bring nothing it would wait for an hour: what comes sooner, comes by a long poll
// or because the transmitter has more.
type pollingRig struct {
	*authztest.Transmitter
	sidecar *harness.BouncerServer
	front   *harness.Front
}

func newPollingRig(t *testing.T, store string) *pollingRig {
	t.Helper()
	tr := authztest.NewTransmitter()
	t.Cleanup(tr.Close)
	tr.Hold(time.Minute)
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "a-secret-of-the-test\n")
	b, front := harness.BouncerAndFront(t, fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [api]}
store: %q
event_streams:
  - {transmitter: %q, token_url: "%s/token", client_id: receiver, client_secret_file: %s, interval: 1h, long_poll: 1m, max_events: 2}
`, tr.URL, store, tr.URL, tr.URL, secret), harness.Upstream(t).Addr)
	return &pollingRig{tr, b, front}
}

// streams runs a streams command with the sidecar's configuration.
func (p *pollingRig) streams(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, "", append([]string{"streams", "--config", p.sidecar.Config}, args...)...)
}

func (p *pollingRig) create(t *testing.T) {
	t.Helper()
	r := p.streams(t, "create", "-o", "json")
	require.Equal(t, 0, r.Code, r.Stderr)
	var stream struct {
		ID string `json:"stream_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &stream))
	require.Equal(t, p.StreamID, stream.ID)
}

func (p *pollingRig) token(user string) string {
	return p.Mint(map[string]any{"sub": user, "iat": time.Now().Add(-time.Minute).Unix()})
}

// revoke sends an event that revokes the user's tokens, and returns its jti.
func (p *pollingRig) revoke(user string) string {
	return p.Send(sessionRevoked, map[string]any{"format": "iss_sub", "iss": p.URL, "sub": user}, nil)
}

func (p *pollingRig) awaitAck(t *testing.T, jtis ...string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "the events are acknowledged", func(context.Context) error {
		acked := p.Acked()
		for _, jti := range jtis {
			if !slices.Contains(acked, jti) {
				return fmt.Errorf("%s is not among %v", jti, acked)
			}
		}
		return nil
	})
}

// part is the state of the event stream in /readyz.
func (p *pollingRig) part(ctx context.Context, t *testing.T) (state, reason string) {
	t.Helper()
	r := harness.Run(t, "", "health", "--config", p.sidecar.Config, "-o", "json")
	var h struct {
		Parts []struct{ Name, State, Reason string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &h), r.Stderr)
	require.NoError(t, ctx.Err())
	for _, part := range h.Parts {
		if part.Name == "events "+p.URL {
			return part.State, part.Reason
		}
	}
	return "", "the part is missing"
}

func (p *pollingRig) awaitState(t *testing.T, want, says string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "the stream's state is "+want, func(ctx context.Context) error {
		if state, reason := p.part(ctx, t); state != want || !strings.Contains(reason, says) {
			return errors.New(state + ": " + reason)
		}
		return nil
	})
}

// TestPolledEvents manages a stream from the command line, and enforces what it
// brings: discovery, create, verify, events, status, update, delete.
func TestPolledEvents(t *testing.T) {
	t.Parallel()
	p := newPollingRig(t, "sqlite://"+harness.Dir(t)+"/revocations.db")
	p.awaitState(t, "degraded", "has not been polled yet")
	r := p.streams(t, "list")
	assert.Equal(t, 0, r.Code, r.Stderr)
	assert.Contains(t, r.Stderr, "no stream")
	p.create(t)
	r = p.streams(t, "create")
	assert.Equal(t, 1, r.Code)
	assert.Contains(t, r.Stderr, "status 409")
	r = p.streams(t, "verify", "--wait", "60s")
	require.Equal(t, 0, r.Code, r.Stderr)
	assert.Contains(t, r.Stdout, "verified")
	p.awaitState(t, "ok", "")

	alice, bob := p.token("alice"), p.token("bob")
	require.Equal(t, 200, p.front.Bearer(t, alice).Status)
	jti := p.revoke("alice")
	p.front.AwaitStatus(t, alice, 401, 30*time.Second) // the interval is an hour: the long poll brought it
	require.Equal(t, 200, p.front.Bearer(t, bob).Status, "an unrelated token")
	p.awaitAck(t, jti)

	// More than one response holds, with one among them that is refused.
	var users, good []string
	for i := range 5 {
		users = append(users, fmt.Sprint("user-", i))
		good = append(good, p.revoke(users[i]))
	}
	refused := p.Send(sessionRevoked, map[string]any{"format": "iss_sub", "iss": "https://other.example", "sub": "alice"}, nil)
	p.awaitAck(t, good...)
	for _, user := range users {
		assert.Equal(t, 401, p.front.Bearer(t, p.token(user)).Status, user)
	}
	harness.Eventually(t, 30*time.Second, "the refused event is reported", func(context.Context) error {
		if p.Errs()[refused].Err != "invalid_request" {
			return fmt.Errorf("%v", p.Errs())
		}
		return nil
	})
	assert.NotContains(t, p.Acked(), refused)
	assert.Contains(t, p.sidecar.Metrics(t), fmt.Sprintf("jwt_bouncer_event_polls_total{result=\"answered\",transmitter=%q}", p.URL))
	assert.NotContains(t, p.sidecar.Log(), p.Token, "no token in a log")

	p.Update("paused", "maintenance")
	p.awaitState(t, "degraded", "paused")
	r = p.streams(t, "status")
	assert.Equal(t, 3, r.Code)
	assert.Contains(t, r.Stdout, "paused")
	r = p.streams(t, "status", "--set", "enabled")
	assert.Equal(t, 0, r.Code, r.Stderr)
	p.Update("enabled", "")
	p.awaitState(t, "ok", "")
	r = p.streams(t, "update", "--description", "of the test", "-o", "yaml")
	assert.Equal(t, 0, r.Code, r.Stderr)
	assert.Contains(t, r.Stdout, "description: of the test")
	subject := `{"format":"email","email":"alice@example.com"}`
	assert.Equal(t, 0, p.streams(t, "add-subject", p.StreamID, subject).Code)
	assert.Equal(t, 0, p.streams(t, "remove-subject", p.StreamID, subject).Code)
	assert.Equal(t, 2, p.streams(t, "add-subject", p.StreamID, "alice").Code)
	r = p.streams(t, "delete", p.StreamID)
	assert.Equal(t, 0, r.Code, r.Stderr)
	r = p.streams(t, "status", p.StreamID)
	assert.Equal(t, 1, r.Code)
	assert.Contains(t, r.Stderr, "404")
}

// TestPolledEventsCrash: the sidecar ends after an event's commit and before its
// acknowledgement. The event comes again, changes nothing, and is acknowledged.
func TestPolledEventsCrash(t *testing.T) {
	t.Parallel()
	p := newPollingRig(t, "sqlite://"+harness.Dir(t)+"/revocations.db")
	p.create(t)
	hanging := make(chan struct{}, 10)
	p.Fail(func(w http.ResponseWriter, q authztest.Poll) bool {
		if len(q.Ack) == 0 {
			return false
		}
		hanging <- struct{}{} // the acknowledgement is lost
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	alice := p.token("alice")
	jti := p.revoke("alice")
	select {
	case <-hanging:
	case <-time.After(30 * time.Second):
		t.Fatal("the event is not acknowledged")
	}
	p.front.AwaitStatus(t, alice, 401, 30*time.Second)
	p.sidecar.Kill()
	p.Fail(nil)
	assert.Empty(t, p.Acked())
	p.sidecar.Start(t)
	p.awaitAck(t, jti)
	p.front.AwaitStatus(t, alice, 401, 30*time.Second)
	r := harness.Run(t, "", "revocations", "list", "--config", p.sidecar.Config, "-o", "json")
	assert.Len(t, strings.Split(strings.TrimSpace(r.Stdout), "\n"), 1, r.Stdout)
}

// TestPolledEventsStoreAway: an event that cannot be committed is neither acknowledged
// nor reported as an error. It comes again, and is enforced once the store is back.
func TestPolledEventsStoreAway(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	p := newPollingRig(t, pg.Via(proxy.Addr))
	p.create(t)
	p.awaitState(t, "ok", "")
	alice := p.token("alice")
	require.Equal(t, 200, p.front.Bearer(t, alice).Status)
	proxy.Down()
	jti := p.revoke("alice")
	p.awaitState(t, "degraded", "cannot be processed yet")
	before := len(p.Polls())
	harness.Eventually(t, 60*time.Second, "it is polled again", func(context.Context) error {
		if len(p.Polls()) < before+2 {
			return errors.New("no further poll")
		}
		return nil
	})
	assert.Empty(t, p.Acked())
	assert.Empty(t, p.Errs())
	proxy.Heal()
	harness.Eventually(t, 90*time.Second, "the event is acknowledged", func(context.Context) error {
		if !slices.Contains(p.Acked(), jti) {
			return fmt.Errorf("%v", p.Acked())
		}
		return nil
	})
	p.front.AwaitStatus(t, alice, 401, 30*time.Second)
	assert.Equal(t, 200, p.front.Bearer(t, p.token("bob")).Status)
}
