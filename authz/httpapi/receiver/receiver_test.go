package receiver_test

import (
	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/issuer"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEndpointsNeedConfiguration(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
		o.Config.Logout.Audiences, o.Config.Events.Audiences, o.Config.Keycloak.Clients = nil, nil, nil
	})
	for _, path := range []string{"/oidc/backchannel-logout", "/ssf/events", "/keycloak/k_logout"} {
		assert.Equal(t, 404, d.Post(path, httpapitest.FormType, "").Code, path)
	}
	for _, o := range []func(*httpapitest.Setup){
		func(o *httpapitest.Setup) { o.Config.Keycloak = httpapi.KeycloakConfig{Clients: []string{"c"}} },
		func(o *httpapitest.Setup) {
			o.Config.Keycloak = httpapi.KeycloakConfig{Clients: []string{"c"}, Issuer: "https://c.example"}
		},
		func(o *httpapitest.Setup) {
			o.Config.Events.SpeaksFor = map[string][]string{"https://c.example": {httpapitest.IssuerA}}
		},
		func(o *httpapitest.Setup) {
			o.Config.Events.SpeaksFor = map[string][]string{httpapitest.IssuerA: {"https://c.example"}}
		},
	} {
		options := d.Setup
		o(&options)
		_, err := httpapi.New(options.Options)
		assert.Error(t, err)
	}
}

func TestKeysUnavailableIsNoRefusal(t *testing.T) {
	t.Parallel()
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: httpapitest.IssuerA, Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none")}}, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) { o.Verifier = v })
	for _, w := range []*httptest.ResponseRecorder{
		d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", d.A.Mint(nil))),
		d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", d.LogoutToken(nil))),
		d.Post("/ssf/events", httpapitest.EventType, d.EventToken(nil)),
		d.Post("/keycloak/k_logout", "text/plain", d.AdminAction(nil)),
	} {
		assert.Equal(t, 503, w.Code, w.Body)
		assert.NotEmpty(t, w.Header().Get("Retry-After"))
	}
}

// The issuer may sign with a key that cannot be fetched at the moment. A key that
// is not among keys fetched moments ago is unknown.
func TestUnknownKeyIsNoRefusal(t *testing.T) {
	t.Parallel()
	key := authztest.With(authztest.NewKey("ES256"))
	old := httpapitest.Claims{"iat": httpapitest.Ago(2 * time.Hour), "exp": httpapitest.Ago(time.Hour)}
	for _, away := range []bool{false, true} {
		d := httpapitest.NewReceivers(t, nil)
		want := 400
		if away {
			want = 503
			d.RemoveKeys()
		}
		for message, w := range map[string]*httptest.ResponseRecorder{
			"logout token": d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", d.LogoutToken(nil, key))),
			"event":        d.Post("/ssf/events", httpapitest.EventType, d.EventToken(nil, key)),
			"action":       d.Post("/keycloak/k_logout", "text/plain", d.AdminAction(nil, key)),
		} {
			assert.Equal(t, want, w.Code, "keys away: %t, %s: %s", away, message, w.Body)
			assert.Equal(t, away, w.Header().Get("Retry-After") != "", message)
		}
		for message, w := range map[string]*httptest.ResponseRecorder{
			"logout token": d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", d.LogoutToken(old, key))),
			"event":        d.Post("/ssf/events", httpapitest.EventType, d.EventToken(old, key)),
		} {
			assert.Equal(t, 400, w.Code, "%s that has expired: %s", message, w.Body)
		}
		assert.Empty(t, d.Ledger.All())
		// What a token is needs no key: it ends wherever it would be good.
		token := d.A.Mint(nil, key)
		assert.Equal(t, 200, d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", token)).Code)
		if all := d.Ledger.All(); assert.Len(t, all, 1) {
			assert.Equal(t, authz.TokenValue(token), all[0].Value)
			assert.Equal(t, httpapitest.IssuerA, all[0].Issuer)
		}
	}
}

// A message under a withdrawn key is not retried forever: a security event has no
// exp (RFC 8417, section 2.2) and expires a day after iat.
func TestOldMessagesUnderAWithdrawnKey(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	d.RemoveKeys()
	gone := authztest.With(authztest.NewKey("ES256"))
	for age, want := range map[time.Duration]int{time.Minute: 503, 23 * time.Hour: 503, 25 * time.Hour: 400, 365 * 24 * time.Hour: 400} {
		w := d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"iat": httpapitest.Ago(age)}, gone))
		assert.Equal(t, want, w.Code, "an event %s old: %s", age, w.Body)
	}
	old := httpapitest.Ago(365 * 24 * time.Hour)
	w := d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", d.LogoutToken(httpapitest.Claims{"exp": nil, "iat": old}, gone)))
	assert.Equal(t, 400, w.Code, "logout token without exp: %s", w.Body)
	w = d.Post("/oauth2/revoke", httpapitest.FormType, httpapitest.FormBody("token", d.A.Mint(httpapitest.Claims{"exp": nil, "iat": old}, gone)))
	assert.Equal(t, 200, w.Code, "token without exp: %s", w.Body)
}

// A message revokes the tokens that its issuer issued up to the message's own time,
// by the issuer's clock, even if that clock is ahead. An event cannot be later than
// the message that reports it; a not-before of Keycloak may lie in the future.
func TestIssuerWhoseClockIsAhead(t *testing.T) {
	t.Parallel()
	start := time.Now() // the messages are dated from it, however long the test takes
	ahead := func(d time.Duration) int64 { return start.Add(d).Unix() }
	const seconds = 3 * time.Second // less than the leeway of any issuer
	message := httpapitest.Claims{"iat": ahead(seconds), "sid": nil, "sub": "bob"}
	for name, send := range map[string]func(d *httpapitest.Receivers) *httptest.ResponseRecorder{
		"logout": func(d *httpapitest.Receivers) *httptest.ResponseRecorder {
			return d.Post("/oidc/backchannel-logout", httpapitest.FormType, httpapitest.FormBody("logout_token", d.LogoutToken(message)))
		},
		"event": func(d *httpapitest.Receivers) *httptest.ResponseRecorder {
			return d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"iat": ahead(seconds), "toe": ahead(time.Hour)}))
		},
		"not-before": func(d *httpapitest.Receivers) *httptest.ResponseRecorder {
			return d.Post("/keycloak/k_push_not_before", "text/plain", d.AdminAction(httpapitest.Claims{"action": "PUSH_NOT_BEFORE", "keycloakSessionIds": nil, "notBefore": ahead(time.Hour)}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, nil)
			w := send(d)
			require.Less(t, w.Code, 300, w.Body)
			assert.True(t, d.Revokes(d.A.Mint(httpapitest.Claims{"sub": "bob", "iat": ahead(seconds - time.Second)})), "issued before the message")
			stored := d.Ledger.All()
			require.Len(t, stored, 1)
			later := stored[0].NotBefore.Sub(start)
			if name == "not-before" {
				assert.Greater(t, later, 50*time.Minute, "as ordered")
			} else {
				assert.Less(t, later, time.Minute, "tokens issued after the message work")
			}
		})
	}
}
