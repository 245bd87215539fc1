package receiver_test

import (
	"context"
	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/httpapi/receiver"
	"jwtbouncer/authz/issuer"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOAuthRevoke(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	unfetched := authztest.With(authztest.NewKey("ES256"))
	old := httpapitest.Claims{"exp": httpapitest.Ago(time.Hour), "iat": httpapitest.Ago(2 * time.Hour)}
	for name, c := range map[string]struct {
		token  string
		status int
		code   string
		stored bool
	}{
		"good":                   {d.A.Mint(nil), 200, "", true},
		"good, other issuer":     {d.B.Mint(nil), 200, "", true},
		"without jti":            {d.A.Mint(httpapitest.Claims{"jti": nil}), 200, "", true},
		"not yet valid":          {d.A.Mint(httpapitest.Claims{"nbf": time.Now().Add(2 * time.Minute).Unix()}), 200, "", true},
		"expired, by this clock": {d.A.Mint(old), 200, "", true},
		// The issuer may have replaced the key under its kid since the last fetch.
		"tampered":       {d.A.Mint(nil, authztest.Tampered()), 200, "", true},
		"unknown issuer": {d.A.Mint(httpapitest.Claims{"iss": "https://c.example"}), 200, "", false},
		// A sidecar that has fetched the issuer's next key already may accept it.
		"unknown key":          {d.A.Mint(nil, unfetched), 200, "", true},
		"unknown key, expired": {d.A.Mint(old, unfetched), 200, "", true},
		"unknown key, just expired, which a leeway accepts": {d.A.Mint(httpapitest.Claims{"exp": httpapitest.Ago(time.Minute)}, unfetched), 200, "", true},
		"unknown key, without exp":                          {d.A.Mint(httpapitest.Claims{"exp": nil}, unfetched), 200, "", false},
		"unnamed key":                                       {d.A.Mint(nil, authztest.Header("kid", nil), authztest.Tampered()), 200, "", true},
		"alg that is never good":                            {httpapitest.UnsignedJWT(`{"iss":"`+httpapitest.IssuerA+`","exp":4000000000,"iat":1}`, "none"), 200, "", false},
		"typ of other settings":                             {d.A.Mint(nil, authztest.Header("typ", "x+jwt")), 200, "", true},
		"odd claim":                                         {d.A.Mint(httpapitest.Claims{"sub": 7}), 200, "", true},
		"long, for other limits":                            {d.A.Mint(httpapitest.Claims{"x": strings.Repeat("x", 15<<10)}), 200, "", true},
		"opaque":                                            {"2YotnFZFEjr1zCsicMWpAA", 400, "unsupported_token_type", false},
		"empty":                                             {"", 400, "invalid_request", false},
		"dots":                                              {"..", 400, "unsupported_token_type", false},
		"very long":                                         {strings.Repeat("a", 32<<10) + ".a.a", 400, "unsupported_token_type", false},
		"of another issuer, too long":                       {d.A.Mint(httpapitest.Claims{"iss": "https://c.example", "x": strings.Repeat("x", 15<<10)}), 200, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := &httpapitest.Receivers{A: d.A, B: d.B, Verifier: d.Verifier} // a ledger of its own
			one.Bench = httpapitest.New(t, func(o *httpapitest.Setup) {
				o.Issuers.Verified = []string{httpapitest.IssuerA, httpapitest.IssuerB}
				o.Verifier = d.Verifier
			})
			w := one.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", c.token, "token_type_hint", "access_token"))
			require.Equal(t, c.status, w.Code, w.Body)
			if c.code != "" {
				assert.Contains(t, w.Body.String(), `"error":"`+c.code+`"`)
			} else {
				assert.Empty(t, w.Body.String())
			}
			assert.Equal(t, c.stored, len(one.Ledger.All()) == 1)
			if _, err := d.Verifier.Verify(t.Context(), c.token); c.stored && err == nil {
				assert.True(t, one.Revokes(c.token))
			} else if c.stored {
				assert.Equal(t, authz.TokenValue(c.token), one.Ledger.All()[0].Value, "not good here and now")
			}
			assert.NotContains(t, one.Log.String(), "eyJ", "no token in a log")
		})
	}
}

// refusing is a verifier that refuses every token for one reason.
type refusing struct {
	receiver.Verifier
	failure *authz.Failure
}

func (r refusing) Verify(context.Context, string) (*authz.Token, error) { return nil, r.failure }

// RFC 7009, section 2.2: 200 means that the token is good nowhere any more. For
// every reason of a refusal, the token is stored, or it is certain that no sidecar
// will accept it, or the caller is told to repeat the request.
func TestFates(t *testing.T) {
	t.Parallel()
	nowhere := []authz.Reason{authz.ReasonUnknownIssuer}
	undecided := []authz.Reason{authz.ReasonUnset, authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal}
	elsewhere := []authz.Reason{
		authz.ReasonMalformedToken, authz.ReasonUnsupportedToken, authz.ReasonUnknownKey, authz.ReasonBadSignature, authz.ReasonExpired,
		authz.ReasonNotYetValid, authz.ReasonLifetimeTooLong, authz.ReasonWrongAudience, authz.ReasonBadClaim,
	}
	// Steps after the verifier give these. The fate of a token that they refuse is
	// elsewhere as well.
	elsewhere = append(elsewhere, authz.ReasonAllowed, authz.ReasonAllowedAnonymous, authz.ReasonNoCredential, authz.ReasonMalformedRequest, authz.ReasonRevoked,
		authz.ReasonInactive, authz.ReasonBindingMismatch, authz.ReasonInsufficientScope, authz.ReasonPolicyDenied, authz.ReasonNoRoute)
	require.ElementsMatch(t, authz.Reasons(), slices.Concat(nowhere, undecided, elsewhere), "each reason is in one of the lists")
	a := authztest.NewIssuer(authztest.Offline(), authztest.Named(httpapitest.IssuerA))
	for _, final := range []bool{false, true} {
		for _, reason := range authz.Reasons() {
			d := httpapitest.New(t, func(o *httpapitest.Setup) {
				o.Verifier = refusing{failure: &authz.Failure{Reason: reason, Final: final, Settled: true}}
			})
			token := a.Mint(nil)
			w := d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", token))
			switch stored := d.Ledger.All(); {
			case slices.Contains(undecided, reason):
				assert.Equal(t, 503, w.Code, reason)
				assert.NotEmpty(t, w.Header().Get("Retry-After"), reason)
				assert.Empty(t, stored, reason)
			case slices.Contains(nowhere, reason) || final:
				assert.Equal(t, 200, w.Code, reason)
				assert.Empty(t, stored, reason)
			default:
				assert.Equal(t, 200, w.Code, reason)
				if assert.Len(t, stored, 1, reason) {
					assert.Equal(t, authz.TokenValue(token), stored[0].Value, reason)
				}
			}
		}
	}
}

// setClock is a wall clock that is wrong by a fixed time.
type setClock struct {
	authz.SystemClock
	ahead time.Duration
}

func (c setClock) Now() time.Time { return time.Now().Add(c.ahead) }

// The row of a refused token lasts until no clock accepts the token. Forged tokens
// cannot make it last longer than max_token_ttl.
func TestOAuthRevokeExpiry(t *testing.T) {
	t.Parallel()
	keys := httpapitest.NewReceivers(t, nil)
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	forged := authztest.With(authztest.NewKey("ES256"))
	const ttl = 24 * time.Hour // of the fake ledger, too
	for name, c := range map[string]struct {
		claims httpapitest.Claims
		how    []authztest.Minting
		ahead  time.Duration // this sidecar's clock
		status int
		atMost time.Duration // from now, how long the row lasts
	}{
		"clock ahead by minutes":          {nil, nil, 11 * time.Minute, 200, 30 * time.Minute},
		"clock ahead by days":             {nil, nil, 72 * time.Hour, 200, 73 * time.Hour},
		"expired long ago":                {httpapitest.Claims{"iat": in(-48 * time.Hour), "exp": in(-47 * time.Hour)}, nil, 0, 200, 15 * time.Minute},
		"no iat, too long-lived now":      {httpapitest.Claims{"iat": nil, "exp": in(30 * time.Hour)}, nil, 0, 200, 31 * time.Hour},
		"post-dated":                      {httpapitest.Claims{"iat": in(30 * time.Hour), "exp": in(40 * time.Hour)}, nil, 0, 200, 41 * time.Hour},
		"forged":                          {nil, []authztest.Minting{forged}, 0, 200, 20 * time.Minute},
		"forged, lives too long":          {httpapitest.Claims{"exp": in(1000 * time.Hour)}, []authztest.Minting{forged}, 0, 200, ttl + time.Minute},
		"forged, no iat, short":           {httpapitest.Claims{"iat": nil, "exp": in(time.Hour)}, []authztest.Minting{forged}, 0, 200, 2 * time.Hour},
		"forged, no iat, nearly too long": {httpapitest.Claims{"iat": nil, "exp": in(ttl - time.Minute)}, []authztest.Minting{forged}, 0, 200, ttl + authz.ExpiryMargin},
		"forged, no iat, for years":       {httpapitest.Claims{"iat": nil, "exp": in(1000 * time.Hour)}, []authztest.Minting{forged}, 0, 503, 0},
		"forged, post-dated":              {httpapitest.Claims{"iat": in(30 * time.Hour), "exp": in(40 * time.Hour)}, []authztest.Minting{forged}, 0, 503, 0},
		"forged, exp beyond all times":    {httpapitest.Claims{"exp": 1e15}, []authztest.Minting{forged}, 0, 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verifier := aheadVerifier(t, keys, c.ahead)
			d := httpapitest.New(t, func(o *httpapitest.Setup) { o.Verifier, o.Clock = verifier, setClock{ahead: c.ahead} })
			token := keys.A.Mint(c.claims, c.how...)
			w := d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", token))
			require.Equal(t, c.status, w.Code, w.Body)
			stored := d.Ledger.All()
			if c.atMost == 0 {
				require.Empty(t, stored)
				return
			}
			require.Len(t, stored, 1)
			claims, _ := authz.ReadUnverifiedClaims(token)
			assert.Less(t, time.Until(stored[0].ExpiresAt), c.atMost)
			if len(c.how) == 0 || time.Until(time.Unix(int64(claims.Expires), 0)) < ttl {
				assert.Greater(t, stored[0].ExpiresAt.Unix(), int64(claims.Expires)+int64(authz.MaxLeeway.Seconds()), "the row outlives the token")
			}
		})
	}
}

// aheadVerifier returns a verifier of issuer A's tokens whose clock is ahead.
func aheadVerifier(t *testing.T, keys *httpapitest.Receivers, ahead time.Duration) *issuer.Verifier {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(path, keys.A.JWKS(), 0o600))
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: httpapitest.IssuerA, Audiences: []string{"api"}, JWKS: path}}, issuer.VerifierOptions{Clock: setClock{ahead: ahead}})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	return v
}

// A client that makes tokens up fills neither the ledger nor the replicas. Tokens
// that the issuer signed, and other clients, do not use up its allowance.
func TestOAuthRevokeFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, other := httpapitest.SecretFile(t, "the first client's secret"), httpapitest.SecretFile(t, "the second client's secret")
		verifier := &switched{err: authz.Failuref(authz.ReasonUnknownKey, "forged")}
		d := httpapitest.New(t, func(o *httpapitest.Setup) {
			o.Config.Clients = []httpapi.ClientConfig{{ID: "one", SecretFile: one}, {ID: "other", SecretFile: other}}
			o.Verifier, o.Clock = verifier, httpapitest.BubbleClock()
		})
		a := authztest.NewIssuer(authztest.Offline(), authztest.Named(httpapitest.IssuerA), authztest.Algorithms("ES256"))
		revoke := func(client, secret string) *httptest.ResponseRecorder {
			return d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", a.Mint(nil), "client_id", client, "client_secret", secret))
		}
		count := func(client, secret string, n int) (admitted int) {
			for range n {
				w := revoke(client, secret)
				if w.Code == 200 {
					admitted++
					continue
				}
				require.Equal(t, 503, w.Code, w.Body)
				require.Equal(t, "1", w.Header().Get("Retry-After"))
				require.Contains(t, w.Body.String(), `"error":"temporarily_unavailable"`)
			}
			return admitted
		}
		assert.Equal(t, 60, count("one", "the first client's secret", 400))
		assert.Len(t, d.Ledger.All(), 60)
		assert.Equal(t, 60, count("other", "the second client's secret", 100), "an allowance of its own")
		assert.InDelta(t, 280, metricOf(t, d.Metrics, "jwt_bouncer_unverified_revocations_total", "over_quota")-100, 0)
		verifier.err = nil // the issuer signed them
		assert.Equal(t, 100, count("one", "the first client's secret", 100))
		verifier.err = authz.Failuref(authz.ReasonExpired, "by this clock")
		assert.Equal(t, 100, count("one", "the first client's secret", 100))
		verifier.err = authz.Failuref(authz.ReasonBadSignature, "forged")
		time.Sleep(10 * time.Second) // of the bubble
		assert.Equal(t, 10, count("one", "the first client's secret", 100), "a minute's allowance fills evenly")
	})
}

// switched is a verifier that accepts every token of issuer A, or fails.
type switched struct {
	receiver.Verifier
	err error
}

func (s *switched) Verify(_ context.Context, raw string) (*authz.Token, error) {
	if s.err != nil {
		return nil, s.err
	}
	return &authz.Token{Raw: raw, Issuer: httpapitest.IssuerA, ID: authz.TokenValue(raw), Expires: time.Now().Add(time.Hour).Unix()}, nil
}

// metricOf returns the counter with this value of its only label.
func metricOf(t *testing.T, g prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s with label %s", name, label)
	return 0
}

func TestOAuthRevokeClients(t *testing.T) {
	t.Parallel()
	file := httpapitest.SecretFile(t, "s3cret:with/odd+chars%\nsecond-valid-secret\n")
	clients := func(o *httpapitest.Setup) {
		o.Config.Clients = []httpapi.ClientConfig{{ID: "shop app", SecretFile: file}}
	}
	closed := func(o *httpapitest.Setup) {
		clients(o)
		httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
	}
	basic := func(id, secret string) string {
		r := httpapitest.Request("POST", "/", "")
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
		return r.Header.Get("Authorization")
	}
	for name, c := range map[string]struct {
		setup  func(*httpapitest.Setup)
		header string
		form   []string
		claims httpapitest.Claims
		status int
		code   string
		actor  string
	}{
		"basic":                   {closed, basic("shop app", "s3cret:with/odd+chars%"), nil, nil, 200, "", "client:shop app"},
		"second secret":           {closed, basic("shop app", "second-valid-secret"), nil, nil, 200, "", "client:shop app"},
		"post":                    {closed, "", []string{"client_id", "shop app", "client_secret", "second-valid-secret"}, nil, 200, "", "client:shop app"},
		"own token":               {closed, basic("shop app", "second-valid-secret"), nil, httpapitest.Claims{"client_id": "shop app"}, 200, "", "client:shop app"},
		"another's token":         {closed, basic("shop app", "second-valid-secret"), nil, httpapitest.Claims{"client_id": "bank app"}, 400, "unauthorized_client", ""},
		"another's, by azp":       {closed, basic("shop app", "second-valid-secret"), nil, httpapitest.Claims{"azp": "bank app"}, 400, "unauthorized_client", ""},
		"own, azp is another's":   {closed, basic("shop app", "second-valid-secret"), nil, httpapitest.Claims{"client_id": "shop app", "azp": "bank app"}, 200, "", "client:shop app"},
		"another's, for later":    {closed, basic("shop app", "second-valid-secret"), nil, httpapitest.Claims{"client_id": "bank app", "nbf": httpapitest.Ago(-time.Minute)}, 400, "unauthorized_client", ""},
		"own, for later":          {closed, basic("shop app", "second-valid-secret"), nil, httpapitest.Claims{"client_id": "shop app", "nbf": httpapitest.Ago(-time.Minute)}, 200, "", "client:shop app"},
		"API token, for later":    {closed, "Bearer " + httpapitest.APIToken, nil, httpapitest.Claims{"client_id": "bank app", "nbf": httpapitest.Ago(-time.Minute)}, 200, "", "api:token-1"},
		"API token":               {closed, "Bearer " + httpapitest.APIToken, nil, httpapitest.Claims{"client_id": "bank app"}, 200, "", "api:token-1"},
		"loopback":                {clients, "", nil, nil, 200, "", "local"},
		"no caller":               {closed, "", nil, nil, 401, "invalid_client", ""},
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
			d := httpapitest.NewReceivers(t, c.setup)
			token := d.A.Mint(c.claims)
			w := d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody(append([]string{"token", token}, c.form...)...), "Authorization", c.header)
			require.Equal(t, c.status, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.code)
			require.Equal(t, c.status == 200, len(d.Ledger.All()) == 1)
			if c.status == 200 && c.claims["nbf"] == nil { // one for later cannot be verified now
				assert.True(t, d.Revokes(token))
			}
			if c.actor != "" {
				assert.Equal(t, c.actor, d.Ledger.All()[0].RevokedBy)
			}
			if c.status == 401 {
				assert.Contains(t, w.Header().Get("WWW-Authenticate"), "Basic")
			}
			assert.NotContains(t, d.Log.String(), "secret")
		})
	}
}

// A line of a client's secret_file is one secret, whole (RFC 6749, appendix A.2).
func TestClientSecretIsTheWholeLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, secret, wrong string }{
		"number sign":     {"#NdhMw3!?:R+7_8{EsKU44W(<", "#NdhMw3!?:R+7_8{EsKU44W(<", "NdhMw3!?:R+7_8{EsKU44W(<"},
		"space":           {"my 0123456789abcdef\n", "my 0123456789abcdef", "0123456789abcdef"},
		"three words":     {"one two three four\r\n", "one two three four", "four"},
		"spaces around":   {"  0123456789abcdef  \n", "  0123456789abcdef  ", "0123456789abcdef"},
		"byte-order mark": {"\ufeff0123456789abcdef", "0123456789abcdef", "\ufeff0123456789abcdef"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
				httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
				o.Config.Clients = []httpapi.ClientConfig{{ID: "shop", SecretFile: httpapitest.SecretFile(t, c.file)}}
			})
			for secret, want := range map[string]int{c.secret: 200, c.wrong: 401} {
				w := d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", d.A.Mint(nil), "client_id", "shop", "client_secret", secret))
				assert.Equal(t, want, w.Code, "%q: %s", secret, w.Body)
			}
		})
	}
	for text, says := range map[string]string{
		"": "line 1 is empty", "short": "line 1: the secret has 5 characters", "0123456789abcdef\n\n": "line 2 is empty",
		"0123456789abcdé": "only visible ASCII characters and spaces", "0123456789\tabcdef": "control character",
	} {
		d := httpapitest.New(t, nil)
		options := d.Setup.Options
		options.Registry = prometheus.NewRegistry()
		options.Config.Clients = []httpapi.ClientConfig{{ID: "shop", SecretFile: httpapitest.SecretFile(t, text)}}
		api, err := httpapi.New(options)
		require.NoError(t, err)
		err = receiver.Register(api, refusing{}, nil)
		require.ErrorContains(t, err, "api.clients[0].secret_file: ", text)
		require.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "0123", "no secret in an error")
	}
}

func TestOAuthRevokeFromOtherSites(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	body := httpapitest.FormBody("token", d.A.Mint(nil))
	assert.Equal(t, 403, d.Post("/oauth2/revoke", httpapitest.FormType, body, "Sec-Fetch-Site", "cross-site").Code)
	assert.Equal(t, 403, d.Post("/oauth2/revoke", httpapitest.FormType, body, "Origin", "https://evil.example").Code)
	assert.Equal(t, 403, d.Post("/oauth2/revoke", httpapitest.FormType, body, "Host", "evil.example").Code)
	assert.Equal(t, 415, d.Post("/oauth2/revoke", "text/plain", body).Code)
	assert.Equal(t, 400, d.Post("/oauth2/revoke", httpapitest.FormType, "token=%zz").Code)
	assert.Equal(t, 413, d.Post("/oauth2/revoke", httpapitest.FormType, "token="+strings.Repeat("a", httpapi.MaxForm)).Code)
	assert.Empty(t, d.Ledger.All())
}

// "expiration" is Keycloak's name in its admin actions; an access token may
// mean anything by it.
func TestOAuthRevokeForeignExpirationClaim(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	token := d.A.Mint(httpapitest.Claims{"expiration": "2030-01-01"})
	_, err := d.Verifier.Verify(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, 200, d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", token)).Code, "RFC 7009")
	w := d.Do("POST", "/v1/revocations", `{"token":"`+token+`"}`)
	assert.Equal(t, 201, w.Code, w.Body.String())
}

// The row of an introspected issuer's token lasts for max_token_ttl. A token that
// may first be accepted after that time is refused, because nothing proves that the
// caller has not made it up; if the issuer signed it, its own exp counts, too.
func TestOAuthRevokeIntrospectedForYears(t *testing.T) {
	t.Parallel()
	keys := httpapitest.NewReceivers(t, nil)
	introspected := func(o *httpapitest.Setup) {
		o.Verifier = keys.Verifier
		o.Issuers.Introspected = []authz.IntrospectedIssuer{{Issuer: "https://opaque.example", All: true}}
	}
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	forged := authztest.With(authztest.NewKey("ES256"))
	for name, c := range map[string]struct {
		claims httpapitest.Claims
		how    []authztest.Minting
		status int
		rows   int
	}{
		"foreign, with iat":            {httpapitest.Claims{"iss": "https://foreign.example", "exp": in(1000 * time.Hour)}, nil, 200, 1},
		"foreign, no iat, short":       {httpapitest.Claims{"iss": "https://foreign.example", "iat": nil, "exp": in(time.Hour)}, nil, 200, 1},
		"foreign, no iat, for years":   {httpapitest.Claims{"iss": "https://foreign.example", "iat": nil, "exp": in(1000 * time.Hour)}, nil, 400, 0},
		"foreign, post-dated":          {httpapitest.Claims{"iss": "https://foreign.example", "iat": in(30 * time.Hour), "exp": in(40 * time.Hour)}, nil, 400, 0},
		"verified, no iat, for years":  {httpapitest.Claims{"iat": nil, "exp": in(1000 * time.Hour)}, nil, 200, 2},
		"forged, no iat, for years":    {httpapitest.Claims{"iat": nil, "exp": in(1000 * time.Hour)}, []authztest.Minting{forged}, 400, 0},
		"forged, no iat, within a day": {httpapitest.Claims{"iat": nil, "exp": in(20 * time.Hour)}, []authztest.Minting{forged}, 200, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.New(t, introspected)
			w := d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", keys.A.Mint(c.claims, c.how...)))
			require.Equal(t, c.status, w.Code, w.Body)
			require.Len(t, d.Ledger.All(), c.rows)
			if c.status == 400 {
				require.Contains(t, w.Body.String(), "revoke it at its issuer")
			}
		})
	}
}
