package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
)

// doors is a bench with two real issuers, a verifier of their tokens, and
// every door open.
type doors struct {
	*bench
	a, b     *authztest.Issuer
	verifier *issuer.Verifier
	keys     []string // files
}

const (
	logoutAud = "shop"
	eventsAud = "https://bouncer.example/ssf"
)

func newDoors(t *testing.T, change func(*Options)) *doors {
	t.Helper()
	d := &doors{
		a: authztest.NewIssuer(authztest.Offline(), authztest.Named(issuerA)),
		b: authztest.NewIssuer(authztest.Offline(), authztest.Named(issuerB)),
	}
	var configs []issuer.Config
	for _, iss := range []*authztest.Issuer{d.a, d.b} {
		path := filepath.Join(t.TempDir(), "jwks.json")
		require.NoError(t, os.WriteFile(path, iss.JWKS(), 0o600))
		configs = append(configs, issuer.Config{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: path})
		d.keys = append(d.keys, path)
	}
	var err error
	d.verifier, err = issuer.NewVerifier(configs, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(d.verifier.Close)
	require.NoError(t, d.verifier.Refresh(t.Context()))
	d.bench = newBench(t, func(o *Options) {
		o.Issuers = []string{issuerA, issuerB}
		o.Verifier = d.verifier
		o.Config.Logout.Audiences = []string{logoutAud}
		o.Config.Events.Audiences = []string{eventsAud}
		o.Config.Keycloak = KeycloakConfig{Issuer: issuerA, Clients: []string{"shop-backend"}}
		o.Resource = metadata()
		if change != nil {
			change(o)
		}
	})
	return d
}

// metadata is the document of a resource with everything it can say, as the
// product makes it.
func metadata() *Resource {
	c := policy.ResourceConfig{
		Resource: "https://api.example", AuthorizationServers: []string{issuerA}, ScopesSupported: []string{"read"}, Name: "Shop",
		Documentation: "https://api.example/docs", Policy: "https://api.example/policy", TermsOfService: "https://api.example/terms",
	}
	document := func() ([]byte, error) { return policy.ResourceMetadata(c, policy.New(), nil) }
	return &Resource{Path: policy.ResourceMetadataPath(c), Document: document}
}

// revokes reports whether what is stored revokes the token.
func (d *doors) revokes(token string) bool {
	d.t.Helper()
	t, err := d.verifier.Verify(d.t.Context(), token)
	require.NoError(d.t, err)
	return slices.ContainsFunc(d.ledger.all(), func(r authz.Revocation) bool {
		e := r.Entry()
		return slices.Contains(t.Keys, e.Key) && e.Revokes(t.IssuedAt) && e.Expires > t.Expires
	})
}

func (d *doors) post(path, contentType, body string, header ...string) *recorder {
	return d.do("POST", path, body, append([]string{"Content-Type", contentType}, header...)...)
}

func formBody(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v.Encode()
}

const formType = "application/x-www-form-urlencoded"

func ago(d time.Duration) int64 { return time.Now().Add(-d).Unix() }

type claims = map[string]any

func TestOAuthRevoke(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	unfetched := authztest.With(authztest.NewKey("ES256"))
	old := claims{"exp": ago(time.Hour), "iat": ago(2 * time.Hour)}
	for name, c := range map[string]struct {
		token  string
		status int
		code   string
		stored bool
	}{
		"good":               {d.a.Mint(nil), 200, "", true},
		"good, other issuer": {d.b.Mint(nil), 200, "", true},
		"without jti":        {d.a.Mint(claims{"jti": nil}), 200, "", true},
		"not yet valid":      {d.a.Mint(claims{"nbf": time.Now().Add(2 * time.Minute).Unix()}), 200, "", true},
		"expired":            {d.a.Mint(old), 200, "", false},
		"tampered":           {d.a.Mint(nil, authztest.Tampered()), 200, "", false},
		"unknown issuer":     {d.a.Mint(claims{"iss": "https://c.example"}), 200, "", false},
		// A sidecar that has fetched the issuer's next key already may accept it.
		"unknown key":          {d.a.Mint(nil, unfetched), 200, "", true},
		"unknown key, expired": {d.a.Mint(old, unfetched), 200, "", false},
		"unknown key, just expired, which a leeway accepts": {d.a.Mint(claims{"exp": ago(time.Minute)}, unfetched), 200, "", true},
		"unknown key, without exp":                          {d.a.Mint(claims{"exp": nil}, unfetched), 200, "", false},
		"unnamed key":                                       {d.a.Mint(nil, authztest.Header("kid", nil), authztest.Tampered()), 200, "", false},
		"unnamed key, expired":                              {d.a.Mint(old, authztest.Header("kid", nil), authztest.Tampered()), 200, "", false},
		"opaque":                                            {"2YotnFZFEjr1zCsicMWpAA", 400, "unsupported_token_type", false},
		"empty":                                             {"", 400, "invalid_request", false},
		"dots":                                              {"..", 400, "unsupported_token_type", false},
		"very long":                                         {strings.Repeat("a", 32<<10) + ".a.a", 400, "unsupported_token_type", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := &doors{a: d.a, b: d.b, verifier: d.verifier} // a ledger of its own
			one.bench = newBench(t, func(o *Options) { o.Issuers = []string{issuerA, issuerB}; o.Verifier = d.verifier })
			w := one.post("/oauth2/revoke", formType, formBody("token", c.token, "token_type_hint", "access_token"))
			require.Equal(t, c.status, w.Code, w.Body)
			if c.code != "" {
				assert.Contains(t, w.Body.String(), `"error":"`+c.code+`"`)
			} else {
				assert.Empty(t, w.Body.String())
			}
			assert.Equal(t, c.stored, len(one.ledger.all()) == 1)
			if _, err := d.verifier.Verify(t.Context(), c.token); c.stored && err == nil {
				assert.True(t, one.revokes(c.token))
			} else if c.stored {
				assert.Equal(t, authz.TokenValue(c.token), one.ledger.all()[0].Value, "not good here and now")
			}
			assert.NotContains(t, one.log.String(), "eyJ", "no token in a log")
		})
	}
}

func TestOAuthRevokeClients(t *testing.T) {
	t.Parallel()
	file := secretFile(t, "s3cret:with/odd+chars%\nsecond-valid-secret\n")
	clients := func(o *Options) { o.Config.Clients = []ClientConfig{{ID: "shop app", SecretFile: file}} }
	closed := func(o *Options) { clients(o); withToken(secretFile(t, apiToken))(o) }
	basic := func(id, secret string) string {
		r := (&bench{}).request("POST", "/", "")
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
		return r.Header.Get("Authorization")
	}
	for name, c := range map[string]struct {
		setup  func(*Options)
		header string
		form   []string
		claims claims
		status int
		code   string
		actor  string
	}{
		"basic":                   {closed, basic("shop app", "s3cret:with/odd+chars%"), nil, nil, 200, "", "client:shop app"},
		"second secret":           {closed, basic("shop app", "second-valid-secret"), nil, nil, 200, "", "client:shop app"},
		"post":                    {closed, "", []string{"client_id", "shop app", "client_secret", "second-valid-secret"}, nil, 200, "", "client:shop app"},
		"own token":               {closed, basic("shop app", "second-valid-secret"), nil, claims{"client_id": "shop app"}, 200, "", "client:shop app"},
		"another's token":         {closed, basic("shop app", "second-valid-secret"), nil, claims{"client_id": "bank app"}, 400, "unauthorized_client", ""},
		"another's, by azp":       {closed, basic("shop app", "second-valid-secret"), nil, claims{"azp": "bank app"}, 400, "unauthorized_client", ""},
		"own, azp is another's":   {closed, basic("shop app", "second-valid-secret"), nil, claims{"client_id": "shop app", "azp": "bank app"}, 200, "", "client:shop app"},
		"another's, for later":    {closed, basic("shop app", "second-valid-secret"), nil, claims{"client_id": "bank app", "nbf": ago(-time.Minute)}, 400, "unauthorized_client", ""},
		"own, for later":          {closed, basic("shop app", "second-valid-secret"), nil, claims{"client_id": "shop app", "nbf": ago(-time.Minute)}, 200, "", "client:shop app"},
		"API token, for later":    {closed, "Bearer " + apiToken, nil, claims{"client_id": "bank app", "nbf": ago(-time.Minute)}, 200, "", "api:token-1"},
		"API token":               {closed, "Bearer " + apiToken, nil, claims{"client_id": "bank app"}, 200, "", "api:token-1"},
		"loopback":                {clients, "", nil, nil, 200, "", "local"},
		"nobody":                  {closed, "", nil, nil, 401, "invalid_client", ""},
		"wrong secret":            {closed, basic("shop app", "second-valid-secreT"), nil, nil, 401, "invalid_client", ""},
		"wrong secret, loopback":  {clients, basic("shop app", "second-valid-secreT"), nil, nil, 401, "invalid_client", ""},
		"unknown client":          {closed, basic("bank app", "second-valid-secret"), nil, nil, 401, "invalid_client", ""},
		"empty secret":            {closed, basic("shop app", ""), nil, nil, 401, "invalid_client", ""},
		"bad escape":              {closed, "Basic JXp6OiV6eg==", nil, nil, 401, "invalid_client", ""},
		"wrong API token":         {closed, "Bearer wrong-wrong-wrong-wrong", nil, nil, 401, "invalid_client", ""},
		"two ways":                {closed, basic("shop app", "second-valid-secret"), []string{"client_id", "shop app", "client_secret", "second-valid-secret"}, nil, 400, "invalid_request", ""},
		"another client_id":       {closed, basic("shop app", "second-valid-secret"), []string{"client_id", "bank app"}, nil, 400, "invalid_request", ""},
		"parameter twice":         {closed, basic("shop app", "second-valid-secret"), []string{"token", "x"}, nil, 400, "invalid_request", ""},
		"client_id alone":         {closed, "", []string{"client_id", "shop app"}, nil, 401, "invalid_client", ""},
		"post with an empty text": {closed, "", []string{"client_id", "", "client_secret", ""}, nil, 401, "invalid_client", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t, c.setup)
			token := d.a.Mint(c.claims)
			w := d.post("/oauth2/revoke", formType, formBody(append([]string{"token", token}, c.form...)...), "Authorization", c.header)
			require.Equal(t, c.status, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.code)
			require.Equal(t, c.status == 200, len(d.ledger.all()) == 1)
			if c.status == 200 && c.claims["nbf"] == nil { // one for later cannot be verified now
				assert.True(t, d.revokes(token))
			}
			if c.actor != "" {
				assert.Equal(t, c.actor, d.ledger.all()[0].Actor)
			}
			if c.status == 401 {
				assert.Contains(t, w.Header().Get("WWW-Authenticate"), "Basic")
			}
			assert.NotContains(t, d.log.String(), "secret")
		})
	}
}

func TestOAuthRevokeFromOtherSites(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	body := formBody("token", d.a.Mint(nil))
	assert.Equal(t, 403, d.post("/oauth2/revoke", formType, body, "Sec-Fetch-Site", "cross-site").Code)
	assert.Equal(t, 403, d.post("/oauth2/revoke", formType, body, "Origin", "https://evil.example").Code)
	assert.Equal(t, 403, d.post("/oauth2/revoke", formType, body, "Host", "evil.example").Code)
	assert.Equal(t, 415, d.post("/oauth2/revoke", "text/plain", body).Code)
	assert.Equal(t, 400, d.post("/oauth2/revoke", formType, "token=%zz").Code)
	assert.Equal(t, 413, d.post("/oauth2/revoke", formType, "token="+strings.Repeat("a", maxForm)).Code)
	assert.Empty(t, d.ledger.all())
}

func (d *doors) logoutToken(change claims, how ...authztest.Minting) string {
	all := claims{"aud": logoutAud, "sub": "bob", "sid": "s-1", "events": claims{logoutEvent: claims{}}}
	for k, v := range change {
		all[k] = v
	}
	return d.a.Mint(all, append([]authztest.Minting{authztest.Header("typ", "logout+jwt"), authztest.Lifetime(2 * time.Minute)}, how...)...)
}

func TestBackchannelLogout(t *testing.T) {
	t.Parallel()
	keys := newDoors(t, nil)
	event := func(v any) claims { return claims{"events": v} }
	for name, c := range map[string]struct {
		token string
		says  string // empty: taken
	}{
		"sid and sub":        {keys.logoutToken(nil), ""},
		"sub alone":          {keys.logoutToken(claims{"sid": nil}), ""},
		"sid alone":          {keys.logoutToken(claims{"sub": nil}), ""},
		"typ JWT":            {keys.logoutToken(nil, authztest.Header("typ", "JWT")), ""},
		"no typ":             {keys.logoutToken(nil, authztest.Header("typ", nil)), ""},
		"several audiences":  {keys.logoutToken(claims{"aud": []string{"x", logoutAud}}), ""},
		"another event too":  {keys.logoutToken(event(claims{logoutEvent: claims{}, "urn:x": 1})), ""},
		"signature":          {keys.logoutToken(nil, authztest.Tampered()), "bad_signature"},
		"issuer":             {keys.logoutToken(claims{"iss": "https://c.example"}), "unknown_issuer"},
		"audience":           {keys.logoutToken(claims{"aud": "api"}), "wrong_audience"},
		"no audience":        {keys.logoutToken(claims{"aud": nil}), "wrong_audience"},
		"expired":            {keys.logoutToken(claims{"iat": ago(3 * time.Minute), "exp": ago(time.Minute)}), "expired"},
		"no exp":             {keys.logoutToken(claims{"exp": nil}), "bad_claim"},
		"no iat":             {keys.logoutToken(claims{"iat": nil}), "iat is missing"},
		"stale":              {keys.logoutToken(claims{"iat": ago(6 * time.Minute)}), "too old"},
		"from the future":    {keys.logoutToken(claims{"iat": time.Now().Add(time.Minute).Unix()}), "not_yet_valid"},
		"no jti":             {keys.logoutToken(claims{"jti": nil}), "jti is missing"},
		"nonce":              {keys.logoutToken(claims{"nonce": "n"}), "nonce"},
		"empty nonce":        {keys.logoutToken(claims{"nonce": ""}), "nonce"},
		"null nonce":         {keys.logoutToken(claims{"nonce": json.RawMessage("null")}), "nonce"},
		"no events":          {keys.logoutToken(event(nil)), "events"},
		"events a string":    {keys.logoutToken(event(logoutEvent)), "events"},
		"events an array":    {keys.logoutToken(event([]string{logoutEvent})), "events"},
		"event not object":   {keys.logoutToken(event(claims{logoutEvent: true})), "events"},
		"event null":         {keys.logoutToken(event(claims{logoutEvent: json.RawMessage("null")})), "events"},
		"another event":      {keys.logoutToken(event(claims{caep + "session-revoked": claims{}})), "events"},
		"neither sub or sid": {keys.logoutToken(claims{"sub": nil, "sid": nil}), "neither"},
		"an access token":    {keys.a.Mint(claims{"aud": logoutAud}), "events"},
		"at+jwt":             {keys.logoutToken(nil, authztest.Header("typ", "at+jwt")), "unsupported_token"},
		"a SET":              {keys.logoutToken(nil, authztest.Header("typ", "secevent+jwt")), "unsupported_token"},
		"garbage":            {"x", "malformed"},
		"none":               {"", "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t, func(o *Options) { o.Verifier = keys.verifier; withToken(secretFile(t, apiToken))(o) })
			d.verifier = keys.verifier
			mine := keys.a.Mint(claims{"sub": "bob", "sid": "s-1", "iat": ago(time.Minute)})
			others := keys.a.Mint(claims{"sub": "eve", "sid": "s-2", "iat": ago(time.Minute)})
			w := d.post("/oidc/backchannel-logout", formType, formBody("logout_token", c.token))
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			assert.NotContains(t, d.log.String(), "eyJ")
			if c.says == "" {
				require.Equal(t, 200, w.Code, w.Body)
				assert.True(t, d.revokes(mine))
				assert.False(t, d.revokes(others))
				assert.False(t, d.revokes(keys.a.Mint(claims{"sub": "bob", "sid": "s-3", "iat": time.Now().Add(5 * time.Second).Unix()})), "logging in again works")
				assert.Equal(t, "logout:"+issuerA, d.ledger.all()[0].Actor)
				return
			}
			require.Equal(t, 400, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.says)
			assert.Contains(t, w.Body.String(), `"error":"invalid_request"`)
			assert.Empty(t, d.ledger.all())
		})
	}
}

func TestBackchannelLogoutReplay(t *testing.T) {
	t.Parallel()
	d := newDoors(t, func(o *Options) { o.Config.Logout.AlsoSubject = true })
	body := formBody("logout_token", d.logoutToken(nil))
	d.ledger.setFail(authz.ErrUnavailable)
	w := d.post("/oidc/backchannel-logout", formType, body)
	require.Equal(t, 503, w.Code)
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	d.ledger.setFail(nil)
	require.Equal(t, 200, d.post("/oidc/backchannel-logout", formType, body).Code, "what failed may be repeated")
	require.Len(t, d.ledger.all(), 2, "session and subject")
	w = d.post("/oidc/backchannel-logout", formType, body)
	require.Equal(t, 400, w.Code)
	assert.Contains(t, w.Body.String(), "jti")

	// The same jti from another issuer is another message.
	d.a = d.b
	require.Equal(t, 200, d.post("/oidc/backchannel-logout", formType, formBody("logout_token", d.logoutToken(nil))).Code)
}

func TestDoorsClosed(t *testing.T) {
	t.Parallel()
	d := newDoors(t, func(o *Options) {
		o.Config.Logout.Audiences, o.Config.Events.Audiences, o.Config.Keycloak.Clients = nil, nil, nil
	})
	for _, path := range []string{"/oidc/backchannel-logout", "/ssf/events", "/keycloak/k_logout"} {
		assert.Equal(t, 404, d.post(path, formType, "").Code, path)
	}
	for _, o := range []func(*Options){
		func(o *Options) { o.Config.Keycloak = KeycloakConfig{Clients: []string{"c"}} },
		func(o *Options) {
			o.Config.Keycloak = KeycloakConfig{Clients: []string{"c"}, Issuer: "https://c.example"}
		},
		func(o *Options) { o.Config.Events.SpeaksFor = map[string][]string{"https://c.example": {issuerA}} },
		func(o *Options) { o.Config.Events.SpeaksFor = map[string][]string{issuerA: {"https://c.example"}} },
	} {
		options := d.o
		o(&options)
		_, err := New(options)
		assert.Error(t, err)
	}
}

func TestKeysUnavailableIsNoRefusal(t *testing.T) {
	t.Parallel()
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: issuerA, Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none")}}, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	d := newDoors(t, func(o *Options) { o.Verifier = v })
	for _, w := range []*recorder{
		d.post("/oauth2/revoke", formType, formBody("token", d.a.Mint(nil))),
		d.post("/oidc/backchannel-logout", formType, formBody("logout_token", d.logoutToken(nil))),
		d.post("/ssf/events", setType, d.set(nil)),
		d.post("/keycloak/k_logout", "text/plain", d.action(nil)),
	} {
		assert.Equal(t, 503, w.Code, w.Body)
		assert.NotEmpty(t, w.Header().Get("Retry-After"))
	}
}

// keysAway makes the issuers' keys unavailable; those at hand stay in use.
func (d *doors) keysAway() {
	d.t.Helper()
	for _, path := range d.keys {
		require.NoError(d.t, os.Remove(path))
	}
}

// The issuer may sign with a key that cannot be fetched for now. Where the keys
// were fetched just now, one that is not among them is none.
func TestUnknownKeyIsNoRefusal(t *testing.T) {
	t.Parallel()
	key := authztest.With(authztest.NewKey("ES256"))
	old := claims{"iat": ago(2 * time.Hour), "exp": ago(time.Hour)}
	for _, away := range []bool{false, true} {
		d := newDoors(t, nil)
		want := 400
		if away {
			want = 503
			d.keysAway()
		}
		for door, w := range map[string]*recorder{
			"logout token": d.post("/oidc/backchannel-logout", formType, formBody("logout_token", d.logoutToken(nil, key))),
			"event":        d.post("/ssf/events", setType, d.set(nil, key)),
			"action":       d.post("/keycloak/k_logout", "text/plain", d.action(nil, key)),
		} {
			assert.Equal(t, want, w.Code, "keys away: %t, %s: %s", away, door, w.Body)
			assert.Equal(t, away, w.Header().Get("Retry-After") != "", door)
		}
		for door, w := range map[string]*recorder{
			"logout token": d.post("/oidc/backchannel-logout", formType, formBody("logout_token", d.logoutToken(old, key))),
			"event":        d.post("/ssf/events", setType, d.set(old, key)),
		} {
			assert.Equal(t, 400, w.Code, "%s that has expired: %s", door, w.Body)
		}
		assert.Empty(t, d.ledger.all())
		// What a token is needs no key: it ends wherever it would be good.
		token := d.a.Mint(nil, key)
		assert.Equal(t, 200, d.post("/oauth2/revoke", formType, formBody("token", token)).Code)
		if all := d.ledger.all(); assert.Len(t, all, 1) {
			assert.Equal(t, authz.TokenValue(token), all[0].Value)
			assert.Equal(t, issuerA, all[0].Issuer)
		}
	}
}

func (d *doors) action(change claims, how ...authztest.Minting) string {
	all := claims{"iss": nil, "sub": nil, "aud": nil, "iat": nil, "exp": nil, "jti": nil,
		"id": "7a793249-1569530018915", "expiration": time.Now().Add(30 * time.Second).Unix(), "resource": "shop-backend",
		"action": "LOGOUT", "adapterSessionIds": []string{"01kMTLenWUextmhG1n61qn7hNd"}, "notBefore": 0,
		"keycloakSessionIds": []string{"s-1"}}
	for k, v := range change {
		all[k] = v
	}
	return d.a.Mint(all, how...)
}

func TestKeycloakActions(t *testing.T) {
	t.Parallel()
	push := claims{"action": "PUSH_NOT_BEFORE", "notBefore": ago(10 * time.Second), "keycloakSessionIds": nil, "adapterSessionIds": nil}
	with := func(base, change claims) claims {
		out := claims{}
		for _, m := range []claims{base, change} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		path   string
		change claims
		status int
		stored int
	}{
		"logout":                          {"k_logout", nil, 204, 1},
		"logout of all":                   {"k_logout", claims{"keycloakSessionIds": nil, "adapterSessionIds": nil, "notBefore": ago(10 * time.Second)}, 204, 1},
		"not before":                      {"k_push_not_before", push, 204, 1},
		"not before cleared":              {"k_push_not_before", with(push, claims{"notBefore": 0}), 204, 0},
		"available":                       {"k_test_available", with(push, claims{"action": "TEST_AVAILABILITY", "notBefore": nil}), 204, 0},
		"wrong address":                   {"k_test_available", nil, 400, 0},
		"expired":                         {"k_logout", claims{"expiration": ago(time.Second)}, 400, 0},
		"no expiration":                   {"k_logout", claims{"expiration": nil}, 400, 0},
		"forever":                         {"k_logout", claims{"expiration": time.Now().Add(48 * time.Hour).Unix()}, 400, 0},
		"another client":                  {"k_logout", claims{"resource": "bank"}, 400, 0},
		"no id":                           {"k_logout", claims{"id": nil}, 400, 0},
		"an access token with the claims": {"k_logout", claims{"iss": issuerA, "exp": time.Now().Add(time.Minute).Unix()}, 400, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t, nil)
			w := d.post("/keycloak/"+c.path, "text/plain; charset=UTF-8", d.action(c.change))
			require.Equal(t, c.status, w.Code, w.Body)
			require.Len(t, d.ledger.all(), c.stored)
			if c.stored > 0 {
				assert.True(t, d.revokes(d.a.Mint(claims{"sid": "s-1", "iat": ago(20 * time.Second)})))
				assert.False(t, d.revokes(d.b.Mint(claims{"sid": "s-1", "iat": ago(20 * time.Second)})), "another issuer's")
				assert.False(t, d.revokes(d.a.Mint(claims{"sid": "s-2"})))
			}
		})
	}
	d := newDoors(t, nil)
	d.a = d.b
	assert.Equal(t, 400, d.post("/keycloak/k_logout", "text/plain", d.action(nil)).Code, "signed by another issuer")
	assert.Empty(t, d.ledger.all())
	d = newDoors(t, nil)
	d.ledger.setFail(authz.ErrUnavailable)
	assert.Equal(t, 503, d.post("/keycloak/k_logout", "text/plain", d.action(nil)).Code)
}

const setType = "application/secevent+jwt"

func (d *doors) set(change claims, how ...authztest.Minting) string {
	all := claims{"aud": eventsAud, "sub": nil, "exp": nil,
		"sub_id": claims{"format": "iss_sub", "iss": d.a.Name, "sub": "bob"},
		"events": claims{caep + "session-revoked": claims{}}}
	for k, v := range change {
		all[k] = v
	}
	return d.a.Mint(all, append([]authztest.Minting{authztest.Header("typ", "secevent+jwt")}, how...)...)
}

func events(name string, payload claims) claims { return claims{"events": claims{name: payload}} }

func TestSecurityEvents(t *testing.T) {
	t.Parallel()
	issSub := func(iss, sub string) claims { return claims{"format": "iss_sub", "iss": iss, "sub": sub} }
	opaque := func(id string) claims { return claims{"format": "opaque", "id": id} }
	sub := func(v any) claims { return claims{"sub_id": v} }
	join := func(all ...claims) claims {
		out := claims{}
		for _, m := range all {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	yes, no := true, false
	for name, c := range map[string]struct {
		change  claims
		says    string // empty: 202
		revokes *bool  // the token of bob in session s-1 with jti j-1
	}{
		"session-revoked, user":          {nil, "", &yes},
		"session-revoked, opaque":        {sub(opaque("s-1")), "", &yes},
		"session-revoked, other session": {sub(opaque("s-2")), "", &no},
		"session-revoked, complex":       {sub(claims{"format": "complex", "session": opaque("s-1"), "user": issSub(issuerA, "someone else"), "tenant": opaque("t")}), "", &yes},
		"session-revoked, user + device": {sub(claims{"format": "complex", "user": issSub(issuerA, "bob"), "device": opaque("d")}), "", &yes},
		"complex without format":         {sub(claims{"user": issSub(issuerA, "bob")}), "", &yes},
		"complex, opaque user":           {sub(claims{"format": "complex", "user": opaque("bob")}), "", &yes},
		"subject inside the event":       {join(sub(nil), events(caep+"session-revoked", claims{"subject": issSub(issuerA, "bob")})), "", &yes},
		"legacy RISC subject":            {join(sub(nil), events(risc+"account-disabled", claims{"subject": claims{"subject_type": "iss-sub", "iss": issuerA, "sub": "bob"}})), "", &yes},
		"aliases":                        {sub(claims{"format": "aliases", "identifiers": []any{claims{"format": "email", "email": "b@x"}, issSub(issuerA, "bob")}}), "", &yes},
		"jwt_id":                         {join(sub(claims{"format": "jwt_id", "iss": issuerA, "jti": "j-1"}), events(caep+"token-claims-change", claims{"claims": claims{"role": "x"}})), "", &yes},
		"token-claims-change":            {events(caep+"token-claims-change", claims{}), "", &yes},
		"password changed":               {events(caep+"credential-change", claims{"credential_type": "password", "change_type": "update"}), "", &yes},
		"credential added":               {events(caep+"credential-change", claims{"credential_type": "fido2-roaming", "change_type": "create"}), "", &no},
		"change of unknown type":         {events(caep+"credential-change", claims{"credential_type": "password"}), "", &yes},
		"account-disabled":               {events(risc+"account-disabled", claims{"reason": "hijacking"}), "", &yes},
		"account-purged":                 {events(risc+"account-purged", claims{}), "", &yes},
		"sessions-revoked":               {events(risc+"sessions-revoked", claims{}), "", &yes},
		"credential-compromise":          {events(risc+"credential-compromise", claims{}), "", &yes},
		"account-enabled":                {events(risc+"account-enabled", claims{}), "", &no},
		"verification":                   {join(sub(opaque("stream-1")), events(ssf+"verification", claims{"state": "x"})), "", &no},
		"unknown event":                  {events("https://example.com/event", claims{}), "", &no},
		"two subjects of two events":     {join(sub(nil), claims{"events": claims{caep + "session-revoked": claims{"subject": issSub(issuerA, "bob")}, risc + "account-disabled": claims{"subject": issSub(issuerA, "eve")}}}), "", &yes},
		"two events":                     {claims{"events": claims{"urn:x": claims{}, risc + "account-purged": claims{}}}, "", &yes},
		"happened before the token":      {events(caep+"session-revoked", claims{"event_timestamp": ago(time.Hour)}), "", &no},
		"the same in milliseconds":       {events(caep+"session-revoked", claims{"event_timestamp": ago(time.Hour) * 1000}), "", &no},
		"toe before the token":           {claims{"toe": ago(time.Hour)}, "", &no},
		"claims to be from the future":   {events(caep+"session-revoked", claims{"event_timestamp": time.Now().Add(time.Hour).Unix()}), "", &yes},
		"another issuer's user":          {sub(issSub(issuerB, "bob")), "invalid_request", &no},
		"another issuer's token":         {sub(claims{"format": "jwt_id", "iss": issuerB, "jti": "j-1"}), "invalid_request", &no},
		"email":                          {sub(claims{"format": "email", "email": "bob@example.com"}), "invalid_request", &no},
		"email, no effect":               {join(sub(claims{"format": "email", "email": "b@x"}), events(risc+"account-enabled", claims{})), "", &no},
		"aliases of nobody":              {sub(claims{"format": "aliases", "identifiers": []any{claims{"format": "email", "email": "b@x"}}}), "invalid_request", &no},
		"tenant only":                    {sub(claims{"format": "complex", "tenant": opaque("t")}), "invalid_request", &no},
		"nested for ever":                {sub(claims{"format": "complex", "user": claims{"format": "complex", "user": claims{"format": "complex", "user": claims{"format": "complex", "user": issSub(issuerA, "bob")}}}}), "invalid_request", &no},
		"empty sub":                      {sub(issSub(issuerA, "")), "invalid_request", &no},
		"NUL in sub":                     {sub(issSub(issuerA, "a\x00")), "invalid_request", &no},
		"subject a string":               {sub("bob"), "invalid_request", &no},
		"no subject":                     {sub(nil), "invalid_request", &no},
		"only one of two has a subject":  {join(sub(nil), claims{"events": claims{caep + "session-revoked": claims{"subject": issSub(issuerA, "bob")}, risc + "account-disabled": claims{}}}), "invalid_request", &no},
		"no jti":                         {claims{"jti": nil}, "invalid_request", &no},
		"no events":                      {claims{"events": claims{}}, "invalid_request", &no},
		"event not an object":            {claims{"events": claims{caep + "session-revoked": "x"}}, "invalid_request", &no},
		"audience":                       {claims{"aud": "api"}, "invalid_audience", &no},
		"issuer":                         {claims{"iss": "https://c.example"}, "invalid_issuer", &no},
		"neither iat nor exp":            {claims{"iat": nil}, "invalid_request", &no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t, nil)
			token := d.a.Mint(claims{"sub": "bob", "sid": "s-1", "jti": "j-1", "iat": ago(time.Minute)})
			w := d.post("/ssf/events", setType, d.set(c.change))
			if c.says == "" {
				require.Equal(t, 202, w.Code, w.Body)
				assert.Empty(t, w.Body.String())
			} else {
				require.Equal(t, 400, w.Code, w.Body)
				assert.Contains(t, w.Body.String(), `"err":"`+c.says+`"`)
				assert.Contains(t, w.Body.String(), `"description":"`)
			}
			assert.Equal(t, *c.revokes, d.revokes(token))
			for _, r := range d.ledger.all() {
				assert.Equal(t, issuerA, r.Issuer)
				assert.LessOrEqual(t, r.NotBefore.Unix(), time.Now().Unix()+1, "nobody is locked out of the future")
			}
		})
	}
}

func TestSecurityEventSignatureAndType(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	other := authztest.NewIssuer(authztest.Offline(), authztest.Named(issuerA))
	for says, token := range map[string]string{
		"authentication_failed": d.set(nil, authztest.Tampered()),
		"invalid_key":           d.set(claims{"exp": ago(time.Hour), "iat": ago(2 * time.Hour)}, authztest.With(other.Key(""))),
		"unsupported_token":     d.set(nil, authztest.Header("typ", "JWT")),
		"malformed_token":       "x.y",
	} {
		w := d.post("/ssf/events", setType, token)
		assert.Equal(t, 400, w.Code)
		assert.Contains(t, w.Body.String(), says)
	}
	for status, w := range map[int]*httptest.ResponseRecorder{
		400: d.post("/ssf/events", setType, d.set(claims{"jti": nil})),
		415: d.post("/ssf/events", "application/json", d.set(nil)),
		413: d.post("/ssf/events", setType, strings.Repeat("a", maxForm+1)),
	} {
		assert.Equal(t, status, w.Code)
		assert.Equal(t, "en", w.Header().Get("Content-Language"), "RFC 8935, section 2.3: the language of the description")
	}
	assert.Empty(t, d.ledger.all())
}

func TestSecurityEventRepeated(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	event := d.set(nil)
	d.ledger.setFail(authz.ErrOutcomeUnknown)
	assert.Equal(t, 504, d.post("/ssf/events", setType, event).Code)
	d.ledger.setFail(nil)
	assert.Equal(t, 202, d.post("/ssf/events", setType, event).Code)
	assert.Equal(t, 202, d.post("/ssf/events", setType, event).Code, "acknowledged like the first")
	assert.Len(t, d.ledger.all(), 1)
	assert.Contains(t, d.do("GET", "/metrics", "").Body.String(), `jwt_bouncer_security_events_total{outcome="repeated"} 1`)
}

func TestTransmitterSpeaksForAnother(t *testing.T) {
	t.Parallel()
	d := newDoors(t, func(o *Options) { o.Config.Events.SpeaksFor = map[string][]string{issuerA: {issuerB}} })
	tokens := d.b.Mint(claims{"sub": "bob"})
	for i, iss := range []string{issuerA, issuerB} {
		require.Equal(t, 202, d.post("/ssf/events", setType, d.set(claims{"sub_id": claims{"format": "iss_sub", "iss": iss, "sub": "bob"}})).Code)
		assert.True(t, d.revokes(tokens), fmt.Sprint(i))
	}
	d.a, d.b = d.b, d.a
	assert.Equal(t, 400, d.post("/ssf/events", setType, d.set(claims{"sub_id": claims{"format": "iss_sub", "iss": issuerA, "sub": "bob"}})).Code, "not the other way round")
}

func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	r := newRecent(time.Minute)
	start := time.Now()
	for i := range maxRecent + 10 {
		r.add(messageID("i", fmt.Sprint(i)), start)
	}
	assert.Len(t, r.seen, maxRecent)
	assert.Len(t, r.order, maxRecent)
	assert.False(t, r.has(messageID("i", "0"), start))
	assert.True(t, r.has(messageID("i", "10"), start))
	assert.False(t, r.has(messageID("i", "10"), start.Add(2*time.Minute)))
	assert.Empty(t, r.seen)
}

// A message under a key that is gone is not repeated for ever: a security event
// has no exp (RFC 8417, section 2.2), and is over a day after it was made.
func TestOldMessagesUnderAGoneKey(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	d.keysAway()
	gone := authztest.With(authztest.NewKey("ES256"))
	for age, want := range map[time.Duration]int{time.Minute: 503, 23 * time.Hour: 503, 25 * time.Hour: 400, 365 * 24 * time.Hour: 400} {
		w := d.post("/ssf/events", setType, d.set(claims{"iat": ago(age)}, gone))
		assert.Equal(t, want, w.Code, "an event %s old: %s", age, w.Body)
	}
	old := ago(365 * 24 * time.Hour)
	w := d.post("/oidc/backchannel-logout", formType, formBody("logout_token", d.logoutToken(claims{"exp": nil, "iat": old}, gone)))
	assert.Equal(t, 400, w.Code, "logout token without exp: %s", w.Body)
	w = d.post("/oauth2/revoke", formType, formBody("token", d.a.Mint(claims{"exp": nil, "iat": old}, gone)))
	assert.Equal(t, 200, w.Code, "token without exp: %s", w.Body)
}

// RFC 8417, section 2.2: iat is required; without it nothing says which tokens
// an event is about.
func TestSecurityEventWithoutIAT(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	w := d.post("/ssf/events", setType, d.set(claims{
		"iat": nil, "exp": time.Now().Add(time.Minute).Unix(), "events": claims{caep + "token-claims-change": claims{}},
	}))
	assert.Equal(t, 400, w.Code, w.Body.String())
	assert.Contains(t, w.Body.String(), "invalid_request")
	assert.Empty(t, d.ledger.all())
}

// "expiration" is Keycloak's name in its admin actions; an access token may
// mean anything by it.
func TestRevokeTokenWithAForeignExpirationClaim(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	token := d.a.Mint(claims{"expiration": "2030-01-01"})
	_, err := d.verifier.Verify(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, 200, d.post("/oauth2/revoke", formType, formBody("token", token)).Code, "RFC 7009")
	w := d.do("POST", "/v1/revocations", `{"token":"`+token+`"}`)
	assert.Equal(t, 201, w.Code, w.Body.String())
}
