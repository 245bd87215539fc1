package receiver

import (
	"net/http"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/sharedsignals"
)

// logoutEvent is the member of "events" that makes a JWT a logout token.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// backchannelLogout is the endpoint of OpenID Connect Back-Channel Logout 1.0,
// section 2.5. The logout token authenticates itself.
func (c *receiver) backchannelLogout(w http.ResponseWriter, r *http.Request) {
	if e := c.logoutForm(w, r); e != nil {
		e.write(w)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (c *receiver) logoutForm(w http.ResponseWriter, r *http.Request) *oauthError {
	values, p := httpapi.ReadForm(w, r)
	if p != nil {
		return oauthProblem(p)
	}
	raw := values.Get("logout_token")
	if raw == "" {
		return invalidRequest("logout_token is missing")
	}
	t, p, _ := c.verify(r, raw, "logout token", authz.SecurityEventRules{
		Types: []string{"logout+jwt", "jwt", ""}, Audiences: c.logout.Audiences, // section 2.4: typ is recommended, not required
		ExpOptional: true, // section 2.4 requires exp, but Hydra, authentik, and Keycloak before 24 omit it: max_age bounds iat
	})
	if p != nil {
		return oauthProblem(p)
	}
	now := c.clock.Now()
	if description := c.checkLogoutToken(t, now); description != "" {
		return invalidRequest(description)
	}
	id := sharedsignals.MessageID(t.Issuer, t.ID)
	if c.logouts.Has(id, now) {
		return invalidRequest("the logout token has been received before (jti)")
	}
	if _, p := c.api.Revoke(r.Context(), httpapi.SourceLogout, "logout:"+t.Issuer, c.logoutRequests(t)); p != nil {
		return oauthProblem(p)
	}
	c.logouts.Add(id, now)
	return nil
}

// checkLogoutToken applies section 2.6 to a token whose signature, issuer, audience
// and times are valid. It returns what is wrong; "": nothing.
func (c *receiver) checkLogoutToken(t *authz.Token, now time.Time) string {
	events, _ := t.Claims["events"].(map[string]any)
	_, object := events[logoutEvent].(map[string]any)
	_, nonce := t.Claims["nonce"]
	_, iat := t.Claims["iat"]
	switch {
	case !iat:
		return "iat is missing"
	case now.Sub(time.Unix(t.IssuedAt, 0)) > c.logout.MaxAge:
		return "iat is too old"
	case t.ID == "":
		return "jti is missing"
	case !object:
		return "events has no object " + logoutEvent
	case nonce: // so that no ID token passes for a logout token
		return "nonce is not allowed"
	case t.Subject == "" && t.Session == "":
		return "neither sub nor sid is present"
	}
	return ""
}

func (c *receiver) logoutRequests(t *authz.Token) []authz.RevocationRequest {
	const reason = "back-channel logout"
	var out []authz.RevocationRequest
	if t.Session != "" {
		out = append(out, authz.RevocationRequest{Issuer: &t.Issuer, SID: &t.Session, Reason: reason, FromClaims: true})
	}
	if t.Subject != "" && (t.Session == "" || c.logout.AlsoSubject) {
		out = append(out, authz.RevocationRequest{Issuer: &t.Issuer, Sub: &t.Subject, NotBefore: authz.IssuedThrough(t.IssuedAt), Reason: reason, FromClaims: true})
	}
	return out
}
