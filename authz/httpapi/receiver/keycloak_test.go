package receiver_test

import (
	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeycloakActions(t *testing.T) {
	t.Parallel()
	push := httpapitest.Claims{"action": "PUSH_NOT_BEFORE", "notBefore": httpapitest.Ago(10 * time.Second), "keycloakSessionIds": nil, "adapterSessionIds": nil}
	with := func(base, change httpapitest.Claims) httpapitest.Claims {
		out := httpapitest.Claims{}
		for _, m := range []httpapitest.Claims{base, change} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		path   string
		change httpapitest.Claims
		status int
		stored int
	}{
		"logout":                          {"k_logout", nil, 204, 1},
		"logout of all":                   {"k_logout", httpapitest.Claims{"keycloakSessionIds": nil, "adapterSessionIds": nil, "notBefore": httpapitest.Ago(10 * time.Second)}, 204, 1},
		"logout of nothing":               {"k_logout", httpapitest.Claims{"keycloakSessionIds": nil, "notBefore": 0}, 400, 0},
		"logout of no session":            {"k_logout", httpapitest.Claims{"keycloakSessionIds": []string{}}, 400, 0},
		"logout of odd sessions":          {"k_logout", httpapitest.Claims{"keycloakSessionIds": []any{"", 7}}, 400, 0},
		"logout of a text":                {"k_logout", httpapitest.Claims{"keycloakSessionIds": "s-1"}, 400, 0},
		"logout of one odd session":       {"k_logout", httpapitest.Claims{"keycloakSessionIds": []any{"s-1", ""}}, 400, 0},
		"not before":                      {"k_push_not_before", push, 204, 1},
		"no not before":                   {"k_push_not_before", with(push, httpapitest.Claims{"notBefore": nil}), 400, 0},
		"odd not before":                  {"k_push_not_before", with(push, httpapitest.Claims{"notBefore": "yesterday"}), 400, 0},
		"negative not before":             {"k_push_not_before", with(push, httpapitest.Claims{"notBefore": -5}), 400, 0},
		"not before cleared":              {"k_push_not_before", with(push, httpapitest.Claims{"notBefore": 0}), 204, 0},
		"available":                       {"k_test_available", with(push, httpapitest.Claims{"action": "TEST_AVAILABILITY", "notBefore": nil}), 204, 0},
		"wrong address":                   {"k_test_available", nil, 400, 0},
		"expired":                         {"k_logout", httpapitest.Claims{"expiration": httpapitest.Ago(time.Second)}, 400, 0},
		"no expiration":                   {"k_logout", httpapitest.Claims{"expiration": nil}, 400, 0},
		"forever":                         {"k_logout", httpapitest.Claims{"expiration": time.Now().Add(48 * time.Hour).Unix()}, 400, 0},
		"another client":                  {"k_logout", httpapitest.Claims{"resource": "bank"}, 400, 0},
		"no id":                           {"k_logout", httpapitest.Claims{"id": nil}, 400, 0},
		"an access token with the claims": {"k_logout", httpapitest.Claims{"iss": httpapitest.IssuerA, "exp": time.Now().Add(time.Minute).Unix()}, 400, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, nil)
			w := d.Post("/keycloak/"+c.path, "text/plain; charset=UTF-8", d.AdminAction(c.change))
			require.Equal(t, c.status, w.Code, w.Body)
			require.Len(t, d.Ledger.All(), c.stored)
			if c.stored > 0 {
				assert.True(t, d.Revokes(d.A.Mint(httpapitest.Claims{"sid": "s-1", "iat": httpapitest.Ago(20 * time.Second)})))
				assert.False(t, d.Revokes(d.B.Mint(httpapitest.Claims{"sid": "s-1", "iat": httpapitest.Ago(20 * time.Second)})), "another issuer's")
				assert.False(t, d.Revokes(d.A.Mint(httpapitest.Claims{"sid": "s-2"})))
			}
		})
	}
	d := httpapitest.NewReceivers(t, nil)
	d.A = d.B
	assert.Equal(t, 400, d.Post("/keycloak/k_logout", "text/plain", d.AdminAction(nil)).Code, "signed by another issuer")
	assert.Empty(t, d.Ledger.All())
	d = httpapitest.NewReceivers(t, nil)
	d.Ledger.SetFail(authz.ErrUnavailable)
	assert.Equal(t, 503, d.Post("/keycloak/k_logout", "text/plain", d.AdminAction(nil)).Code)
}
