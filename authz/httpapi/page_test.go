package httpapi

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// signIn returns the header with the session's cookie.
func (b *bench) signIn(token string) []string {
	b.t.Helper()
	w := b.do("POST", "/login", formBody("token", token), "Content-Type", formType)
	require.Equal(b.t, 303, w.Code, w.Body)
	cookie := w.Result().Cookies()[0]
	assert.True(b.t, cookie.HttpOnly)
	assert.Equal(b.t, http.SameSiteStrictMode, cookie.SameSite)
	return []string{"Cookie", cookie.Name + "=" + cookie.Value}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// csrf returns the CSRF token of the page that header gets to see.
func (b *bench) csrf(header ...string) string {
	b.t.Helper()
	w := b.do("GET", "/", "", header...)
	require.Equal(b.t, 200, w.Code, w.Body)
	found := csrfField.FindStringSubmatch(w.Body.String())
	require.NotNil(b.t, found)
	return found[1]
}

func (b *bench) submit(path string, header []string, pairs ...string) *recorder {
	return b.do("POST", path, formBody(pairs...), append([]string{"Content-Type", formType}, header...)...)
}

func TestPageSignIn(t *testing.T) {
	t.Parallel()
	path := secretFile(t, "alice "+apiToken)
	b := newBench(t, withToken(path))
	w := b.do("GET", "/", "")
	assert.Equal(t, 303, w.Code)
	assert.Equal(t, "/login", w.Header().Get("Location"))
	for _, closed := range []string{"/stats.json"} {
		assert.Equal(t, 401, b.do("GET", closed, "").Code)
	}
	for _, closed := range []string{"/search", "/revoke", "/logout"} {
		assert.Equal(t, 401, b.submit(closed, nil, "csrf", "x").Code, closed)
	}
	w = b.submit("/login", nil, "token", "wrong-wrong-wrong-wrong")
	assert.Equal(t, 401, w.Code)
	assert.Empty(t, w.Result().Cookies())
	assert.NotContains(t, w.Body.String(), "wrong-wrong", "an answer repeats no secret")
	assert.Equal(t, 403, b.submit("/login", []string{"Sec-Fetch-Site", "cross-site"}, "token", apiToken).Code)

	alice := b.signIn(apiToken)
	w = b.do("GET", "/", "", alice...)
	require.Equal(t, 200, w.Code)
	assert.Contains(t, w.Body.String(), "page:alice")
	assert.Equal(t, contentPolicy, w.Header().Get("Content-Security-Policy"))
	assert.NotContains(t, contentPolicy, "unsafe")
	assert.Equal(t, "DENY", w.Header().Get("X-Frame-Options"))
	assert.NotContains(t, w.Body.String(), "<script>", "no inline script")
	assert.NotContains(t, w.Body.String(), "style=", "no inline style")
	assert.Equal(t, 200, b.do("GET", "/stats.json", "", alice...).Code)
	assert.Equal(t, 401, b.do("GET", "/stats.json", "", "Cookie", sessionCookie+"=forged").Code)
	assert.Equal(t, 401, b.do("GET", "/v1/revocations", "", alice...).Code, "a session is not the API's token")

	again := b.signIn(apiToken)
	assert.NotEqual(t, alice, again)
	assert.Equal(t, 403, b.submit("/logout", alice, "csrf", b.csrf(again...)).Code, "another session's form")
	assert.Equal(t, 303, b.submit("/logout", alice, "csrf", b.csrf(alice...)).Code)
	assert.Equal(t, 303, b.do("GET", "/", "", alice...).Code, "signed out")
	assert.Equal(t, 200, b.do("GET", "/", "", again...).Code)

	require.NoError(t, os.WriteFile(path, []byte("bob another-valid-token-2"), 0o600))
	assert.Equal(t, 303, b.do("GET", "/", "", again...).Code, "the token has been withdrawn")
	assert.NotContains(t, b.log.String(), apiToken)
}

func TestPageSessionsEnd(t *testing.T) {
	t.Parallel()
	clock := &steppedClock{now: time.Now()}
	b := newBench(t, func(o *Options) { o.Clock = clock; withToken(secretFile(t, apiToken))(o) })
	header := b.signIn(apiToken)
	clock.now = clock.now.Add(sessionLife + time.Second)
	assert.Equal(t, 303, b.do("GET", "/", "", header...).Code)
	s := b.handler.(*router).sessions
	for range maxSessions + 5 {
		s.start("x", apiToken, clock.now, true)
	}
	assert.LessOrEqual(t, len(s.open), maxSessions)
}

type steppedClock struct {
	authz.SystemClock
	now time.Time
}

func (c *steppedClock) Now() time.Time { return c.now }

func TestPageRevoke(t *testing.T) {
	t.Parallel()
	token := unsignedJWT(`{"iss":"` + issuerB + `"}`)
	for name, c := range map[string]struct {
		form  []string
		says  string // on the page that asks for confirmation
		fault string // instead
		kind  authz.Kind
		typed string
	}{
		"jti":              {[]string{"kind", "jti", "iss", issuerA, "value", " x "}, "The token with the jti &#34;x&#34; from " + issuerA, "", authz.KindJTI, ""},
		"sub":              {[]string{"kind", "sub", "iss", issuerA, "value", "bob", "not_before", "2026-01-02T03:04"}, "issued before 2026-01-02 03:04:00 UTC", "", authz.KindSub, ""},
		"pasted token":     {[]string{"kind", "token", "iss", "", "value", token}, authz.TokenValue(token), "", authz.KindToken, ""},
		"issuer":           {[]string{"kind", "iss", "iss", issuerA}, "Every token from " + issuerA, "", authz.KindIss, issuerA},
		"issuer, mistyped": {[]string{"kind", "iss", "iss", issuerA}, "Every token from " + issuerA, "", authz.KindUnknown, issuerB},
		"no value":         {[]string{"kind", "sub", "iss", issuerA, "value", ""}, "", "must not be empty", 0, ""},
		"no kind":          {[]string{"kind", "x", "iss", issuerA, "value", "y"}, "", "is needed", 0, ""},
		"no issuer":        {[]string{"kind", "sub", "iss", "", "value", "y"}, "", "more than one issuer", 0, ""},
		"unknown issuer":   {[]string{"kind", "sub", "iss", "https://c.example", "value", "y"}, "", "not a configured issuer", 0, ""},
		"bad time":         {[]string{"kind", "sub", "iss", issuerA, "value", "y", "not_before", "tomorrow"}, "", "not_before", 0, ""},
		"issuer not named": {[]string{"kind", "iss", "iss", ""}, "", "must be named", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(o *Options) { o.Issuers = []string{issuerA, issuerB} })
			csrf := b.csrf()
			w := b.submit("/revoke", nil, append([]string{"csrf", csrf, "reason", "why \"<b>\""}, c.form...)...)
			assert.Empty(t, b.ledger.all(), "nothing before the confirmation")
			if c.fault != "" {
				require.Equal(t, 400, w.Code)
				assert.Contains(t, w.Body.String(), c.fault)
				return
			}
			require.Equal(t, 200, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.says)
			assert.NotContains(t, w.Body.String(), token, "the page does not repeat a token")
			assert.NotContains(t, w.Body.String(), "<b>")

			w = b.submit("/revoke", nil, append(hiddenFields(t, w.Body.String()), "typed", c.typed, "reason", "why")...)
			if c.kind == authz.KindUnknown {
				assert.Equal(t, 400, w.Code)
				assert.Empty(t, b.ledger.all())
				return
			}
			require.Equal(t, 303, w.Code, w.Body)
			stored := b.ledger.all()
			require.Len(t, stored, 1)
			assert.Equal(t, c.kind, stored[0].Kind)
			assert.Equal(t, "why", stored[0].Reason)
			assert.Equal(t, "local", stored[0].Actor)
			assert.Contains(t, b.do("GET", w.Header().Get("Location"), "").Body.String(), "Revocation 1 is committed")
		})
	}
}

var hiddenField = regexp.MustCompile(`type="hidden" name="([^"]+)" value="([^"]*)"`)

func hiddenFields(t *testing.T, html string) []string {
	t.Helper()
	_, form, ok := strings.Cut(html, `action="/revoke"`)
	require.True(t, ok)
	var pairs []string
	for _, m := range hiddenField.FindAllStringSubmatch(form, -1) {
		pairs = append(pairs, m[1], strings.NewReplacer("&#43;", "+", "&#34;", `"`, "&amp;", "&").Replace(m[2]))
	}
	return pairs
}

func TestPageForgery(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	order := []string{"kind", "jti", "iss", issuerA, "value", "x", "confirmed", "yes"}
	assert.Equal(t, 403, b.submit("/revoke", nil, order...).Code, "no CSRF token")
	assert.Equal(t, 403, b.submit("/revoke", nil, append(order, "csrf", "AAAA")...).Code)
	good := append(order, "csrf", b.csrf())
	assert.Equal(t, 403, b.submit("/revoke", []string{"Sec-Fetch-Site", "same-site"}, good...).Code)
	assert.Equal(t, 403, b.submit("/revoke", []string{"Origin", "http://evil.example"}, good...).Code)
	assert.Equal(t, 403, b.submit("/revoke", []string{"Host", "evil.example"}, good...).Code)
	assert.Equal(t, 403, b.do("GET", "/", "", "Host", "evil.example").Code, "DNS rebinding")
	assert.Equal(t, 403, b.do("GET", "/stats.json", "", "Host", "evil.example").Code)
	assert.Equal(t, 405, b.do("GET", "/revoke?"+url.Values{"confirmed": {"yes"}}.Encode(), "").Code)
	assert.Empty(t, b.ledger.all())
	assert.Equal(t, 303, b.submit("/revoke", nil, good...).Code)
}

func TestPageSearch(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	token := unsignedJWT(`{"iss":"` + issuerA + `"}`)
	require.Equal(t, 201, b.do("POST", "/v1/revocations", `[{"sub":"<script>alert(1)</script>","reason":"<img src=x>"},{"sid":"s"},{"token":"`+token+`"}]`).Code)
	csrf := b.csrf()
	w := b.submit("/search", nil, "csrf", csrf, "kind", "sub", "value", "")
	require.Equal(t, 200, w.Code)
	assert.Contains(t, w.Body.String(), "&lt;script&gt;alert(1)")
	assert.NotContains(t, w.Body.String(), "<script>alert")
	assert.NotContains(t, w.Body.String(), "<img")
	w = b.submit("/search", nil, "csrf", csrf, "value", token)
	assert.Contains(t, w.Body.String(), authz.TokenValue(token))
	assert.NotContains(t, w.Body.String(), token)
	assert.NotContains(t, w.Body.String(), "&lt;script")
	b.ledger.setFail(authz.ErrUnavailable)
	w = b.do("GET", "/", "")
	assert.Equal(t, 200, w.Code, "the page works without the store")
	assert.Contains(t, w.Body.String(), "ledger cannot be read")
	w = b.submit("/revoke", nil, "csrf", csrf, "kind", "jti", "iss", issuerA, "value", "x", "confirmed", "yes")
	assert.Equal(t, 503, w.Code)
	assert.Contains(t, w.Body.String(), "nothing was revoked")
}

func TestPageOlder(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for i := range 25 {
		require.Equal(t, 201, b.do("POST", "/v1/revocations", `{"jti":"t-`+string(rune('a'+i))+`"}`).Code)
	}
	w := b.do("GET", "/", "")
	assert.Equal(t, 20, strings.Count(w.Body.String(), "<td>jti</td>"))
	next := regexp.MustCompile(`name="after" value="([^"]+)"`).FindStringSubmatch(w.Body.String())
	require.NotNil(t, next)
	w = b.submit("/search", nil, "csrf", b.csrf(), "after", next[1])
	assert.Equal(t, 5, strings.Count(w.Body.String(), "<td>jti</td>"))
}

func TestPageOff(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *Options) { o.Config.Page = false })
	for _, path := range []string{"/", "/login", "/stats.json", "/page.js"} {
		assert.Equal(t, 404, b.do("GET", path, "").Code, path)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	gauge := func(name string, labels prometheus.Labels, v float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, ConstLabels: labels})
		g.Set(v)
		b.metrics.MustRegister(g)
	}
	gauge("jwt_bouncer_replica_staleness_seconds", nil, 31)
	gauge("jwt_bouncer_replica_max_staleness_seconds", nil, 30)
	gauge("jwt_bouncer_replica_entries", nil, 7)
	gauge("jwt_bouncer_redis_subscribed", nil, 0)
	gauge("jwt_bouncer_store_breaker_state", prometheus.Labels{"store": "postgres"}, 2)
	gauge("jwt_bouncer_jwks_keys", prometheus.Labels{"issuer": issuerA}, 2)
	gauge("jwt_bouncer_jwks_age_seconds", prometheus.Labels{"issuer": issuerA}, 90)
	gauge("jwt_bouncer_jwks_keys", prometheus.Labels{"issuer": issuerB}, 0)
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "auth_validation_duration_seconds", Buckets: []float64{.001, .01}})
	h.Observe(.0005)
	h.Observe(.005)
	h.Observe(5)
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jwt_bouncer_decisions_total"}, []string{"reason"})
	c.WithLabelValues("allowed").Add(2)
	c.WithLabelValues("revoked").Add(5)
	c.WithLabelValues("expired").Add(0)
	b.metrics.MustRegister(h, c)
	assert.Equal(t, stats{
		Status:    "ready",
		Decisions: []decisions{{"revoked", false, 5}, {"allowed", true, 2}},
		Latency:   latency{Count: 3, Buckets: [][2]float64{{.001, 1}, {.01, 2}}},
		Parts: []partView{
			{"replica", "bad", "complete as of 31s ago (bound 30s), 7 revocations"},
			{"redis, news", "warning", "not subscribed: news arrive with the next sync"},
			{"postgres", "bad", "away (breaker open)"},
			{"keys of " + issuerA, "good", "2 usable, confirmed 90s ago"},
			{"keys of " + issuerB, "bad", "not fetched yet"},
		},
	}, b.handler.(*router).stats())
}
