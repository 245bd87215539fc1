package receiver

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

// Keycloak's admin actions are signed by the realm, but are not JWTs as RFC 7519
// defines them: they carry id, expiration, resource and action in place of jti,
// exp, aud and a type, and no iss. The iss keeps the two apart: no action has
// one, every token of the realm does.
const (
	actionNotBefore = "PUSH_NOT_BEFORE"
	actionLogout    = "LOGOUT"
	actionTest      = "TEST_AVAILABILITY"
)

// adminAction receives one kind of action sent to a client's admin URL.
func (c *receiver) adminAction(action string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, p := httpapi.ReadBody(w, r, httpapi.MaxForm)
		if p != nil {
			p.Write(w)
			return
		}
		issuer, raw := c.keycloak.Issuer, strings.TrimSpace(string(body))
		t, p, _ := c.verify(r, raw, "admin action", authz.SecurityEventRules{Types: []string{"jwt", ""}, Issuer: issuer})
		if p != nil {
			p.Write(w)
			return
		}
		now := c.clock.Now()
		if description := c.checkAction(t.Claims, action, now); description != "" {
			httpapi.Fail(http.StatusBadRequest, description).Write(w)
			return
		}
		requests, description := actionRequests(t.Claims, issuer)
		if description != "" {
			httpapi.Fail(http.StatusBadRequest, description).Write(w)
			return
		}
		if len(requests) > 0 { // none: a test, or a not-before that was cleared
			if _, p := c.api.Revoke(r.Context(), httpapi.SourceKeycloak, "keycloak:"+issuer, requests); p != nil {
				p.Write(w)
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// checkAction checks the members of an action whose signature is valid. It
// returns what is wrong; "": nothing.
func (c *receiver) checkAction(claims map[string]any, action string, now time.Time) string {
	expires, _ := authz.MessageTime(claims["expiration"])
	switch {
	case text(claims, "action") != action:
		return "this address is for another action"
	case text(claims, "id") == "":
		return "the action has no id"
	case now.Unix() > expires || expires > now.Add(time.Hour).Unix():
		return "the action has expired, or expires in more than an hour"
	case !slices.Contains(c.keycloak.Clients, text(claims, "resource")):
		return "the action is for another client"
	}
	return ""
}

// actionRequests returns the requests that an action stands for, or what it lacks:
// an action must not be acknowledged as if it were carried out. notBefore revokes
// every token of the realm issued up to and including that second (Keycloak itself
// still accepts those of the second); 0: none is set. keycloakSessionIds are the sid
// of tokens. A revocation cannot name a client, so the notBefore of one client
// revokes the tokens of the others as well.
func actionRequests(claims map[string]any, issuer string) (out []authz.RevocationRequest, lacks string) {
	action := text(claims, "action")
	if action == actionTest {
		return nil, ""
	}
	reason := "Keycloak " + strings.ToLower(strings.ReplaceAll(action, "_", " "))
	limit, given := claims["notBefore"]
	at, set := authz.MessageTime(limit)
	if n, _ := limit.(json.Number); given && limit != nil && !set && n != "0" {
		return nil, "notBefore is not a time"
	}
	if set {
		out = append(out, authz.RevocationRequest{Issuer: &issuer, All: true, NotBefore: authz.IssuedThrough(at), Reason: reason})
	}
	sessions, list := claims["keycloakSessionIds"].([]any)
	if !list && claims["keycloakSessionIds"] != nil {
		return nil, "keycloakSessionIds is not an array"
	}
	for _, s := range sessions {
		id, _ := s.(string)
		if id == "" {
			return nil, "keycloakSessionIds holds something other than the id of a session"
		}
		out = append(out, authz.RevocationRequest{Issuer: &issuer, SID: &id, Reason: reason, FromClaims: true})
	}
	switch {
	case action == actionNotBefore && limit == nil:
		return nil, "notBefore is missing"
	case action == actionLogout && len(out) == 0:
		return nil, "the action names nothing to log out: it has neither keycloakSessionIds nor a notBefore above 0"
	}
	return out, ""
}
