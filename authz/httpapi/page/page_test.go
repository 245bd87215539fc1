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
	for _, closed := range []string{"/stats.json"} {
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
	assert.Contains(t, w.Body.String(), "page:alice")
	assert.Equal(t, page.ContentPolicy, w.Header().Get("Content-Security-Policy"))
	assert.NotContains(t, page.ContentPolicy, "unsafe")
	assert.Equal(t, "DENY", w.Header().Get("X-Frame-Options"))
	assert.NotContains(t, w.Body.String(), "<script>", "no inline script")
	assert.NotContains(t, w.Body.String(), "style=", "no inline style")
	assert.Equal(t, 200, b.Do("GET", "/stats.json", "", alice...).Code)
	assert.Equal(t, 401, b.Do("GET", "/stats.json", "", "Cookie", page.SessionCookie+"=forged").Code)
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
	for name, c := range map[string]struct {
		form    []string
		says    string // on the page that asks for confirmation
		message string // on the error page instead
		kind    authz.Kind
		typed   string
	}{
		"jti":              {[]string{"kind", "jti", "iss", httpapitest.IssuerA, "value", " x "}, "The token with the jti &#34;x&#34; from " + httpapitest.IssuerA, "", authz.KindJTI, ""},
		"sub":              {[]string{"kind", "sub", "iss", httpapitest.IssuerA, "value", "bob", "not_before", "2026-01-02T03:04"}, "issued before 2026-01-02 03:04:00 UTC", "", authz.KindSub, ""},
		"pasted token":     {[]string{"kind", "token", "iss", "", "value", token}, authz.TokenValue(token), "", authz.KindToken, ""},
		"issuer":           {[]string{"kind", "iss", "iss", httpapitest.IssuerA}, "Every token from " + httpapitest.IssuerA, "", authz.KindIss, httpapitest.IssuerA},
		"issuer, mistyped": {[]string{"kind", "iss", "iss", httpapitest.IssuerA}, "Every token from " + httpapitest.IssuerA, "", authz.KindUnknown, httpapitest.IssuerB},
		"no value":         {[]string{"kind", "sub", "iss", httpapitest.IssuerA, "value", ""}, "", "must not be empty", 0, ""},
		"no kind":          {[]string{"kind", "x", "iss", httpapitest.IssuerA, "value", "y"}, "", "is needed", 0, ""},
		"no issuer":        {[]string{"kind", "sub", "iss", "", "value", "y"}, "", "more than one issuer", 0, ""},
		"unknown issuer":   {[]string{"kind", "sub", "iss", "https://c.example", "value", "y"}, "", "not a configured issuer", 0, ""},
		"bad time":         {[]string{"kind", "sub", "iss", httpapitest.IssuerA, "value", "y", "not_before", "tomorrow"}, "", "not_before", 0, ""},
		"issuer not named": {[]string{"kind", "iss", "iss", ""}, "", "must be named", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Issuers.Verified = []string{httpapitest.IssuerA, httpapitest.IssuerB} })
			csrf := csrf(t, b)
			w := submit(b, "/revoke", nil, append([]string{"csrf", csrf, "reason", "why \"<b>\""}, c.form...)...)
			assert.Empty(t, b.Ledger.All(), "nothing before the confirmation")
			if c.message != "" {
				require.Equal(t, 400, w.Code)
				assert.Contains(t, w.Body.String(), c.message)
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
			assert.Equal(t, "local", stored[0].Actor)
			assert.Contains(t, b.Do("GET", w.Header().Get("Location"), "").Body.String(), "Revocation 1 is committed")
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
	b := httpapitest.New(t, nil)
	form := []string{"kind", "jti", "iss", httpapitest.IssuerA, "value", "x", "confirmed", "yes"}
	assert.Equal(t, 403, submit(b, "/revoke", nil, form...).Code, "no CSRF token")
	assert.Equal(t, 403, submit(b, "/revoke", nil, append(form, "csrf", "AAAA")...).Code)
	good := append(form, "csrf", csrf(t, b))
	assert.Equal(t, 403, submit(b, "/revoke", []string{"Sec-Fetch-Site", "same-site"}, good...).Code)
	assert.Equal(t, 403, submit(b, "/revoke", []string{"Origin", "http://evil.example"}, good...).Code)
	assert.Equal(t, 403, submit(b, "/revoke", []string{"Host", "evil.example"}, good...).Code)
	assert.Equal(t, 403, b.Do("GET", "/", "", "Host", "evil.example").Code, "DNS rebinding")
	assert.Equal(t, 403, b.Do("GET", "/stats.json", "", "Host", "evil.example").Code)
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
	assert.NotContains(t, w.Body.String(), "<img")
	w = submit(b, "/search", nil, "csrf", csrf, "value", token)
	assert.Contains(t, w.Body.String(), authz.TokenValue(token))
	assert.NotContains(t, w.Body.String(), token)
	assert.NotContains(t, w.Body.String(), "&lt;script")
	b.Ledger.SetFail(authz.ErrUnavailable)
	w = b.Do("GET", "/", "")
	assert.Equal(t, 200, w.Code, "the page works without the store")
	assert.Contains(t, w.Body.String(), "ledger cannot be read")
	w = submit(b, "/revoke", nil, "csrf", csrf, "kind", "jti", "iss", httpapitest.IssuerA, "value", "x", "confirmed", "yes")
	assert.Equal(t, 503, w.Code)
	assert.Contains(t, w.Body.String(), "nothing was revoked")
}

func TestPageOlder(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for i := range 25 {
		require.Equal(t, 201, b.Do("POST", "/v1/revocations", `{"jti":"t-`+string(rune('a'+i))+`"}`).Code)
	}
	w := b.Do("GET", "/", "")
	assert.Equal(t, 20, strings.Count(w.Body.String(), "<td>jti</td>"))
	next := regexp.MustCompile(`name="after" value="([^"]+)"`).FindStringSubmatch(w.Body.String())
	require.NotNil(t, next)
	w = submit(b, "/search", nil, "csrf", csrf(t, b), "after", next[1])
	assert.Equal(t, 5, strings.Count(w.Body.String(), "<td>jti</td>"))
}

func TestPageOff(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Config.Page = false })
	for _, path := range []string{"/", "/login", "/stats.json", "/page.js"} {
		assert.Equal(t, 404, b.Do("GET", path, "").Code, path)
	}
}
