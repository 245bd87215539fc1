package sharedsignals_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/sharedsignals"
)

const sessionRevoked = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"

// ledger is a revoker that remembers what was revoked, and fails on request.
type ledger struct {
	mu   sync.Mutex
	subs []string
	fail error
}

func (l *ledger) Revoke(_ context.Context, _, _ string, requests []authz.RevocationRequest) (authz.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return authz.Receipt{}, l.fail
	}
	for _, q := range requests {
		if q.Sub != nil {
			l.subs = append(l.subs, *q.Sub)
		}
	}
	return authz.Receipt{}, nil
}

// polling is a transmitter with a poller of its stream, which the test steps.
type polling struct {
	*authztest.Transmitter
	*sharedsignals.Poller
	ledger   *ledger
	registry *prometheus.Registry
}

func newPolling(t *testing.T, change func(*sharedsignals.StreamConfig)) *polling {
	t.Helper()
	p := &polling{Transmitter: authztest.NewTransmitter(), ledger: &ledger{}, registry: prometheus.NewRegistry()}
	t.Cleanup(p.Close)
	// With this interval, a test that waits for the next poll fails by its timeout.
	cfg := sharedsignals.StreamConfig{Interval: time.Hour, URL: p.URL + "/poll/" + p.StreamID, Audiences: []string{p.Audience}}
	cfg.Transmitter, cfg.TokenFile = p.URL, secret(t, p.Token)
	if change != nil {
		change(&cfg)
	}
	require.NoError(t, authz.ValidationErrors("event_streams", func(report authz.Report) {
		sharedsignals.ValidateStreams([]sharedsignals.StreamConfig{cfg}, []string{p.URL}, report)
	}))
	clock, log := authz.SystemClock{}, slog.New(slog.DiscardHandler)
	verifier, err := issuer.NewVerifier([]issuer.Config{{Issuer: p.URL, Audiences: []string{"api"}}}, issuer.VerifierOptions{MaxTokenTTL: 24 * time.Hour, Clock: clock, Logger: log, Registry: p.registry})
	require.NoError(t, err)
	t.Cleanup(verifier.Close)
	require.NoError(t, verifier.Refresh(t.Context()))
	r, err := sharedsignals.New(sharedsignals.Options{
		Verifier: verifier, Revoker: p.ledger, Registry: p.registry, Logger: log, Clock: clock,
		Updated: func(transmitter, stream, status string) {
			assert.Equal(t, p.URL, transmitter)
			p.Updated(stream, status)
		},
	})
	require.NoError(t, err)
	metrics, err := sharedsignals.NewPollMetrics(p.registry)
	require.NoError(t, err)
	p.Poller, err = sharedsignals.NewPoller(cfg, sharedsignals.PollerOptions{Receiver: r, Metrics: metrics, Logger: log, Clock: clock})
	require.NoError(t, err)
	t.Cleanup(p.End)
	return p
}

// Close ends the transmitter; the poller has a method of that name, too.
func (p *polling) Close() { p.Transmitter.Close() }

func secret(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

func (p *polling) user(name string) map[string]any {
	return map[string]any{"format": "iss_sub", "iss": p.URL, "sub": name}
}

// send has a session of the user revoked, and returns the event's jti.
func (p *polling) send(name string) string { return p.Send(sessionRevoked, p.user(name), nil) }

// lastPoll returns what the transmitter was told last.
func (p *polling) lastPoll() authztest.Poll {
	all := p.Polls()
	return all[len(all)-1]
}

// step polls once, and says whether the next poll is due at once.
func (p *polling) step(t *testing.T) (atOnce bool) {
	t.Helper()
	return p.Step(t.Context()) == 0
}

func TestPollAcknowledges(t *testing.T) {
	t.Parallel()
	p := newPolling(t, nil)
	jti := p.send("alice")
	assert.True(t, p.step(t), "an event has come")
	assert.Equal(t, []string{"alice"}, p.ledger.subs)
	assert.Empty(t, p.Acked(), "the acknowledgement is in the next poll")
	assert.Equal(t, 50, *p.lastPoll().MaxEvents)
	assert.True(t, p.lastPoll().ReturnImmediately)
	assert.False(t, p.step(t), "nothing has come")
	assert.Equal(t, []string{jti}, p.Acked())
	assert.False(t, p.step(t))
	assert.Empty(t, p.lastPoll().Ack, "it is acknowledged once")
	assert.NoError(t, p.State().Err)
	assert.GreaterOrEqual(t, p.State().Age, time.Duration(0))
	assert.NoError(t, testutil.GatherAndCompare(p.registry, strings.NewReader(fmt.Sprintf(`
# HELP jwt_bouncer_event_polls_total Polls of event streams (RFC 8936), by transmitter and result: answered, failed.
# TYPE jwt_bouncer_event_polls_total counter
jwt_bouncer_event_polls_total{result="answered",transmitter=%q} 3
jwt_bouncer_event_polls_total{result="failed",transmitter=%q} 0
`, p.URL, p.URL)), "jwt_bouncer_event_polls_total"))
}

// An event that cannot be committed is neither acknowledged nor reported as an
// error. It comes again, and others are processed meanwhile.
func TestPollPostpones(t *testing.T) {
	t.Parallel()
	p := newPolling(t, nil)
	jti := p.send("alice")
	p.ledger.fail = authz.ErrUnavailable
	var waits []time.Duration
	for range 4 {
		waits = append(waits, p.Step(t.Context()))
		assert.Empty(t, p.lastPoll().Ack)
		assert.Empty(t, p.lastPoll().SetErrs)
		assert.Equal(t, 1, p.State().Postponed)
	}
	assert.Greater(t, waits[0], time.Duration(0))
	assert.Greater(t, waits[3], 3*waits[0], "it backs off")
	assert.Less(t, waits[3], time.Minute)
	p.ledger.fail = nil
	assert.True(t, p.step(t))
	p.step(t)
	assert.Equal(t, []string{jti}, p.Acked())
	assert.Equal(t, []string{"alice"}, p.ledger.subs)
	assert.Zero(t, p.State().Postponed)
}

// What is wrong with an event is reported (RFC 8936, section 2.6).
func TestPollReportsErrors(t *testing.T) {
	t.Parallel()
	p := newPolling(t, nil)
	audience := p.Audience
	p.Audience = "somebody else"
	wrongAudience := p.send("alice")
	p.Audience = audience
	_, raw := p.Event(sessionRevoked, p.user("bob"), nil)
	p.Queue("of-another-event", raw)
	p.Queue("no-jwt", "x")
	good := p.send("carol")
	assert.True(t, p.step(t))
	p.step(t)
	assert.Equal(t, []string{good}, p.Acked())
	errs := p.Errs()
	assert.Equal(t, "invalid_audience", errs[wrongAudience].Err)
	assert.Equal(t, "invalid_request", errs["of-another-event"].Err)
	assert.Equal(t, "invalid_request", errs["no-jwt"].Err)
	assert.NotEmpty(t, errs["no-jwt"].Description)
	assert.Len(t, errs, 3)
	assert.Equal(t, []string{"carol"}, p.ledger.subs)
}

// Keycloak's event for a user who is signed out everywhere names no session, but
// "ALL": the user's tokens are revoked, not those of a session of that name.
func TestPollEverySession(t *testing.T) {
	t.Parallel()
	p := newPolling(t, nil)
	for _, session := range []string{"ALL", "s-1"} {
		p.Send(sessionRevoked, map[string]any{"format": "complex", "user": p.user(session + "'s user"), "session": map[string]any{"format": "opaque", "id": session}}, nil)
	}
	p.step(t)
	p.step(t)
	assert.Len(t, p.Acked(), 2)
	assert.Equal(t, []string{"ALL's user"}, p.ledger.subs)
}

func TestPollTakesMore(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) { c.MaxEvents = 2 })
	var want []string
	for i := range 7 {
		want = append(want, p.send(fmt.Sprint("user-", i)))
	}
	for range 4 {
		assert.True(t, p.step(t))
	}
	assert.False(t, p.step(t))
	assert.ElementsMatch(t, want, p.Acked())
	assert.Len(t, p.ledger.subs, 7)
}

// A transmitter that sends more events than were asked for loses none.
func TestPollBoundsEvents(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) { c.MaxEvents = 2 })
	sets := map[string]string{}
	for i := range 3 {
		jti, raw := p.Event(sessionRevoked, p.user(fmt.Sprint("user-", i)), nil)
		sets[jti] = raw
	}
	p.Fail(func(w http.ResponseWriter, _ authztest.Poll) bool {
		return respond(w, 200, map[string]any{"sets": sets})
	})
	p.step(t)
	assert.Len(t, p.ledger.subs, 2)
}

// A transmitter that sends the same events again, whatever it is told, is polled no
// more often than one that has none.
func TestPollIsNeverBusy(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) { c.LongPoll = time.Minute })
	assert.True(t, p.step(t), "the first poll shows whether polling works")
	assert.True(t, p.lastPoll().ReturnImmediately)
	good, raw := p.Event(sessionRevoked, p.user("alice"), nil)
	for name, answer := range map[string]map[string]any{
		"the same event":         {"sets": map[string]string{good: raw}, "moreAvailable": true},
		"the same refused event": {"sets": map[string]string{"no-jwt": "x"}, "moreAvailable": true},
		"more of nothing":        {"sets": map[string]string{}, "moreAvailable": true},
	} {
		p.Fail(func(w http.ResponseWriter, _ authztest.Poll) bool { return respond(w, 200, answer) })
		p.step(t)
		assert.Greater(t, p.Step(t.Context()), 30*time.Minute, name)
		assert.False(t, p.lastPoll().ReturnImmediately)
	}
}

func respond(w http.ResponseWriter, status int, v any) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(authztest.JSON(v))
	return true
}

// A response that is no answer acknowledges nothing, and is followed by a pause.
// What was to be reported is reported again.
func TestPollFailures(t *testing.T) {
	t.Parallel()
	p := newPolling(t, nil)
	jti := p.send("alice")
	require.True(t, p.step(t))
	text := func(kind, body string) func(http.ResponseWriter, authztest.Poll) bool {
		return func(w http.ResponseWriter, _ authztest.Poll) bool {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	status := func(code int, header ...string) func(http.ResponseWriter, authztest.Poll) bool {
		return func(w http.ResponseWriter, _ authztest.Poll) bool {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			return true
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, authztest.Poll) bool
		says   string
		wait   time.Duration // at least
	}{
		"HTML":               {text("text/html", "<html>"), "an HTML page", 0},
		"no sets":            {text("application/json", `{"moreAvailable":false}`), "has no sets", 0},
		"sets is a list":     {text("application/json", `{"sets":["x"]}`), "with other members", 0},
		"a set is an object": {text("application/json", `{"sets":{"x":{}}}`), "with other members", 0},
		"one jti twice":      {text("application/json", `{"sets":{"x":"a","x":"b"}}`), "with other members", 0},
		"cut":                {text("application/json", `{"sets":{"x":"a"`), "malformed JSON", 0},
		"too long":           {text("application/json", `{"sets":{"x":"`+strings.Repeat("a", 4<<20)+`"}}`), "larger than", 0},
		"401":                {status(401), "status 401", 0},
		"403":                {status(403), "status 403", 0},
		"500":                {status(500), "status 500", 0},
		"redirect":           {status(307, "Location", "/poll/elsewhere"), "redirect refused", 0},
		"429":                {status(429, "Retry-After", "300"), "status 429", 5 * time.Minute},
		"503, date":          {status(503, "Retry-After", time.Now().Add(5*time.Minute).UTC().Format(http.TimeFormat)), "status 503", 4 * time.Minute},
		"503 for a year":     {status(503, "Retry-After", "31536000"), "status 503", 10 * time.Minute},
		"202":                {status(202), "has no sets", 0},
	} {
		p.Fail(c.answer)
		wait := p.Step(t.Context())
		assert.GreaterOrEqual(t, wait, max(c.wait, 700*time.Millisecond), name)
		assert.LessOrEqual(t, wait, max(10*time.Minute, c.wait), name)
		assert.ErrorContains(t, p.State().Err, c.says, name)
		assert.NotContains(t, p.State().Err.Error(), p.Token)
		assert.Equal(t, []string{jti}, p.lastPoll().Ack, name)
		assert.Empty(t, p.Acked(), name)
	}
	p.Fail(nil)
	assert.False(t, p.step(t))
	assert.Equal(t, []string{jti}, p.Acked())
	assert.NoError(t, p.State().Err)
	assert.Equal(t, []string{"alice"}, p.ledger.subs)
}

// A transmitter that refuses the report does not keep the stream from going on: the
// events come again and are reported again.
func TestPollReportRefused(t *testing.T) {
	t.Parallel()
	p := newPolling(t, nil)
	jti := p.send("alice")
	require.True(t, p.step(t))
	p.Fail(func(w http.ResponseWriter, q authztest.Poll) bool {
		if len(q.Ack) > 0 {
			w.WriteHeader(http.StatusBadRequest)
		}
		return len(q.Ack) > 0
	})
	assert.False(t, p.step(t))
	p.Fail(func(http.ResponseWriter, authztest.Poll) bool { return false })
	assert.True(t, p.step(t))
	p.step(t)
	assert.Equal(t, []string{jti}, p.Acked())
	assert.Equal(t, []string{"alice"}, p.ledger.subs, "and are not enforced again")
}

// Without a URL, the stream's configuration says what is polled and which audience
// its events have.
func TestPollFindsItsStream(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) { c.URL, c.Audiences = "", nil })
	p.step(t)
	require.ErrorContains(t, p.State().Err, "streams create")
	streams := manage(t, p.Transmitter)
	_, err := streams.Create(t.Context(), sharedsignals.Stream{})
	require.NoError(t, err)
	p.send("alice")
	assert.True(t, p.step(t))
	assert.Equal(t, []string{"alice"}, p.ledger.subs)

	require.NoError(t, streams.Delete(t.Context(), p.StreamID))
	p.step(t)
	require.ErrorContains(t, p.State().Err, "status 404")
	p.StreamID, p.Audience = "another", "receiver/another"
	_, err = streams.Create(t.Context(), sharedsignals.Stream{})
	require.NoError(t, err)
	p.send("bob")
	assert.True(t, p.step(t), "the next stream is found")
	assert.Contains(t, p.ledger.subs, "bob")

	_, err = streams.SetStatus(t.Context(), sharedsignals.StreamStatus{ID: p.StreamID, Status: sharedsignals.StatusPaused})
	require.NoError(t, err)
	p.Transmitter.Update("paused", "maintenance")
	p.step(t)
	assert.Equal(t, sharedsignals.StatusPaused, p.State().Stream.Status)
	p.Transmitter.Update("enabled", "")
	p.step(t)
	assert.Equal(t, sharedsignals.StatusEnabled, p.State().Stream.Status)
}

// A stream whose events would all be refused is not polled: the transmitter would
// forget them.
func TestPollWantsItsAudience(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) { c.URL, c.Audiences = "", []string{"https://other.example"} })
	_, err := manage(t, p.Transmitter).Create(t.Context(), sharedsignals.Stream{})
	require.NoError(t, err)
	p.send("alice")
	p.step(t)
	assert.ErrorContains(t, p.State().Err, "audiences of event_streams")
	assert.Empty(t, p.Polls())
}

func TestPollWithClientCredentials(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) {
		c.TokenURL, c.ClientID, c.ClientSecretFile, c.TokenFile = c.Transmitter+"/token", "receiver", secret(t, "a-secret-of-the-test"), ""
	})
	for range 3 {
		p.step(t)
		require.NoError(t, p.State().Err)
	}
	assert.Equal(t, 1, p.Tokens())
	p.Token = "rotated"
	p.step(t)
	require.ErrorContains(t, p.State().Err, "status 401")
	p.step(t)
	require.NoError(t, p.State().Err, "a token that was refused is not used again")
	assert.Equal(t, 2, p.Tokens())
}

// Run polls until its context ends.
func TestPollRun(t *testing.T) {
	t.Parallel()
	p := newPolling(t, func(c *sharedsignals.StreamConfig) { c.LongPoll = time.Minute })
	p.Hold(time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	jti := p.send("alice")
	require.Eventually(t, func() bool { return slices.Contains(p.Acked(), jti) }, 30*time.Second, 10*time.Millisecond)
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
}

func TestStreamConfig(t *testing.T) {
	t.Parallel()
	good := func() sharedsignals.StreamConfig {
		var c sharedsignals.StreamConfig
		c.Transmitter, c.TokenFile = "https://tr.example", "/secret"
		return c
	}
	for name, c := range map[string]struct {
		change func(*sharedsignals.StreamConfig)
		says   string
	}{
		"good":                 {func(*sharedsignals.StreamConfig) {}, ""},
		"no transmitter":       {func(c *sharedsignals.StreamConfig) { c.Transmitter = "" }, "transmitter"},
		"plain http":           {func(c *sharedsignals.StreamConfig) { c.Transmitter = "http://tr.example" }, "loopback"},
		"unknown transmitter":  {func(c *sharedsignals.StreamConfig) { c.Transmitter = "https://other.example" }, "not under issuers"},
		"no credentials":       {func(c *sharedsignals.StreamConfig) { c.TokenFile = "" }, "is required"},
		"both credentials":     {func(c *sharedsignals.StreamConfig) { c.TokenURL = "https://tr.example/token" }, "exclude each other"},
		"half the credentials": {func(c *sharedsignals.StreamConfig) { c.TokenFile, c.ClientID = "", "x" }, "need each other"},
		"url, no audience":     {func(c *sharedsignals.StreamConfig) { c.URL = "https://tr.example/poll" }, "audiences"},
		"empty audience":       {func(c *sharedsignals.StreamConfig) { c.Audiences = []string{""} }, "audiences[0]"},
		"host with a path":     {func(c *sharedsignals.StreamConfig) { c.Hosts = []string{"a/b"} }, "hosts[0]"},
		"interval":             {func(c *sharedsignals.StreamConfig) { c.Interval = time.Millisecond }, "interval"},
		"long_poll":            {func(c *sharedsignals.StreamConfig) { c.LongPoll = time.Hour }, "long_poll"},
		"max_events":           {func(c *sharedsignals.StreamConfig) { c.MaxEvents = 1000 }, "max_events"},
	} {
		cfg := good()
		c.change(&cfg)
		err := authz.ValidationErrors("", func(report authz.Report) {
			sharedsignals.ValidateStreams([]sharedsignals.StreamConfig{cfg}, []string{"https://tr.example"}, report)
		})
		if c.says == "" {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorContains(t, err, c.says, name)
		}
	}
	err := authz.ValidationErrors("", func(report authz.Report) {
		sharedsignals.ValidateStreams([]sharedsignals.StreamConfig{good(), good()}, []string{"https://tr.example"}, report)
	})
	assert.ErrorContains(t, err, "duplicate transmitter")
}
