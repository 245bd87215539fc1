package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestEveryEvent sends a security event of each class, each about a token that Envoy
// allowed before. Envoy denies that token if the event ends something, and goes on
// to allow it if the event ends nothing or is refused; another user's token stays
// allowed.
func TestEveryEvent(t *testing.T) {
	t.Parallel()
	const (
		caep  = "https://schemas.openid.net/secevent/caep/event-type/"
		risc  = "https://schemas.openid.net/secevent/risc/event-type/"
		oauth = "https://schemas.openid.net/secevent/oauth/event-type/"
	)
	type object = map[string]any
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)
	past := time.Now().Add(-time.Minute).Unix()
	mint := func(id string) string {
		return iss.Mint(object{"sub": "user-" + id, "sid": "session-" + id, "jti": "jti-" + id, "client_id": "app-" + id, "tenant": "tenant-" + id, "iat": past})
	}
	user := func(id string) object { return object{"format": "iss_sub", "iss": iss.Name, "sub": "user-" + id} }
	opaque := func(name string) func(string) object {
		return func(id string) object { return object{"format": "opaque", "id": name + "-" + id} }
	}
	member := func(name string, of func(string) object) func(string) object {
		return func(id string) object { return object{"format": "complex", name: of(id)} }
	}
	simple := func(format, name, prefix string) func(string) object {
		return func(id string) object { return object{"format": format, name: prefix + "tenant-" + id} }
	}
	b, front := harness.BouncerAndFront(t, endpointsConfig(t, iss, "sqlite://"+harness.Dir(t)+"/revocations.db", ""), harness.Upstream(t).Addr)
	bystander := mint("bystander")
	for i, c := range []struct {
		event   string
		payload object
		subject func(id string) object
		ends    bool // 401 afterwards
		refused bool
	}{
		{caep + "session-revoked", object{}, user, true, false},
		{caep + "session-revoked", object{}, opaque("session"), true, false},
		{caep + "session-revoked", object{}, member("session", opaque("session")), true, false},
		{caep + "token-claims-change", object{"claims": object{"role": "reader"}}, func(id string) object {
			return object{"format": "jwt_id", "iss": iss.Name, "jti": "jti-" + id}
		}, true, false},
		{caep + "credential-change", object{"credential_type": "password", "change_type": "update"}, user, true, false},
		{caep + "credential-change", object{"credential_type": "fido2-roaming", "change_type": "delete"}, user, true, false},
		{caep + "credential-change", object{"credential_type": "fido2-roaming", "change_type": "create"}, user, false, false},
		{caep + "assurance-level-change", object{"namespace": "NIST-AAL", "current_level": "nist-aal1", "change_direction": "decrease"}, user, true, false},
		{caep + "assurance-level-change", object{"namespace": "NIST-AAL", "current_level": "nist-aal2", "change_direction": "increase"}, user, false, false},
		{caep + "device-compliance-change", object{"previous_status": "compliant", "current_status": "not-compliant"}, member("device", opaque("tenant")), true, false},
		{caep + "device-compliance-change", object{"previous_status": "not-compliant", "current_status": "compliant"}, member("device", opaque("tenant")), false, false},
		{caep + "risk-level-change", object{"principal": "USER", "current_level": "HIGH"}, member("user", user), true, false},
		{caep + "risk-level-change", object{"principal": "USER", "current_level": "MEDIUM"}, member("user", user), false, false},
		{caep + "session-established", object{}, user, false, false},
		{caep + "session-presented", object{}, user, false, false},
		{risc + "account-disabled", object{"reason": "hijacking"}, simple("phone_number", "phone_number", ""), true, false},
		{risc + "account-purged", object{}, simple("account", "uri", "acct:"), true, false},
		{risc + "account-credential-change-required", object{}, simple("did", "url", ""), true, false},
		{risc + "credential-compromise", object{"credential_type": "password"}, simple("uri", "uri", ""), true, false},
		{risc + "sessions-revoked", object{}, func(id string) object {
			return object{"format": "aliases", "identifiers": []any{object{"format": "ip-addresses", "ip-addresses": []string{"10.0.0.1"}}, user(id)}}
		}, true, false},
		{risc + "identifier-changed", object{"new-value": "tenant-new"}, simple("email", "email", ""), true, false},
		{risc + "identifier-recycled", object{}, simple("email", "email", ""), true, false},
		{risc + "account-enabled", object{}, user, false, false},
		{risc + "opt-out-effective", object{}, user, false, false},
		{risc + "recovery-activated", object{}, user, false, false},
		{oauth + "tokens-revoked", object{}, user, true, false},
		{caep + "session-revoked", object{}, member("application", opaque("app")), true, false},
		{caep + "session-revoked", object{}, member("tenant", opaque("tenant")), false, true},
		{risc + "account-disabled", object{}, simple("saml_assertion_id", "assertion_id", ""), false, true},
	} {
		id := fmt.Sprint(i)
		name := fmt.Sprintf("%s about %v", c.event, c.subject(id))
		token := mint(id)
		require.Equal(t, 200, front.Bearer(t, token).Status, "before %s", name)
		status, body := send(t, b, "/ssf/events", "application/secevent+jwt", iss.Mint(object{
			"aud": "https://bouncer.example/ssf", "sub": nil, "exp": nil, "sub_id": c.subject(id), "events": object{c.event: c.payload},
		}, authztest.Header("typ", "secevent+jwt")))
		if c.refused {
			require.Equal(t, 400, status, "%s: %s", name, body)
			require.Contains(t, body, "invalid_request", name)
		} else {
			require.Equal(t, 202, status, "%s: %s", name, body)
		}
		if c.ends {
			harness.Eventually(t, 30*time.Second, "the token is denied after "+name, func(ctx context.Context) error {
				r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token)
				if err == nil && r.Status != 401 {
					err = fmt.Errorf("status %d", r.Status)
				}
				return err
			})
		} else {
			require.Equal(t, 200, front.Bearer(t, token).Status, "after %s", name)
		}
		require.Equal(t, 200, front.Bearer(t, bystander).Status, "another user's token after %s", name)
	}
}
