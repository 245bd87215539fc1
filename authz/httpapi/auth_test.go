package httpapi_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
)

func TestAPIToken(t *testing.T) {
	t.Parallel()
	path := httpapitest.SecretFile(t, "# people\nalice "+httpapitest.APIToken+"\n\nanother-valid-token-2\n")
	for name, c := range map[string]struct {
		header string
		status int
		actor  string
	}{
		"named":           {"Bearer " + httpapitest.APIToken, 201, "api:alice"},
		"unnamed":         {"bearer another-valid-token-2", 201, "api:token-2"},
		"none":            {"", 401, ""},
		"empty":           {"Bearer ", 401, ""},
		"wrong":           {"Bearer correct-horse-batterz", 401, ""},
		"prefix":          {"Bearer correct-horse-batter", 401, ""},
		"longer":          {"Bearer " + httpapitest.APIToken + "x", 401, ""},
		"the name":        {"Bearer alice", 401, ""},
		"name and token":  {"Bearer alice " + httpapitest.APIToken, 401, ""},
		"comment":         {"Bearer # people", 401, ""},
		"other scheme":    {"Basic " + httpapitest.APIToken, 401, ""},
		"scheme left out": {httpapitest.APIToken, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, httpapitest.WithToken(path))
			w := b.Do("POST", "/v1/revocations", `{"jti":"x"}`, "Authorization", c.header, "Host", "api.example")
			require.Equal(t, c.status, w.Code, w.Body)
			if c.status == 201 {
				assert.Equal(t, c.actor, b.Ledger.All()[0].Actor)
				return
			}
			assert.Contains(t, w.Header().Get("WWW-Authenticate"), "Bearer")
			assert.Empty(t, b.Ledger.All())
		})
	}
	b := httpapitest.New(t, httpapitest.WithToken(path))
	r := httpapitest.Request("POST", "/v1/revocations", `{"jti":"x"}`, "Authorization", "Bearer "+httpapitest.APIToken)
	r.Header.Add("Authorization", "Bearer "+httpapitest.APIToken)
	w := httptest.NewRecorder()
	b.API.ServeHTTP(w, r)
	assert.Equal(t, 401, w.Code, "two credentials")
}

func TestAPITokenRotates(t *testing.T) {
	t.Parallel()
	path := httpapitest.SecretFile(t, httpapitest.APIToken)
	b := httpapitest.New(t, httpapitest.WithToken(path))
	status := func(token string) int {
		return b.Do("GET", "/v1/revocations", "", "Authorization", "Bearer "+token).Code
	}
	replace := func(text string) {
		next := path + ".new"
		require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
		require.NoError(t, os.Rename(next, path))
	}
	require.Equal(t, 200, status(httpapitest.APIToken))
	replace(httpapitest.APIToken + "\nthe-new-token-number-2\n")
	assert.Equal(t, 200, status(httpapitest.APIToken))
	assert.Equal(t, 200, status("the-new-token-number-2"))
	replace("the-new-token-number-2")
	assert.Equal(t, 401, status(httpapitest.APIToken), "withdrawn")
	replace("short")
	assert.Equal(t, 503, status("the-new-token-number-2"), "a faulty file opens for nobody, and is not a no")
	require.NoError(t, os.Remove(path))
	assert.Equal(t, 503, status("the-new-token-number-2"))
	replace("the-new-token-number-2")
	assert.Equal(t, 200, status("the-new-token-number-2"))
	assert.NotContains(t, b.Log.String(), "the-new-token")
}

func TestAPITokenFileFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"empty":      {"", "holds no token"},
		"comments":   {"# nothing\n", "holds no token"},
		"short":      {"name fifteen-charact", "15 characters"},
		"three":      {"a b cccccccccccccccccccccc", "NAME TOKEN"},
		"not ASCII":  {"päßword-päßword-päßword", "ASCII"},
		"control":    {"abcdefgh\x01abcdefghij", "ASCII"},
		"very large": {strings.Repeat("#", httpapi.MaxSecretFile+1), "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := httpapi.OpenTokenFile(httpapitest.SecretFile(t, c.text))
			require.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "cccc")
		})
	}
	_, err := httpapi.OpenTokenFile(filepath.Join(t.TempDir(), "none"))
	require.Error(t, err)
}

func TestOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"localhost":          {[]string{"Host", "localhost:9192"}, 201},
		"LOCALHOST":          {[]string{"Host", "LOCALHOST"}, 201},
		"IPv6":               {[]string{"Host", "[::1]:9192"}, 201},
		"configured":         {[]string{"Host", "bouncer.internal:80"}, 201},
		"rebinding":          {[]string{"Host", "evil.example:9192"}, 403},
		"rebinding, dotted":  {[]string{"Host", "127.0.0.1.evil.example"}, 403},
		"no host":            {[]string{"Host", ""}, 403},
		"cross-site fetch":   {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"same-site fetch":    {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"same-origin fetch":  {[]string{"Sec-Fetch-Site", "same-origin"}, 201},
		"other origin":       {[]string{"Origin", "https://evil.example"}, 403},
		"null origin":        {[]string{"Origin", "null"}, 403},
		"simple form":        {[]string{"Content-Type", "text/plain"}, 415},
		"no type":            {[]string{"Content-Type", ""}, 415},
		"type with a suffix": {[]string{"Content-Type", "application/json; charset=utf-8"}, 201},
		"encoded":            {[]string{"Content-Encoding", "gzip"}, 415},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Config.Hosts = []string{"bouncer.internal"} })
			w := b.Do("POST", "/v1/revocations", `{"jti":"x"}`, c.header...)
			require.Equal(t, c.status, w.Code, w.Body)
			assert.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
			assert.Equal(t, c.status == 201, len(b.Ledger.All()) == 1)
		})
	}
}

func TestUnknownResources(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for _, path := range []string{"/v1", "/v1/revocations/", "/v1//revocations", "/V1/revocations", "/../livez", "/debug/pprof/"} {
		assert.Equal(t, 404, b.Do("GET", path, "").Code, path)
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
		w := b.Do(method, "/v1/revocations", "")
		assert.Equal(t, 405, w.Code, method)
		assert.Equal(t, "GET, POST", w.Header().Get("Allow"))
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	var keys error
	parts := []httpapi.ReadinessCheck{{"keys", func() error { return keys }}, {"follower", func() error { return nil }}}
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Checks, o.Draining = parts, draining })
	guarded := httpapitest.New(t, func(o *httpapitest.Setup) {
		o.Checks = parts
		httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
	})

	assert.Equal(t, 200, b.Do("GET", "/readyz", "").Code)
	keys = errors.New("dial tcp 10.9.8.7:443: refused")
	w := b.Do("GET", "/readyz", "")
	require.Equal(t, 503, w.Code)
	var out httpapi.Readiness
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out))
	assert.Equal(t, httpapi.Readiness{Status: "not_ready", Checks: []httpapi.CheckResult{{"keys", false, keys.Error()}, {"follower", true, ""}}}, out)
	assert.Equal(t, "not_ready\n- keys dial tcp 10.9.8.7:443: refused\n+ follower\n", b.Do("GET", "/readyz", "", "Accept", "text/plain").Body.String())

	w = guarded.Do("GET", "/readyz", "")
	assert.Equal(t, 503, w.Code)
	assert.NotContains(t, w.Body.String(), "10.9.8.7", "strangers see names only")
	assert.Contains(t, guarded.Do("GET", "/readyz", "", "Authorization", "Bearer "+httpapitest.APIToken).Body.String(), "10.9.8.7")

	keys = nil
	close(draining)
	assert.Contains(t, b.Do("GET", "/readyz", "").Body.String(), `"draining"`)
	assert.Equal(t, 503, b.Do("GET", "/readyz", "").Code)
	assert.Equal(t, 200, b.Do("GET", "/livez", "").Code)
	b.Ledger.SetFail(authz.ErrUnavailable)
	assert.Equal(t, 200, b.Do("GET", "/livez", "", "Host", "pod.cluster.local").Code)
	assert.Contains(t, b.Do("GET", "/metrics", "").Body.String(), `jwt_bouncer_http_requests_total{code="503",source="health"} `)
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	c := httpapi.DefaultConfig()
	c.Hosts = []string{"https://x"}
	c.Clients = []httpapi.ClientConfig{{ID: "a", SecretFile: "f"}, {ID: "a"}, {}}
	c.Logout = httpapi.LogoutConfig{Audiences: []string{""}, MaxAge: -time.Second}
	c.ReadTimeout = -1
	var paths []string
	fault := func(path, _ string, _ ...any) { paths = append(paths, path) }
	c.Validate(fault)
	assert.ElementsMatch(t, []string{"hosts[0]", "clients[1].id", "clients[1].secret_file", "clients[2].id", "clients[2].secret_file", "logout.audiences[0]", "logout.max_age", "read_timeout"}, paths)

	for addr, want := range map[string][]string{
		"127.0.0.1:9192": nil, "[::1]:0": nil, "localhost:9192": nil, "127.8.8.8:1": nil,
		":9192": {"api.token_file"}, "0.0.0.0:9192": {"api.token_file"}, "[::]:9192": {"api.token_file"}, "sidecar:9192": {"api.token_file"},
		"localhost.evil.example:1": {"api.token_file"}, "9192": {"listen.http"}, "127.0.0.1:http": {"listen.http"}, "127.0.0.1:70000": {"listen.http"},
	} {
		paths = nil
		httpapi.DefaultConfig().ValidateListen(addr, fault)
		assert.Equal(t, want, paths, addr)
	}
	_, err := httpapi.New(httpapi.Options{Listen: ":9192"})
	require.ErrorContains(t, err, "api.token_file")
	require.ErrorContains(t, err, "Revoker")
}

func TestWaitEnforced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		draining := make(chan struct{})
		b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Draining = draining })
		start := time.Now()
		w := b.Do("POST", "/v1/revocations?wait=enforced", `{"jti":"x"}`)
		require.Equal(t, 201, w.Code)
		assert.Contains(t, w.Body.String(), `"enforced":true`)
		assert.Equal(t, 30*time.Second, time.Since(start))

		done := make(chan *httptest.ResponseRecorder)
		go func() { done <- b.Do("POST", "/v1/revocations?wait=enforced", `{"jti":"y"}`) }()
		synctest.Wait()
		close(draining)
		w = <-done
		require.Equal(t, 201, w.Code, "it is committed")
		assert.Contains(t, w.Body.String(), `"enforced":false`, "but what was not waited for is not claimed")

		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		rec := httptest.NewRecorder()
		b.API.ServeHTTP(rec, httpapitest.Request("POST", "/v1/revocations", `{"jti":"z"}`).WithContext(ctx))
		assert.Len(t, b.Ledger.All(), 3, "a caller who hangs up does not undo the order")
	})
	b := httpapitest.New(t, nil)
	for _, q := range []string{"wait=forever", "wait=none&wait=none", "await=none"} {
		assert.Equal(t, 400, b.Do("POST", "/v1/revocations?"+q, `{"jti":"x"}`).Code, q)
	}
}

func TestServeDrains(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := httpapi.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = w.Write([]byte("whole"))
	}), httpapi.DefaultConfig(), httpapitest.New(t, nil).Setup.Logger)
	for _, d := range []time.Duration{s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout} {
		assert.Positive(t, d)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, s, l, 10*time.Second) }()
	got := make(chan int, 1)
	go func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + l.Addr().String() + "/")
		if err != nil {
			got <- 0
			return
		}
		_ = resp.Body.Close()
		got <- resp.StatusCode
	}()
	<-entered
	stop()
	close(release)
	assert.Equal(t, 200, <-got, "what is in flight is answered")
	require.NoError(t, <-served)
}

func TestSlowBodyIsCut(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	c := httpapi.DefaultConfig()
	c.ReadTimeout = 100 * time.Millisecond
	s := httpapi.NewServer(b.API, c, b.Setup.Logger)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, s, l, time.Second) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	_, err = conn.Write([]byte("POST /v1/revocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"jti\""))
	require.NoError(t, err)
	answer := make([]byte, 4096)
	n, err := conn.Read(answer) // ends only because the server gives up
	require.NoError(t, err)
	assert.Contains(t, string(answer[:n]), "400 Bad Request")
	require.NoError(t, conn.Close())
	stop()
	require.NoError(t, <-served)
	assert.Empty(t, b.Ledger.All())
}

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Lister = nilLister{} })
	w := b.Do("GET", "/v1/revocations", "")
	assert.Equal(t, 500, w.Code)
	assert.Contains(t, b.Log.String(), "panic in an HTTP handler")
	assert.NotContains(t, b.Log.String(), "secret detail")
}

type nilLister struct{}

func (nilLister) List(context.Context, authz.Filter) ([]authz.Revocation, string, error) {
	panic("secret detail")
}

func TestAuditLog(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, httpapitest.WithToken(httpapitest.SecretFile(t, "alice "+httpapitest.APIToken)))
	token := httpapitest.UnsignedJWT(`{"iss":"` + httpapitest.IssuerA + `"}`)
	auth := []string{"Authorization", "Bearer " + httpapitest.APIToken, "X-Request-Id", "req-1\n{\"level\":\"forged\"}"}
	require.Equal(t, 201, b.Do("POST", "/v1/revocations", `[{"token":"`+token+`","reason":"stolen\n{\"x\":1}"},{"sub":"bob"}]`, auth...).Code)
	b.Ledger.SetFail(authz.ErrUnavailable)
	require.Equal(t, 503, b.Do("POST", "/v1/revocations", `{"jti":"j"}`, auth...).Code)
	lines := strings.Split(strings.TrimSpace(b.Log.String()), "\n")
	require.Len(t, lines, 3, "one record for each revocation, whatever text they hold")
	var rec struct{ Log, Source, Actor, Outcome, Error, Kind, Value, Reason, ID string }
	fold := json.MatchCaseInsensitiveNames(true)
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &rec, fold))
	assert.Equal(t, "audit", rec.Log)
	assert.Equal(t, "api:alice", rec.Actor)
	assert.Equal(t, "stored", rec.Outcome)
	assert.Equal(t, authz.TokenValue(token), rec.Value)
	assert.Equal(t, "stolen\n{\"x\":1}", rec.Reason)
	assert.NotEmpty(t, rec.ID)
	require.NoError(t, json.Unmarshal([]byte(lines[2]), &rec, fold))
	assert.Equal(t, "failed", rec.Outcome)
	assert.Contains(t, rec.Error, authz.ErrUnavailable.Error(), "under the name that errors have in every record")
	assert.NotContains(t, b.Log.String(), httpapitest.APIToken)
	assert.NotContains(t, b.Log.String(), token)
	assert.NotContains(t, b.Log.String(), "eyJ")
}
