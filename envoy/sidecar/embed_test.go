package sidecar

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/envoy"
)

// lockedLog is a log that may be read while it is written.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// embedding is a Host with a configuration file.
type embedding struct {
	host   *Host
	log    *lockedLog
	dir    string
	file   string
	issuer *authztest.Issuer
}

func newEmbedding(t *testing.T) *embedding {
	t.Helper()
	e := &embedding{log: &lockedLog{}, dir: t.TempDir(), issuer: authztest.StartIssuer(t)}
	e.host = NewHost("test", e.log, nil)
	e.file = filepath.Join(e.dir, "config.yaml")
	e.write(t, "")
	t.Cleanup(e.host.Wait)
	return e
}

// write writes the configuration, with more settings at its end.
func (e *embedding) write(t *testing.T, more string) {
	t.Helper()
	text := fmt.Sprintf("listen: {grpc: 'unix://%s/door', http: '127.0.0.1:0'}\nissuers: [{issuer: '%s', audiences: [api], jwks: '%s'}]\nstore: 'sqlite://%s/r.db'\n%s", e.dir, e.issuer.Name, e.issuer.JWKSURL(), e.dir, more)
	require.NoError(t, os.WriteFile(e.file, []byte(text), 0o600))
}

func (e *embedding) embed(t *testing.T) *Embedded {
	t.Helper()
	s, err := e.host.Embed([]byte(e.file))
	require.NoError(t, err)
	return s
}

// ask returns the plan for a request with the token, and whether it came without waiting.
func ask(t *testing.T, l *envoy.Local, path, token string) (plan []byte, now bool) {
	t.Helper()
	req := &authz.Request{Method: "GET", Path: path, Host: "api.example"}
	if token != "" {
		req.Headers = []authz.Header{{Name: "authorization", Value: "Bearer " + token}}
	}
	if plan, _, now = l.AnswerNow(req); now {
		return plan, true
	}
	plans := make(chan []byte, 1)
	require.Nil(t, l.AnswerLater(t.Context(), req, func(plan []byte, _ envoy.Watch) { plans <- plan }))
	return <-plans, false
}

func allows(plan []byte) bool { return plan[0] == envoy.PlanAllow }

func statusOf(plan []byte) int { return int(plan[1]) | int(plan[2])<<8 }

func eventuallyAllowed(t *testing.T, l *envoy.Local, path, token string) {
	t.Helper()
	require.Eventually(t, func() bool {
		plan, _ := ask(t, l, path, token)
		return allows(plan)
	}, time.Minute, 10*time.Millisecond)
}

// immediately requires that a request with a token seen before gets the status without
// waiting, once the replica is loaded and fresh.
func immediately(t *testing.T, l *envoy.Local, token string, status int) {
	t.Helper()
	require.Eventually(t, func() bool {
		plan, now := ask(t, l, "/x", token)
		require.True(t, status == 200 && allows(plan) || statusOf(plan) == status, plan)
		return now
	}, time.Minute, 10*time.Millisecond)
}

// A token is allowed, the second time at once, until it is revoked through the sidecar's own port; then
// it is denied at once.
func TestEmbeddedSidecar(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	s := e.embed(t)
	defer s.Release()
	token := e.issuer.Mint(map[string]any{"jti": "j1"})
	eventuallyAllowed(t, s.Local, "/x", token)
	immediately(t, s.Local, token, 200)
	plan, now := ask(t, s.Local, "/x", "")
	assert.True(t, now)
	assert.Equal(t, 401, statusOf(plan))

	url := "http://" + s.instance.httpL.Addr().String()
	resp, err := http.Post(url+"/v1/revocations", "application/json", strings.NewReader(fmt.Sprintf(`{"iss":%q,"jti":"j1"}`, e.issuer.Name)))
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 201, resp.StatusCode, string(body))
	plan, _ = ask(t, s.Local, "/x", token)
	assert.Equal(t, 401, statusOf(plan), "at once")
	immediately(t, s.Local, token, 401)

	assert.NoFileExists(t, filepath.Join(e.dir, "door"), "there is no gRPC service")
	assert.Contains(t, e.log.String(), `"settings":["listen.grpc"]`)
	http.DefaultClient.CloseIdleConnections()
}

// Until the keys are there, tokens are denied with 503, and public routes work.
func TestEmbeddedNotReady(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	token := e.issuer.Mint(nil)
	e.issuer.Close()
	e.write(t, "routes: [{name: open, match: {paths: [{prefix: /open}]}, public: true}, {name: rest}]\n")
	s := e.embed(t)
	defer s.Release()
	plan, _ := ask(t, s.Local, "/x", token)
	assert.Equal(t, 503, statusOf(plan))
	plan, now := ask(t, s.Local, "/open", "")
	assert.True(t, now && allows(plan))
}

// One sidecar serves every configuration with its file, until the last is released.
func TestEmbedShares(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	other := filepath.Join(e.dir, "other.yaml")
	text, err := os.ReadFile(e.file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(other, text, 0o600))
	first, second := e.embed(t), e.embed(t)
	assert.Same(t, first, second)
	third, err := e.host.Embed([]byte(`{"file": "` + filepath.Join(e.dir, ".", "config.yaml") + `"}`))
	require.NoError(t, err)
	assert.Same(t, first, third)
	_, err = e.host.Embed([]byte(other))
	require.ErrorContains(t, err, e.file, "another file is refused, and the message names the one in force")
	first.Release()
	third.Release()
	eventuallyAllowed(t, second.Local, "/x", e.issuer.Mint(nil))
	address := second.instance.httpL.Addr().String()
	second.Release()
	second.Release() // one too many changes nothing
	next, err := e.host.Embed([]byte(other))
	require.NoError(t, err, "once the first has ended, another file may take its place")
	defer next.Release()
	assert.NotSame(t, first, next)
	_, err = net.Dial("tcp", address)
	assert.Error(t, err, "the first sidecar's port is closed before the next begins")
	eventuallyAllowed(t, next.Local, "/x", e.issuer.Mint(nil))
}

// Changed routes take effect without a signal and without a new configuration of Envoy.
func TestEmbeddedReload(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	s := e.embed(t)
	defer s.Release()
	plan, now := ask(t, s.Local, "/x", "")
	require.True(t, now && !allows(plan))
	e.write(t, "routes: [{name: open, public: true}]\n")
	eventuallyAllowed(t, s.Local, "/x", "")
}

// A process that has no replica cannot get routes with end_streams, which need one, by a reload.
func TestEmbeddedReloadWithoutReplica(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	e.write(t, "revocation: {replica: off}\n")
	s := e.embed(t)
	defer s.Release()
	e.write(t, "revocation: {replica: on}\nroutes: [{name: live, end_streams: true}]\n")
	require.Eventually(t, func() bool { return strings.Contains(e.log.String(), "this process runs with off") }, 10*time.Second, 10*time.Millisecond)
	e.write(t, "revocation: {replica: off}\nroutes: [{name: open, public: true}]\n")
	eventuallyAllowed(t, s.Local, "/x", "")
}

// A failed start leaves nothing behind that would keep the next from working.
func TestEmbedFails(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	text, err := os.ReadFile(e.file)
	require.NoError(t, err)
	for name, c := range map[string]struct{ from, to, message string }{
		"port in use":   {"127.0.0.1:0", taken.Addr().String(), "address already in use"},
		"invalid":       {"audiences: [api]", "audience: [api]", "audience"},
		"store refused": {"sqlite://" + e.dir, "sqlite:///proc/none", "/proc/none"},
	} {
		require.NoError(t, os.WriteFile(e.file, bytes.ReplaceAll(text, []byte(c.from), []byte(c.to)), 0o600))
		_, err := e.host.Embed([]byte(e.file))
		require.ErrorContains(t, err, c.message, name)
	}
	require.NoError(t, taken.Close())
	require.NoError(t, os.WriteFile(e.file, text, 0o600))
	s := e.embed(t)
	defer s.Release()
	eventuallyAllowed(t, s.Local, "/x", e.issuer.Mint(nil))
}

// Validation finds what is wrong with the file, and touches nothing else: not the store, not the ports,
// not the issuers.
func TestValidateTouchesNothing(t *testing.T) {
	t.Parallel()
	e := newEmbedding(t)
	text, err := os.ReadFile(e.file)
	require.NoError(t, err)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	require.NoError(t, os.WriteFile(e.file, bytes.Replace(text, []byte("127.0.0.1:0"), []byte(taken.Addr().String()), 1), 0o600))
	require.NoError(t, e.host.Validate([]byte(e.file)))
	entries, err := os.ReadDir(e.dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "only the configuration: %v", entries)
	assert.Zero(t, e.issuer.Fetches())
	assert.Empty(t, e.log.String())
	require.NoError(t, os.WriteFile(e.file, []byte("issuers: []\n"), 0o600))
	require.ErrorContains(t, e.host.Validate([]byte(e.file)), "issuer")
	require.Error(t, e.host.Validate([]byte("config.yaml")))
	s := e.host.running
	assert.Nil(t, s)
}

func TestConfigFile(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]string{
		"/etc/c.yaml":                        "/etc/c.yaml",
		" /etc/../etc/c.yaml\n":              "/etc/c.yaml",
		`{"file": "/etc/c.yaml"}`:            "/etc/c.yaml",
		"":                                   "",
		"c.yaml":                             "",
		"/etc/c\nd":                          "",
		"/etc/c\x00":                         "",
		"issuers: []\nstore: sqlite:///x.db": "",
		"{}":                                 "",
		`{"file": "c.yaml"}`:                 "",
		`{"file": 1}`:                        "",
		`{"file": "/c.yaml", "issuers": []}`: "",
		`{"file": "/c.yaml"} {}`:             "",
		`{"file": "/c.yaml"`:                 "",
	} {
		got, err := ConfigFile([]byte(config))
		assert.Equal(t, want, got, "%q", config)
		assert.Equal(t, want == "", err != nil, "%q: %v", config, err)
	}
}
