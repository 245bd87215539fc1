package receiver_test

import (
	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"net/url"
	"strings"
	"testing"
	"time"

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
		"good":               {d.A.Mint(nil), 200, "", true},
		"good, other issuer": {d.B.Mint(nil), 200, "", true},
		"without jti":        {d.A.Mint(httpapitest.Claims{"jti": nil}), 200, "", true},
		"not yet valid":      {d.A.Mint(httpapitest.Claims{"nbf": time.Now().Add(2 * time.Minute).Unix()}), 200, "", true},
		"expired":            {d.A.Mint(old), 200, "", false},
		"tampered":           {d.A.Mint(nil, authztest.Tampered()), 200, "", false},
		"unknown issuer":     {d.A.Mint(httpapitest.Claims{"iss": "https://c.example"}), 200, "", false},
		// A sidecar that has fetched the issuer's next key already may accept it.
		"unknown key":          {d.A.Mint(nil, unfetched), 200, "", true},
		"unknown key, expired": {d.A.Mint(old, unfetched), 200, "", false},
		"unknown key, just expired, which a leeway accepts": {d.A.Mint(httpapitest.Claims{"exp": httpapitest.Ago(time.Minute)}, unfetched), 200, "", true},
		"unknown key, without exp":                          {d.A.Mint(httpapitest.Claims{"exp": nil}, unfetched), 200, "", false},
		"unnamed key":                                       {d.A.Mint(nil, authztest.Header("kid", nil), authztest.Tampered()), 200, "", false},
		"unnamed key, expired":                              {d.A.Mint(old, authztest.Header("kid", nil), authztest.Tampered()), 200, "", false},
		"opaque":                                            {"2YotnFZFEjr1zCsicMWpAA", 400, "unsupported_token_type", false},
		"empty":                                             {"", 400, "invalid_request", false},
		"dots":                                              {"..", 400, "unsupported_token_type", false},
		"very long":                                         {strings.Repeat("a", 32<<10) + ".a.a", 400, "unsupported_token_type", false},
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
				assert.Equal(t, c.actor, d.Ledger.All()[0].Actor)
			}
			if c.status == 401 {
				assert.Contains(t, w.Header().Get("WWW-Authenticate"), "Basic")
			}
			assert.NotContains(t, d.Log.String(), "secret")
		})
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
