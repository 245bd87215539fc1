package receiver_test

import (
	"encoding/json"
	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/httpapi/receiver"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBackchannelLogout(t *testing.T) {
	t.Parallel()
	keys := httpapitest.NewReceivers(t, nil)
	event := func(v any) httpapitest.Claims { return httpapitest.Claims{"events": v} }
	for name, c := range map[string]struct {
		token string
		says  string // empty: taken
	}{
		"sid and sub":        {keys.LogoutToken(nil), ""},
		"sub alone":          {keys.LogoutToken(httpapitest.Claims{"sid": nil}), ""},
		"sid alone":          {keys.LogoutToken(httpapitest.Claims{"sub": nil}), ""},
		"typ JWT":            {keys.LogoutToken(nil, authztest.Header("typ", "JWT")), ""},
		"no typ":             {keys.LogoutToken(nil, authztest.Header("typ", nil)), ""},
		"several audiences":  {keys.LogoutToken(httpapitest.Claims{"aud": []string{"x", "shop"}}), ""},
		"another event too":  {keys.LogoutToken(event(httpapitest.Claims{receiver.LogoutEvent: httpapitest.Claims{}, "urn:x": 1})), ""},
		"signature":          {keys.LogoutToken(nil, authztest.Tampered()), "bad_signature"},
		"issuer":             {keys.LogoutToken(httpapitest.Claims{"iss": "https://c.example"}), "unknown_issuer"},
		"audience":           {keys.LogoutToken(httpapitest.Claims{"aud": "api"}), "wrong_audience"},
		"no audience":        {keys.LogoutToken(httpapitest.Claims{"aud": nil}), "wrong_audience"},
		"expired":            {keys.LogoutToken(httpapitest.Claims{"iat": httpapitest.Ago(3 * time.Minute), "exp": httpapitest.Ago(time.Minute)}), "expired"},
		"no exp":             {keys.LogoutToken(httpapitest.Claims{"exp": nil}), ""},
		"no exp, sid alone":  {keys.LogoutToken(httpapitest.Claims{"exp": nil, "sub": nil}, authztest.Header("typ", nil)), ""},
		"no exp, stale":      {keys.LogoutToken(httpapitest.Claims{"exp": nil, "iat": httpapitest.Ago(6 * time.Minute)}), "too old"},
		"no exp, days old":   {keys.LogoutToken(httpapitest.Claims{"exp": nil, "iat": httpapitest.Ago(48 * time.Hour)}), "lifetime_too_long"},
		"no exp, future":     {keys.LogoutToken(httpapitest.Claims{"exp": nil, "iat": time.Now().Add(time.Minute).Unix()}), "not_yet_valid"},
		"neither exp or iat": {keys.LogoutToken(httpapitest.Claims{"exp": nil, "iat": nil}), "bad_claim"},
		"exp a text":         {keys.LogoutToken(httpapitest.Claims{"exp": "soon"}), "bad_claim"},
		"no iat":             {keys.LogoutToken(httpapitest.Claims{"iat": nil}), "iat is missing"},
		"stale":              {keys.LogoutToken(httpapitest.Claims{"iat": httpapitest.Ago(6 * time.Minute)}), "too old"},
		"from the future":    {keys.LogoutToken(httpapitest.Claims{"iat": time.Now().Add(time.Minute).Unix()}), "not_yet_valid"},
		"no jti":             {keys.LogoutToken(httpapitest.Claims{"jti": nil}), "jti is missing"},
		"nonce":              {keys.LogoutToken(httpapitest.Claims{"nonce": "n"}), "nonce"},
		"empty nonce":        {keys.LogoutToken(httpapitest.Claims{"nonce": ""}), "nonce"},
		"null nonce":         {keys.LogoutToken(httpapitest.Claims{"nonce": json.RawMessage("null")}), "nonce"},
		"no events":          {keys.LogoutToken(event(nil)), "events"},
		"events a string":    {keys.LogoutToken(event(receiver.LogoutEvent)), "events"},
		"events an array":    {keys.LogoutToken(event([]string{receiver.LogoutEvent})), "events"},
		"event not object":   {keys.LogoutToken(event(httpapitest.Claims{receiver.LogoutEvent: true})), "events"},
		"event null":         {keys.LogoutToken(event(httpapitest.Claims{receiver.LogoutEvent: json.RawMessage("null")})), "events"},
		"another event":      {keys.LogoutToken(event(httpapitest.Claims{"https://schemas.openid.net/secevent/caep/event-type/" + "session-revoked": httpapitest.Claims{}})), "events"},
		"neither sub or sid": {keys.LogoutToken(httpapitest.Claims{"sub": nil, "sid": nil}), "neither"},
		"an access token":    {keys.A.Mint(httpapitest.Claims{"aud": "shop"}), "events"},
		"at+jwt":             {keys.LogoutToken(nil, authztest.Header("typ", "at+jwt")), "unsupported_token"},
		"a SET":              {keys.LogoutToken(nil, authztest.Header("typ", "secevent+jwt")), "unsupported_token"},
		"garbage":            {"x", "malformed"},
		"none":               {"", "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
				o.Verifier = keys.Verifier
				httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
			})
			d.Verifier = keys.Verifier
			mine := keys.A.Mint(httpapitest.Claims{"sub": "bob", "sid": "s-1", "iat": httpapitest.Ago(time.Minute)})
			others := keys.A.Mint(httpapitest.Claims{"sub": "eve", "sid": "s-2", "iat": httpapitest.Ago(time.Minute)})
			w := d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", c.token))
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			assert.NotContains(t, d.Log.String(), "eyJ")
			if c.says == "" {
				require.Equal(t, 200, w.Code, w.Body)
				assert.True(t, d.Revokes(mine))
				assert.False(t, d.Revokes(others))
				assert.False(t, d.Revokes(keys.A.Mint(httpapitest.Claims{"sub": "bob", "sid": "s-3", "iat": time.Now().Add(5 * time.Second).Unix()})), "logging in again works")
				assert.Equal(t, "logout:"+httpapitest.IssuerA, d.Ledger.All()[0].RevokedBy)
				return
			}
			require.Equal(t, 400, w.Code, w.Body)
			assert.Contains(t, w.Body.String(), c.says)
			assert.Contains(t, w.Body.String(), `"error":"invalid_request"`)
			assert.Empty(t, d.Ledger.All())
		})
	}
}

func TestBackchannelLogoutReplay(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) { o.Config.Logout.AlsoSubject = true })
	body := httpapitest.FormBody("logout_token", d.LogoutToken(nil))
	d.Ledger.SetFail(authz.ErrUnavailable)
	w := d.Post("/oidc/backchannel-logout", httpapitest.FormType, body)
	require.Equal(t, 503, w.Code)
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	d.Ledger.SetFail(nil)
	require.Equal(t, 200, d.Post("/oidc/backchannel-logout", httpapitest.FormType, body).Code, "what failed may be repeated")
	require.Len(t, d.Ledger.All(), 2, "session and subject")
	w = d.Post("/oidc/backchannel-logout", httpapitest.FormType, body)
	require.Equal(t, 400, w.Code)
	assert.Contains(t, w.Body.String(), "jti")

	// The same jti from another issuer is another message.
	d.A = d.B
	require.Equal(t, 200, d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", d.LogoutToken(nil))).Code)
}
