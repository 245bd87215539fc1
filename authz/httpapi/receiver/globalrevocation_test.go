package receiver_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi/httpapitest"
)

const globalPath = "/oauth2/global-token-revocation"

func issSub(iss, sub string) string {
	return `{"sub_id":{"format":"iss_sub","iss":"` + iss + `","sub":"` + sub + `"}}`
}

// postGlobal sends a request that a JWT or an API token authenticates; "": nothing does.
func postGlobal(d *httpapitest.Receivers, credential, body string) *httptest.ResponseRecorder {
	if credential != "" {
		credential = "Bearer " + credential
	}
	return d.Post(globalPath, "application/json", body, "Authorization", credential)
}

func globalPort(t *testing.T, change func(*httpapitest.Setup)) *httpapitest.Receivers {
	t.Helper()
	return httpapitest.NewReceivers(t, func(s *httpapitest.Setup) {
		s.Config.TokenFile = httpapitest.SecretFile(t, "soc "+httpapitest.APIToken)
		if change != nil {
			change(s)
		}
	})
}

// An identity provider ends all tokens of a user, and none that is issued later.
func TestGlobalTokenRevocation(t *testing.T) {
	t.Parallel()
	email := `{"sub_id":{"format":"email","email":"bob@example.com"}}`
	for name, c := range map[string]struct {
		jwt    httpapitest.Claims
		how    []authztest.Minting
		body   string
		status int
		says   string
	}{
		"Okta's":             {nil, nil, issSub(httpapitest.IssuerA, "bob"), 204, ""},
		"opaque":             {nil, nil, `{"sub_id":{"format":"opaque","id":"bob"}}`, 204, ""},
		"email":              {nil, nil, email, 204, ""},
		"address of the app": {nil, nil, `{"sub_id":{"format":"uri","uri":"https://x"}}`, 400, "identifies no token here"},
		"unknown format":     {nil, nil, `{"sub_id":{"format":"dance","id":"x"}}`, 400, "identifies no token here"},
		"no format":          {nil, nil, `{"sub_id":{}}`, 400, "identifies no token here"},
		"no sub_id":          {nil, nil, `{}`, 400, "only member"},
		"sub_id twice":       {nil, nil, `{"sub_id":{"format":"opaque","id":"a"},"sub_id":{"format":"opaque","id":"bob"}}`, 400, "only member"},
		"sub_id a string":    {nil, nil, `{"sub_id":"bob"}`, 400, "only member"},
		"another member":     {nil, nil, `{"sub_id":{"format":"opaque","id":"bob"},"dry_run":true}`, 400, "only member"},
		"empty sub":          {nil, nil, issSub(httpapitest.IssuerA, ""), 400, "empty"},
		"no JSON":            {nil, nil, `sub_id=bob`, 400, "only member"},
		"another issuer's":   {nil, nil, issSub(httpapitest.IssuerB, "bob"), 403, "does not speak for"},
		"no token can have":  {nil, nil, issSub(httpapitest.IssuerA, strings.Repeat("x", authz.MaxIdentifier+1)), 422, "longer"},
		"access token":       {nil, []authztest.Minting{authztest.Header("typ", "at+jwt")}, email, 401, "unsupported_token"},
		"no type":            {nil, []authztest.Minting{authztest.Header("typ", nil)}, email, 401, "unsupported_token"},
		"audience":           {httpapitest.Claims{"aud": "api"}, nil, email, 401, "wrong_audience"},
		"expired":            {httpapitest.Claims{"iat": httpapitest.Ago(2 * time.Hour), "exp": httpapitest.Ago(time.Hour)}, nil, email, 401, "expired"},
		"no exp":             {httpapitest.Claims{"exp": nil}, nil, email, 401, "bad_claim"},
		"lasting":            {httpapitest.Claims{"exp": time.Now().Add(2 * time.Hour).Unix()}, nil, email, 401, "more than an hour"},
		"no jti":             {httpapitest.Claims{"jti": nil}, nil, email, 401, "jti"},
		"issuer":             {httpapitest.Claims{"iss": "https://c.example"}, nil, email, 401, "unknown_issuer"},
		"forged":             {nil, []authztest.Minting{authztest.Tampered()}, email, 401, "bad_signature"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := globalPort(t, func(s *httpapitest.Setup) { s.Config.Events.SubjectClaims = map[string]string{"email": "email"} })
			token := d.A.Mint(httpapitest.Claims{"sub": "bob", "email": "bob@example.com", "iat": httpapitest.Ago(time.Minute)})
			w := postGlobal(d, d.GlobalJWT(c.jwt, c.how...), c.body)
			require.Equal(t, c.status, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.says)
			assert.Equal(t, c.status == 204, d.Revokes(token))
			assert.NotContains(t, d.LogText(), "eyJ", "no token in a log")
			for _, r := range d.Ledger.All() {
				assert.Equal(t, "gtr:"+httpapitest.IssuerA, r.RevokedBy)
				assert.Equal(t, httpapitest.IssuerA, r.Issuer)
				assert.InDelta(t, time.Now().Unix(), r.NotBefore.Unix(), 60, "a new login works")
			}
			if c.status == 401 {
				assert.Contains(t, d.Do("GET", "/metrics", "").Body.String(), "jwt_bouncer_http_auth_failures_total 1")
				assert.NotEmpty(t, w.Header().Get("WWW-Authenticate"))
			}
		})
	}
}

// The user's tokens may be another issuer's than the one that logs the user out.
func TestGlobalTokenRevocationForAnother(t *testing.T) {
	t.Parallel()
	d := globalPort(t, func(s *httpapitest.Setup) {
		s.Config.Events.SpeaksFor = map[string][]string{httpapitest.IssuerA: {httpapitest.IssuerB}}
	})
	token := d.B.Mint(httpapitest.Claims{"sub": "bob", "iat": httpapitest.Ago(time.Minute)})
	require.Equal(t, 204, postGlobal(d, d.GlobalJWT(nil), issSub(httpapitest.IssuerA, "bob")).Code)
	assert.True(t, d.Revokes(token))
}

// The holder of an API token names a subject of any issuer.
func TestGlobalTokenRevocationByOperator(t *testing.T) {
	t.Parallel()
	d := globalPort(t, nil)
	for _, iss := range []*authztest.Issuer{d.A, d.B} {
		require.Equal(t, 204, postGlobal(d, httpapitest.APIToken, issSub(iss.Name, "bob")).Code)
		assert.True(t, d.Revokes(iss.Mint(httpapitest.Claims{"sub": "bob", "iat": httpapitest.Ago(time.Minute)})))
		assert.False(t, d.Revokes(iss.Mint(httpapitest.Claims{"sub": "eve", "iat": httpapitest.Ago(time.Minute)})))
	}
	require.Equal(t, 204, postGlobal(d, httpapitest.APIToken, `{"sub_id":{"format":"opaque","id":"carol"}}`).Code, "of every issuer")
	for _, iss := range []*authztest.Issuer{d.A, d.B} {
		assert.True(t, d.Revokes(iss.Mint(httpapitest.Claims{"sub": "carol", "iat": httpapitest.Ago(time.Minute)})))
	}
	assert.Equal(t, "api:soc", d.Ledger.All()[0].RevokedBy)
	assert.Equal(t, 403, postGlobal(d, httpapitest.APIToken, issSub("https://c.example", "bob")).Code)
	for _, id := range []string{
		`{"format":"iss_sub","sub":"bob"}`, `{"format":"jwt_id","jti":"x"}`, `{"format":"iss_sub","iss":"","sub":"bob"}`,
		`{"format":"complex","application":{"format":"iss_sub","sub":"shop"}}`, `{"format":"complex","session":{"format":"iss_sub","sub":"s-1"}}`,
	} {
		assert.Equal(t, 400, postGlobal(d, httpapitest.APIToken, `{"sub_id":`+id+`}`).Code, "an issuer that is not named is not every issuer: %s", id)
	}
	for _, credential := range []string{"", "no", d.A.Mint(nil), strings.Replace(d.GlobalJWT(nil), ".", "..", 1)} {
		assert.Equal(t, 401, postGlobal(d, credential, issSub(httpapitest.IssuerA, "bob")).Code, credential)
	}
	without := globalPort(t, func(s *httpapitest.Setup) { s.Config.Global.Audiences = nil })
	assert.Equal(t, 401, postGlobal(without, without.GlobalJWT(nil), issSub(httpapitest.IssuerA, "bob")).Code, "no audience is configured")
}

// A JWT that somebody has read on the way ends nobody else's tokens. The sender may
// repeat its request, also because the first was not carried out.
func TestGlobalTokenRevocationReplay(t *testing.T) {
	t.Parallel()
	d := globalPort(t, nil)
	jwt, bob, eve := d.GlobalJWT(nil), issSub(httpapitest.IssuerA, "bob"), issSub(httpapitest.IssuerA, "eve")
	d.Ledger.SetFail(authz.ErrUnavailable)
	assert.Equal(t, 503, postGlobal(d, jwt, bob).Code)
	d.Ledger.SetFail(authz.ErrOutcomeUnknown)
	assert.Equal(t, 504, postGlobal(d, jwt, bob).Code)
	d.Ledger.SetFail(nil)
	for range 2 {
		assert.Equal(t, 204, postGlobal(d, jwt, bob).Code)
		assert.Len(t, d.Ledger.All(), 1)
	}
	w := postGlobal(d, jwt, eve)
	assert.Equal(t, 401, w.Code)
	assert.Contains(t, w.Body.String(), "jti")
	assert.Len(t, d.Ledger.All(), 1)
	d.RemoveKeys()
	assert.Equal(t, 503, postGlobal(d, d.GlobalJWT(nil, authztest.With(authztest.NewKey("ES256"))), bob).Code, "the issuer's next key may be known elsewhere")
}
