package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// Keycloak's admin actions are signed by the realm but are no JWTs in the
// sense of RFC 7519: they carry id, expiration, resource and action in place
// of jti, exp, aud and a type, and no iss. That no action has an iss, and
// every token of the realm has one, keeps the two apart.
const (
	actionNotBefore = "PUSH_NOT_BEFORE"
	actionLogout    = "LOGOUT"
	actionTest      = "TEST_AVAILABILITY"
)

// keycloakAction takes the action that a client's admin URL receives.
func (a *api) keycloakAction(want string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, p := readBody(w, r, maxForm)
		if p != nil {
			p.write(w)
			return
		}
		realm, raw := a.keycloak.Issuer, strings.TrimSpace(string(body))
		t, err := a.verifier.VerifySecurityEvent(r.Context(), raw, authz.SecurityEventRules{
			Types: []string{"jwt", ""}, Issuer: realm,
		})
		if err != nil {
			a.log.InfoContext(r.Context(), "Keycloak's action refused", "error", err)
			if a.couldNotFindOut(err, raw) {
				unavailable("the action could not be verified for now").write(w)
				return
			}
			fail(http.StatusBadRequest, "the action is not valid: "+reasonOf(err).String()).write(w)
			return
		}
		now := a.clock.Now()
		expires, _ := secondsOf(t.Claims["expiration"])
		switch {
		case text(t.Claims, "action") != want:
			p = fail(http.StatusBadRequest, "the action is another than this address is for")
		case text(t.Claims, "id") == "":
			p = fail(http.StatusBadRequest, "the action has no id")
		case now.Unix() > expires || expires > now.Add(time.Hour).Unix():
			p = fail(http.StatusBadRequest, "the action has expired, or never would")
		case !slices.Contains(a.keycloak.Clients, text(t.Claims, "resource")):
			p = fail(http.StatusBadRequest, "the action is for another client")
		}
		if p != nil {
			p.write(w)
			return
		}
		if requests := keycloakRequests(t.Claims, realm, now); len(requests) > 0 {
			if _, p := a.revoke(r, doorKeycloak, "keycloak:"+realm, requests); p != nil {
				p.write(w)
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// keycloakRequests: notBefore ends every token of the realm issued up to
// that second (0 means that none is set; Keycloak itself still takes tokens of
// the very second, which "log everybody out" should not), and
// keycloakSessionIds are the sid of tokens.
// A not-before of one client ends the tokens of the realm's other clients as
// well, because a revocation cannot name a client: too much rather than too little.
func keycloakRequests(claims map[string]any, issuer string, now time.Time) []authz.RevocationRequest {
	var out []authz.RevocationRequest
	action := strings.ToLower(strings.ReplaceAll(text(claims, "action"), "_", " "))
	if at, ok := secondsOf(claims["notBefore"]); ok {
		out = append(out, authz.RevocationRequest{Issuer: &issuer, All: true, NotBefore: before(at, now), Reason: "Keycloak " + action, FromClaims: true})
	}
	if sessions, _ := claims["keycloakSessionIds"].([]any); len(sessions) > 0 {
		for _, s := range sessions {
			if id, _ := s.(string); id != "" {
				out = append(out, authz.RevocationRequest{Issuer: &issuer, SID: &id, Reason: "Keycloak " + action, FromClaims: true})
			}
		}
	}
	return out
}
