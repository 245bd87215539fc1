package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// running is a sidecar without its listeners.
type running struct {
	*core
	t      *testing.T
	issuer *authztest.Issuer
	keys   string // file of the issuer's keys
	http   http.Handler
}

// run starts a sidecar with the keys of https://issuer.example. more is added to
// its configuration.
func run(t *testing.T, more string) *running {
	t.Helper()
	r := &running{t: t, issuer: authztest.NewIssuer(authztest.Offline(), authztest.Named("https://issuer.example"), authztest.Algorithms("ES256", "EdDSA"))}
	keys := filepath.Join(t.TempDir(), "jwks.json")
	r.keys = keys
	require.NoError(t, os.WriteFile(keys, r.issuer.JWKS(), 0o600))
	s, err := parse("f", []byte(fmt.Sprintf("issuers: [{issuer: https://issuer.example, audiences: [api], jwks: %q}]\nstore: %q\n%s",
		keys, "sqlite://"+filepath.Join(t.TempDir(), "r.db"), more)), nil)
	require.NoError(t, err)
	s.Listen.HTTP = "127.0.0.1:0"
	c, ctx := coreOf(t, s)
	c.start(ctx)
	harness.Eventually(t, 20*time.Second, "ready", func(context.Context) error { return c.ready() })
	api, listener, err := newHTTPServer(ctx, s, c, nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	r.core, r.http = c, api.Handler
	return r
}

func (r *running) decide(path, token string) authz.Decision {
	r.t.Helper()
	return r.authorizer.Authorize(r.t.Context(), &authz.Request{Method: "GET", Host: "api.example", Path: path, Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + token}}})
}

func (r *running) post(path, kind, body string) (int, string) {
	r.t.Helper()
	req := httptest.NewRequestWithContext(r.t.Context(), http.MethodPost, path, strings.NewReader(body))
	req.Host = "127.0.0.1:9192"
	req.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	r.http.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

// introspecting starts a sidecar that asks https://login.example about tokens on
// /legacy. To that issuer, every token is active.
func introspecting(t *testing.T, more string) *running {
	t.Helper()
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"active":true,"sub":"carol","aud":"api","iat":%d,"exp":%d}`, time.Now().Unix()-60, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(login.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret-of-the-bouncer\n"), 0o600))
	return run(t, fmt.Sprintf(`
introspection: [{name: login, endpoint: %q, issuer: "https://login.example", audiences: [api], client_id: b, client_secret_file: %q%s}]
routes:
  - {name: legacy, match: {paths: [{prefix: /legacy}]}, introspection: login, issuers: [https://login.example, https://issuer.example]}
  - {name: rest}
`, login.URL, secret, more))
}

// Introspected tokens are revoked under the name of their issuer only.
func TestRevokeIntrospectedTokens(t *testing.T) {
	t.Parallel()
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	for name, c := range map[string]struct{ token, selector string }{
		"opaque, by its hash": {"an-opaque-token", `"token":"` + sum("an-opaque-token") + `"`},
		"by sub":              {"an-opaque-token", `"sub":"carol"`},
		"all":                 {"an-opaque-token", `"all":true`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := introspecting(t, "")
			d := r.decide("/legacy", c.token)
			require.Truef(t, d.Allowed(), "before: %s %s", d.Reason, d.Detail)
			status, body := r.post("/v1/revocations", "application/json", "{"+c.selector+"}")
			assert.Equalf(t, http.StatusBadRequest, status, "without iss: %s", body)
			assert.Containsf(t, body, "iss", "without iss: %d %s", status, body)
			status, body = r.post("/v1/revocations", "application/json", `{"iss":"https://login.example",`+c.selector+"}")
			d = r.decide("/legacy", c.token)
			assert.Equalf(t, http.StatusCreated, status, "%d %s, and the token is %s", status, body, d.Reason)
			assert.Equalf(t, authz.ReasonRevoked, d.Reason, "%d %s, and the token", status, body)
		})
	}
}

// A whole JWT is revoked under the names of all issuers that may accept it, and
// under no other name.
func TestRevokeWholeTokens(t *testing.T) {
	t.Parallel()
	foreign := authztest.NewIssuer(authztest.Offline(), authztest.Named("https://unknown.example")).Mint(nil)
	for name, c := range map[string]struct{ more, token, iss string }{
		"unknown issuer": {"", foreign, ""},
		"unknown issuer, iss is the introspected":   {"", foreign, "https://login.example"},
		"verified, all introspected":                {", tokens: all", "", ""},
		"verified, all introspected, iss verified":  {", tokens: all", "", "https://issuer.example"},
		"verified, all introspected, iss the other": {", tokens: all", "", "https://login.example"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := introspecting(t, c.more)
			token := c.token
			if token == "" {
				token = r.issuer.Mint(nil)
			}
			request := fmt.Sprintf(`{"token":%q}`, token)
			if c.iss != "" {
				request = fmt.Sprintf(`{"token":%q,"iss":%q}`, token, c.iss)
			}
			status, body := r.post("/v1/revocations", "application/json", request)
			for _, path := range []string{"/legacy", "/"} {
				d := r.decide(path, token)
				assert.Equalf(t, http.StatusCreated, status, "%d %s, and on %s the token is %s", status, body, path, d.Reason)
				assert.Falsef(t, d.Allowed(), "%d %s, and on %s the token is %s", status, body, path, d.Reason)
				assert.Falsef(t, path == "/legacy" && d.Reason != authz.ReasonRevoked, "%d %s, and on %s the token is %s", status, body, path, d.Reason)
			}
		})
	}
	r := introspecting(t, "")
	for _, request := range []string{
		fmt.Sprintf(`{"token":%q,"iss":"https://issuer.example"}`, foreign),           // that issuer never accepts it
		fmt.Sprintf(`{"token":%q,"iss":"https://login.example"}`, r.issuer.Mint(nil)), // that issuer is not asked about it
		fmt.Sprintf(`{"token":%q,"iss":"https://unknown.example"}`, foreign),
	} {
		status, body := r.post("/v1/revocations", "application/json", request)
		assert.Equalf(t, http.StatusBadRequest, status, "%d %s", status, body)
		assert.Containsf(t, body, "iss", "%d %s", status, body)
	}
}

// RFC 7009, section 2.2: 200 means that the token is valid nowhere any more, also
// on routes with introspection.
func TestOAuthRevokeIntrospectedJWT(t *testing.T) {
	t.Parallel()
	login := authztest.NewIssuer(authztest.Offline(), authztest.Named("https://login.example"))
	for name, c := range map[string]struct {
		more string
		mint func(r *running) string
	}{
		"introspected issuer": {"", func(*running) string { return login.Mint(nil) }},
		"unknown issuer": {"", func(*running) string {
			return authztest.NewIssuer(authztest.Offline(), authztest.Named("https://x.example")).Mint(nil)
		}},
		"verified, all introspected": {", tokens: all", func(r *running) string { return r.issuer.Mint(nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := introspecting(t, c.more)
			token := c.mint(r)
			d := r.decide("/legacy", token)
			require.Truef(t, d.Allowed(), "before: %s %s", d.Reason, d.Detail)
			status, body := r.post("/oauth2/revoke", "application/x-www-form-urlencoded", url.Values{"token": {token}}.Encode())
			d = r.decide("/legacy", token)
			assert.Equalf(t, http.StatusOK, status, "%d %s, and the token is %s", status, body, d.Reason)
			assert.Equalf(t, authz.ReasonRevoked, d.Reason, "%d %s, and the token", status, body)
		})
	}
}

// A client revokes a token of a key that this sidecar does not have yet, because the
// issuer published it under the kid of the previous one. The token is not good when
// the key has been fetched.
func TestOAuthRevokeBeforeTheKeyIsFetched(t *testing.T) {
	t.Parallel()
	r := run(t, "")
	old := r.issuer.Key("ES256")
	next := authztest.NewKey("ES256").Named(old.ID)
	revoked, other := r.issuer.Mint(nil, authztest.With(next)), r.issuer.Mint(nil, authztest.With(next))
	require.Equal(t, authz.ReasonBadSignature, r.decide("/", revoked).Reason)
	status, body := r.post("/oauth2/revoke", "application/x-www-form-urlencoded", url.Values{"token": {revoked}}.Encode())
	require.Equal(t, http.StatusOK, status, body)
	r.issuer.Withdraw(old.ID)
	r.issuer.Add(next)
	require.NoError(t, os.WriteFile(r.keys, r.issuer.JWKS(), 0o600))
	require.NoError(t, r.rules.Verifier.Refresh(t.Context()))
	d := r.decide("/", other)
	require.Truef(t, d.Allowed(), "the key is in use: %s %s", d.Reason, d.Detail)
	assert.Equal(t, authz.ReasonRevoked, r.decide("/", revoked).Reason)
}

// A stolen key is revoked by its kid. Messages signed with it must not end other
// users' sessions either, at endpoints that authenticate by signature alone.
func TestMessagesOfRevokedKeyAreRejected(t *testing.T) {
	t.Parallel()
	r := run(t, "api: {events: {audiences: [here]}, logout: {audiences: [shop]}, keycloak: {clients: [shop]}}\n")
	stolen := r.issuer.Key("ES256")
	status, body := r.post("/v1/revocations", "application/json", fmt.Sprintf(`{"kid":%q}`, stolen.ID))
	require.Equalf(t, http.StatusCreated, status, "%v %v", status, body)
	bob := r.issuer.Mint(map[string]any{"sub": "bob", "iat": time.Now().Unix() - 60}, authztest.Alg("EdDSA"))
	now := time.Now().Unix()
	for path, m := range map[string]struct {
		kind, field, typ string
		claims           map[string]any
		good             int
	}{
		"/ssf/events": {"application/secevent+jwt", "", "secevent+jwt", map[string]any{
			"aud": "here", "sub": nil, "sub_id": map[string]any{"format": "iss_sub", "iss": r.issuer.Name, "sub": "alice"},
			"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}},
		}, http.StatusAccepted},
		"/oidc/backchannel-logout": {"application/x-www-form-urlencoded", "logout_token", "logout+jwt", map[string]any{
			"aud": "shop", "sub": "alice", "events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
		}, http.StatusOK},
		"/keycloak/k_push_not_before": {"text/plain", "", "JWT", map[string]any{
			"iss": nil, "aud": nil, "iat": nil, "exp": nil, "sub": nil, "jti": nil,
			"id": "1", "expiration": now + 30, "resource": "shop", "action": "PUSH_NOT_BEFORE", "notBefore": now - 120,
		}, http.StatusNoContent},
	} {
		for by, want := range map[string]int{"EdDSA": m.good, "ES256": http.StatusBadRequest} {
			m.claims["jti"], m.claims["id"] = by+path, by+path
			if path == "/keycloak/k_push_not_before" {
				m.claims["jti"] = nil
			} else {
				delete(m.claims, "id")
			}
			text := r.issuer.Mint(m.claims, authztest.Alg(by), authztest.Header("typ", m.typ))
			if m.field != "" {
				text = url.Values{m.field: {text}}.Encode()
			}
			status, body := r.post(path, m.kind, text)
			assert.Equalf(t, want, status, "%s signed with %s: %s", path, by, body)
		}
	}
	d := r.decide("/", bob)
	assert.Truef(t, d.Allowed(), "bob: %s %s", d.Reason, d.Detail)
}

// The metadata of the resource name the issuers whose access tokens are accepted:
// not those that send events only, and not those that are asked on no route.
func TestResourceMetadataNamesIssuersOfAccessTokens(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret-of-the-bouncer"), 0o600))
	for routes, want := range map[string][]string{
		"":                                 {"https://issuer.example"},
		"{name: a, introspection: login}":  {"https://issuer.example", "https://login.example"},
		"{name: a, introspection: unused}": {"https://issuer.example", "https://unused.example"},
	} {
		s, err := parse("f", []byte(fmt.Sprintf(`
issuers:
  - {issuer: https://issuer.example, audiences: [api], jwks: /nowhere}
  - {issuer: https://events.example, audiences: [none], jwks: /nowhere}
introspection:
  - {name: login, endpoint: "https://login.example/i", issuer: "https://login.example", audiences: [api], client_id: b, client_secret_file: %[1]q}
  - {name: unused, endpoint: "https://unused.example/i", issuer: "https://unused.example", audiences: [api], client_id: b, client_secret_file: %[1]q}
store: %[2]q
resource: {resource: https://api.example}
api: {events: {audiences: [here], speaks_for: {https://events.example: [https://issuer.example]}}}
routes: [%[3]s]
`, secret, "sqlite://"+filepath.Join(t.TempDir(), "r.db"), routes)), nil)
		require.NoError(t, err)
		c, _ := coreOf(t, s)
		assert.Equal(t, want, s.accessTokenIssuers(c.routes.Load(), c.rules.introspectors.ByName()), routes)
	}
}
