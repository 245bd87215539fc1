package httpapi

import (
	"net/http"
	"time"

	"jwtbouncer/authz"
)

// logoutEvent is the member of "events" that makes a JWT a logout token.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// backchannelLogout is the endpoint of OpenID Connect Back-Channel Logout 1.0,
// section 2.5. The logout token authenticates itself.
func (a *api) backchannelLogout(w http.ResponseWriter, r *http.Request) {
	values, p := form(w, r)
	if p != nil {
		oauthProblem(w, p)
		return
	}
	raw := values.Get("logout_token")
	if raw == "" {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "logout_token is missing")
		return
	}
	t, err := a.verifier.VerifySecurityEvent(r.Context(), raw, authz.SecurityEventRules{
		Types: []string{"logout+jwt", "jwt", ""}, Audiences: a.logout.Audiences, // section 2.4: typ is recommended, not required
	})
	if err != nil {
		a.log.InfoContext(r.Context(), "logout token refused", "error", err)
		if a.couldNotFindOut(err, raw) {
			oauthProblem(w, unavailable("the logout token could not be verified for now"))
			return
		}
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "the logout token is not valid: "+reasonOf(err).String())
		return
	}
	now := a.clock.Now()
	id := messageID(t.Issuer, t.ID)
	if why := a.logoutFault(t, now); why != "" {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", why)
		return
	}
	if a.logouts.has(id, now) {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "the logout token has been received before (jti)")
		return
	}
	if _, p := a.revoke(r, doorLogout, "logout:"+t.Issuer, a.logoutRequests(t, now)); p != nil {
		oauthProblem(w, p)
		return
	}
	a.logouts.add(id, now)
	w.WriteHeader(http.StatusOK)
}

// logoutFault applies section 2.6 to a token whose signature, issuer, audience
// and times are good.
func (a *api) logoutFault(t *authz.Token, now time.Time) string {
	events, _ := t.Claims["events"].(map[string]any)
	event, present := events[logoutEvent]
	_, object := event.(map[string]any)
	_, nonce := t.Claims["nonce"]
	_, iat := t.Claims["iat"]
	switch {
	case !iat:
		return "iat is missing"
	case now.Sub(time.Unix(t.IssuedAt, 0)) > a.logout.MaxAge:
		return "iat is too old"
	case t.ID == "":
		return "jti is missing"
	case !present || !object:
		return "events has no object " + logoutEvent
	case nonce: // so that no ID token can be passed off as a logout token
		return "nonce is not allowed"
	case t.Subject == "" && t.Session == "":
		return "neither sub nor sid"
	}
	return ""
}

func (a *api) logoutRequests(t *authz.Token, now time.Time) []authz.RevocationRequest {
	const reason = "back-channel logout"
	var out []authz.RevocationRequest
	if t.Session != "" {
		out = append(out, authz.RevocationRequest{Issuer: &t.Issuer, SID: &t.Session, Reason: reason, FromClaims: true})
	}
	if t.Subject != "" && (t.Session == "" || a.logout.AlsoSubject) {
		out = append(out, authz.RevocationRequest{Issuer: &t.Issuer, Sub: &t.Subject, NotBefore: before(t.IssuedAt, now), Reason: reason, FromClaims: true})
	}
	return out
}
