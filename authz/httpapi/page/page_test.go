package page_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/httpapi/page"
)

// signIn returns the header with the session's cookie.
func signIn(t *testing.T, b *httpapitest.Bench, token string) []string {
	t.Helper()
	w := b.Do("POST", "/login", httpapitest.FormBody("token", token), "Content-Type", httpapitest.FormType)
	require.Equal(t, 303, w.Code, w.Body)
	cookie := w.Result().Cookies()[0]
	assert.True(t, cookie.HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	return []string{"Cookie", cookie.Name + "=" + cookie.Value}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// csrf returns the CSRF token of the page for a request with header.
func csrf(t *testing.T, b *httpapitest.Bench, header ...string) string {
	t.Helper()
	w := b.Do("GET", "/", "", header...)
	require.Equal(t, 200, w.Code, w.Body)
	found := csrfField.FindStringSubmatch(w.Body.String())
	require.NotNil(t, found)
	return found[1]
}

func submit(b *httpapitest.Bench, path string, header []string, pairs ...string) *httptest.ResponseRecorder {
	return b.Do("POST", path, httpapitest.FormBody(pairs...), append([]string{"Content-Type", httpapitest.FormType}, header...)...)
}

func TestPageSignIn(t *testing.T) {
	t.Parallel()
	path := httpapitest.SecretFile(t, "alice "+httpapitest.APIToken)
	b := httpapitest.New(t, httpapitest.WithToken(path))
	w := b.Do("GET", "/", "")
	assert.Equal(t, 303, w.Code)
	assert.Equal(t, "/login", w.Header().Get("Location"))
	for _, closed := range []string{"/live"} {
		assert.Equal(t, 401, b.Do("GET", closed, "").Code)
	}
	for _, closed := range []string{"/search", "/revoke", "/logout"} {
		assert.Equal(t, 401, submit(b, closed, nil, "csrf", "x").Code, closed)
	}
	w = submit(b, "/login", nil, "token", "wrong-wrong-wrong-wrong")
	assert.Equal(t, 401, w.Code)
	assert.Empty(t, w.Result().Cookies())
	assert.NotContains(t, w.Body.String(), "wrong-wrong", "an answer repeats no secret")
	assert.Equal(t, 403, submit(b, "/login", []string{"Sec-Fetch-Site", "cross-site"}, "token", httpapitest.APIToken).Code)

	alice := signIn(t, b, httpapitest.APIToken)
	w = b.Do("GET", "/", "", alice...)
	require.Equal(t, 200, w.Code)
	assert.Contains(t, w.Body.String(), `<span class="who">alice</span>`)
	assert.Equal(t, page.ContentPolicy, w.Header().Get("Content-Security-Policy"))
	assert.NotContains(t, page.ContentPolicy, "unsafe")
	assert.Equal(t, "DENY", w.Header().Get("X-Frame-Options"))
	assert.NotContains(t, w.Body.String(), "<script>", "no inline script")
	assert.NotContains(t, w.Body.String(), "style=", "no inline style")
	assert.Equal(t, 200, b.Do("GET", "/live", "", alice...).Code)
	assert.Equal(t, 401, b.Do("GET", "/live", "", "Cookie", page.SessionCookie+"=forged").Code)
	assert.Equal(t, 401, b.Do("GET", "/v1/revocations", "", alice...).Code, "a session is not the API's token")

	again := signIn(t, b, httpapitest.APIToken)
	assert.NotEqual(t, alice, again)
	assert.Equal(t, 403, submit(b, "/logout", alice, "csrf", csrf(t, b, again...)).Code, "another session's form")
	assert.Equal(t, 303, submit(b, "/logout", alice, "csrf", csrf(t, b, alice...)).Code)
	assert.Equal(t, 303, b.Do("GET", "/", "", alice...).Code, "signed out")
	assert.Equal(t, 200, b.Do("GET", "/", "", again...).Code)

	require.NoError(t, os.WriteFile(path, []byte("bob another-valid-token-2"), 0o600))
	assert.Equal(t, 303, b.Do("GET", "/", "", again...).Code, "the token has been withdrawn")
	assert.NotContains(t, b.Log.String(), httpapitest.APIToken)
}

func TestPageSessionsEnd(t *testing.T) {
	t.Parallel()
	clock := &steppedClock{now: time.Now()}
	b := httpapitest.New(t, func(o *httpapitest.Setup) {
		o.Clock = clock
		httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
	})
	header := signIn(t, b, httpapitest.APIToken)
	clock.now = clock.now.Add(page.SessionLifetime + time.Second)
	assert.Equal(t, 303, b.Do("GET", "/", "", header...).Code)
}

type steppedClock struct {
	authz.SystemClock
	now time.Time
}

func (c *steppedClock) Now() time.Time { return c.now }

func TestPageRevoke(t *testing.T) {
	t.Parallel()
	token := httpapitest.UnsignedJWT(`{"iss":"` + httpapitest.IssuerB + `","exp":4102444800}`)
	const template = "https://entra.example/{tenantid}/v2.0"
	for name, c := range map[string]struct {
		form    []string
		says    string // on the page that asks for confirmation
		message string // on the error page instead
		kind    authz.Kind
		typed   string
	}{
		"jti":                   {[]string{"kind", "jti", "iss", httpapitest.IssuerA, "value", " x "}, "The token with the jti &#34;x&#34; from " + httpapitest.IssuerA, "", authz.KindJTI, ""},
		"sub":                   {[]string{"kind", "sub", "iss", httpapitest.IssuerA, "value", "bob", "not_before", "2026-01-02T03:04"}, "issued before 2026-01-02 03:04:00 UTC", "", authz.KindSub, ""},
		"pasted token":          {[]string{"kind", "token", "iss", "", "value", token}, authz.TokenValue(token), "", authz.KindToken, ""},
		"issuer":                {[]string{"kind", "iss", "iss", httpapitest.IssuerA}, "Every token from " + httpapitest.IssuerA, "", authz.KindIss, httpapitest.IssuerA},
		"issuer, mistyped":      {[]string{"kind", "iss", "iss", httpapitest.IssuerA}, "Every token from " + httpapitest.IssuerA, "", authz.KindUnknown, httpapitest.IssuerB},
		"no value":              {[]string{"kind", "sub", "iss", httpapitest.IssuerA, "value", ""}, "", "Value must not be empty.", 0, ""},
		"no kind":               {[]string{"kind", "x", "iss", httpapitest.IssuerA, "value", "y"}, "", "What to revoke: choose what to revoke.", 0, ""},
		"no issuer":             {[]string{"kind", "sub", "iss", "", "value", "y"}, "", "Issuer is needed because more than one issuer is configured", 0, ""},
		"unknown issuer":        {[]string{"kind", "sub", "iss", "https://c.example", "value", "y"}, "", "Issuer is not a configured issuer.", 0, ""},
		"no tenant":             {[]string{"kind", "sub", "iss", template, "value", "y"}, "", "Issuer has no tenant", 0, ""},
		"bad time":              {[]string{"kind", "sub", "iss", httpapitest.IssuerA, "value", "y", "not_before", "tomorrow"}, "", "Issued before must be a time", 0, ""},
		"issuer not named":      {[]string{"kind", "iss", "iss", ""}, "", "Issuer is needed: name the issuer", 0, ""},
		"token as jti":          {[]string{"kind", "jti", "iss", httpapitest.IssuerA, "value", token}, "", "paste it again", 0, ""},
		"token as reason":       {[]string{"kind", "jti", "iss", httpapitest.IssuerA, "value", "y", "reason", token}, "", "Reason looks like a token", 0, ""},
		"token, unknown issuer": {[]string{"kind", "token", "iss", "https://c.example", "value", token}, "", "paste it again", 0, ""},
		"tenant":                {[]string{"kind", "sub", "iss", "https://entra.example/acme/v2.0", "value", "bob"}, "from https://entra.example/acme/v2.0", "", authz.KindSub, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, func(o *httpapitest.Setup) {
				o.Issuers = authz.Issuers{Verified: []string{httpapitest.IssuerA, httpapitest.IssuerB}, Templates: []string{template}}
			})
			csrf := csrf(t, b)
			w := submit(b, "/revoke", nil, append([]string{"csrf", csrf}, withReason(c.form)...)...)
			assert.Empty(t, b.Ledger.All(), "nothing before the confirmation")
			if c.message != "" {
				require.Equal(t, 400, w.Code)
				body := w.Body.String()
				assert.Contains(t, body, c.message)
				assert.NotContains(t, body, token)
				for i := 0; i < len(c.form); i += 2 { // what was typed is kept, but no token
					if typed := c.form[i+1]; typed != token && c.form[i] != "kind" {
						assert.Contains(t, body, `name="`+c.form[i]+`"`)
						assert.Contains(t, body, `value="`+typed+`"`)
					}
				}
				for _, member := range []string{"not_before:", "iss:", "&#34;all&#34;", "&#34;token&#34;", "jti, sub, sid"} {
					assert.NotContains(t, body, member, "a member of the API's JSON")
				}
				return
			}
			require.Equal(t, 200, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.says)
			assert.NotContains(t, w.Body.String(), token, "the page does not repeat a token")
			assert.NotContains(t, w.Body.String(), "<b>")

			w = submit(b, "/revoke", nil, append(hiddenFields(t, w.Body.String()), "typed", c.typed, "reason", "why")...)
			if c.kind == authz.KindUnknown {
				assert.Equal(t, 400, w.Code)
				assert.Empty(t, b.Ledger.All())
				return
			}
			require.Equal(t, 303, w.Code, w.Body)
			stored := b.Ledger.All()
			require.Len(t, stored, 1)
			assert.Equal(t, c.kind, stored[0].Kind)
			assert.Equal(t, "why", stored[0].Reason)
			assert.Equal(t, "local", stored[0].RevokedBy)
			assert.Contains(t, b.Do("GET", w.Header().Get("Location"), "").Body.String(), "Revocation 1 is committed")
		})
	}
}

// withReason adds a reason to a form without one.
func withReason(form []string) []string {
	for i := 0; i < len(form); i += 2 {
		if form[i] == "reason" {
			return form
		}
	}
	return append(form[:len(form):len(form)], "reason", "why \"<b>\"")
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
	b := httpapitest.New(t, nil)
	form := []string{"kind", "jti", "iss", httpapitest.IssuerA, "value", "x", "confirmed", "yes"}
	assert.Equal(t, 403, submit(b, "/revoke", nil, form...).Code, "no CSRF token")
	assert.Equal(t, 403, submit(b, "/revoke", nil, append(form, "csrf", "AAAA")...).Code)
	good := append(form, "csrf", csrf(t, b))
	assert.Equal(t, 403, submit(b, "/revoke", []string{"Sec-Fetch-Site", "same-site"}, good...).Code)
	assert.Equal(t, 403, submit(b, "/revoke", []string{"Origin", "http://evil.example"}, good...).Code)
	assert.Equal(t, 403, submit(b, "/revoke", []string{"Host", "evil.example"}, good...).Code)
	assert.Equal(t, 403, b.Do("GET", "/", "", "Host", "evil.example").Code, "DNS rebinding")
	assert.Equal(t, 403, b.Do("GET", "/live", "", "Host", "evil.example").Code)
	assert.Equal(t, 405, b.Do("GET", "/revoke?"+url.Values{"confirmed": {"yes"}}.Encode(), "").Code)
	assert.Empty(t, b.Ledger.All())
	assert.Equal(t, 303, submit(b, "/revoke", nil, good...).Code)
}

func TestPageSearch(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	token := httpapitest.UnsignedJWT(`{"iss":"` + httpapitest.IssuerA + `","exp":4102444800}`)
	require.Equal(t, 201, b.Do("POST", "/v1/revocations", `[{"sub":"<script>alert(1)</script>","reason":"<img src=x>"},{"sid":"s"},{"token":"`+token+`"}]`).Code)
	csrf := csrf(t, b)
	w := submit(b, "/search", nil, "csrf", csrf, "kind", "sub", "value", "")
	require.Equal(t, 200, w.Code)
	assert.Contains(t, w.Body.String(), "&lt;script&gt;alert(1)")
	assert.NotContains(t, w.Body.String(), "<script>alert")
	assert.NotContains(t, w.Body.String(), "<img src=x")
	w = submit(b, "/search", nil, "csrf", csrf, "value", token)
	assert.Contains(t, w.Body.String(), authz.TokenValue(token))
	assert.NotContains(t, w.Body.String(), token)
	assert.NotContains(t, w.Body.String(), "&lt;script")
	b.Ledger.SetFail(authz.ErrUnavailable)
	w = b.Do("GET", "/", "")
	assert.Equal(t, 200, w.Code, "the page works without the store")
	assert.Contains(t, w.Body.String(), "this list could not be read")
	w = submit(b, "/revoke", nil, "csrf", csrf, "kind", "jti", "iss", httpapitest.IssuerA, "value", "x", "confirmed", "yes")
	assert.Equal(t, 503, w.Code)
	assert.Contains(t, w.Body.String(), "nothing was revoked")
}

// A JWT that several issuers may accept is revoked of each of them.
func TestPageRevokesOfEveryIssuer(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, func(o *httpapitest.Setup) {
		o.Issuers = authz.Issuers{Verified: []string{httpapitest.IssuerA}, Introspected: []authz.IntrospectedIssuer{{Issuer: httpapitest.IssuerB, All: true}}}
	})
	w := submit(b, "/revoke", nil, "csrf", csrf(t, b), "kind", "token", "value", httpapitest.UnsignedJWT(`{"iss":"`+httpapitest.IssuerA+`"}`))
	require.Equal(t, 200, w.Code, w.Body)
	assert.Contains(t, w.Body.String(), "from "+httpapitest.IssuerB+" or "+httpapitest.IssuerA)
	require.Equal(t, 303, submit(b, "/revoke", nil, hiddenFields(t, w.Body.String())...).Code)
	var issuers []string
	for _, r := range b.Ledger.All() {
		issuers = append(issuers, r.Issuer)
	}
	assert.ElementsMatch(t, []string{httpapitest.IssuerA, httpapitest.IssuerB}, issuers)
}

// A list that could not be read is never shown as an empty one.
func TestPageTellsUnreadFromEmpty(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	assert.Contains(t, b.Do("GET", "/", "").Body.String(), "Nothing is revoked.")
	w := submit(b, "/search", nil, "csrf", csrf(t, b), "value", "x")
	assert.Contains(t, w.Body.String(), "No revocation matches.")
	b.Ledger.SetFail(authz.ErrUnavailable)
	for name, w := range map[string]*httptest.ResponseRecorder{
		"newest": b.Do("GET", "/", ""),
		"search": submit(b, "/search", nil, "csrf", csrf(t, b), "value", "abc", "iss", "https://typed.example"),
	} {
		body := w.Body.String()
		assert.Contains(t, body, "this list could not be read", name)
		assert.NotContains(t, body, "Nothing is revoked", name)
		assert.NotContains(t, body, "No revocation matches", name)
		assert.NotContains(t, body, `id="none"`, name)
		if name == "search" {
			assert.Contains(t, body, `value="abc"`)
			assert.Contains(t, body, `value="https://typed.example"`)
		}
	}
}

func TestPageSearchesByPrefix(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	require.Equal(t, 201, b.Do("POST", "/v1/revocations", `[{"jti":"5f1d-one"},{"jti":"5f1d-two"},{"jti":"77aa"}]`).Code)
	body := submit(b, "/search", nil, "csrf", csrf(t, b), "value", " 5f1d ").Body.String()
	assert.Contains(t, body, "5f1d-one")
	assert.Contains(t, body, "5f1d-two")
	assert.NotContains(t, body, "77aa")
}

// Who revoked is told together with the way it came.
func TestPageNamesSources(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for actor, want := range map[string]string{
		"cli:bob": `bob <small>command line<`, "api:ci": `ci <small>HTTP API<`, "page:alice": `alice <small>page<`, "client:shop": `shop <small>RFC 7009 (OAuth revocation)<`,
		"logout:https://a.example": `https://a.example <small>back-channel logout<`, "ssf:https://a.example": `https://a.example <small>Shared Signals event<`,
		"keycloak:https://a.example": `https://a.example <small>Keycloak<`, "postgres": `postgres <small>SQL<`, "": `unknown <small>SQL<`,
		"local": `someone on this machine <small>page or API, without a token<`, "nightly:job": `nightly:job <small>SQL<`,
	} {
		_, err := b.Ledger.Append(t.Context(), []authz.Revocation{{Kind: authz.KindJTI, Issuer: httpapitest.IssuerA, Value: "by " + actor, RevokedBy: actor}})
		require.NoError(t, err)
		assert.Contains(t, b.Do("GET", "/", "").Body.String(), want, actor)
	}
}

// The pill and the headline follow the conditions of /readyz.
func TestPageSaysWhatCallersGet(t *testing.T) {
	t.Parallel()
	ok := func(part string) httpapi.Condition {
		return httpapi.Condition{Part: part, State: httpapi.StateOK, Age: time.Second}
	}
	bad := func(part string, state httpapi.State, reason string, age time.Duration) httpapi.Condition {
		return httpapi.Condition{Part: part, State: state, Reason: reason, Detail: "dial tcp 10.0.0.1", Age: age, Bound: 30 * time.Second}
	}
	for name, c := range map[string]struct {
		conditions []httpapi.Condition
		headline   string
		state      string
		also       []string
	}{
		"ready": {[]httpapi.Condition{ok("keys"), ok("revocations"), ok("store")}, "Requests are decided. No part reports a fault.", "good", []string{"1 s ago"}},
		"stale": {[]httpapi.Condition{ok("keys"), bad("revocations", httpapi.StateDegraded, "denying tokens (503): revocation state is 44s old, bound 30s", 44*time.Second), bad("store", httpapi.StateDegraded, "has not answered for 44s: nothing can be revoked", 44*time.Second)},
			"Denying tokens (503): revocation state is 44s old, bound 30s.", "bad", []string{"<li>Revocation store has not answered for 44s: nothing can be revoked.</li>", "44 s ago", "used for 30 s", "dial tcp 10.0.0.1"}},
		"redis away": {[]httpapi.Condition{ok("revocations"), bad("redis", httpapi.StateDegraded, "has not answered for 3m: revocations reach this sidecar at its next sync with the store", 3*time.Minute)},
			"Requests are decided, but not every part works.", "warning", []string{"<li>Redis has not answered for 3m", "3 min ago"}},
		"one issuer": {[]httpapi.Condition{ok("keys"), bad("issuer https://b.example", httpapi.StateDegraded, "denying this issuer's tokens: it has no usable keys", -1)},
			"Denying tokens of https://b.example: it has no usable keys.", "bad", []string{"never"}},
		"not ready": {[]httpapi.Condition{bad("keys", httpapi.StateNotReady, "denying tokens (503): no issuer has usable keys", -1)},
			"Not ready: denying tokens (503): no issuer has usable keys", "bad", []string{">not ready<"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, func(o *httpapitest.Setup) {
				o.Conditions, o.Name = func() []httpapi.Condition { return c.conditions }, "sidecar-7"
			})
			body := b.Do("GET", "/", "").Body.String()
			assert.Contains(t, body, `<h1 id="headline">`+c.headline)
			assert.Contains(t, body, `<section id="now" class="`+c.state+`"`)
			assert.Contains(t, body, `class="badge `+c.state+`">`+strings.ReplaceAll(b.API.Status(), "_", " ")+"<", "the pill")
			assert.Contains(t, body, `<p class="name">sidecar-7</p>`)
			for _, want := range c.also {
				assert.Contains(t, body, want)
			}
		})
	}
}

func TestPageOlder(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for i := range 25 {
		require.Equal(t, 201, b.Do("POST", "/v1/revocations", `{"jti":"t-`+string(rune('a'+i))+`"}`).Code)
	}
	w := b.Do("GET", "/", "")
	assert.Equal(t, 20, strings.Count(w.Body.String(), `<span class="kind">jti</span>`))
	next := regexp.MustCompile(`name="after" value="([^"]+)"`).FindStringSubmatch(w.Body.String())
	require.NotNil(t, next)
	w = submit(b, "/search", nil, "csrf", csrf(t, b), "after", next[1])
	assert.Equal(t, 5, strings.Count(w.Body.String(), `<span class="kind">jti</span>`))
}

func TestPageOff(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Config.Page = false })
	for _, path := range []string{"/", "/login", "/live", "/page.js"} {
		assert.Equal(t, 404, b.Do("GET", path, "").Code, path)
	}
}
