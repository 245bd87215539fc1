package receiver

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/sharedsignals"
)

const (
	// requestType is the typ of the JWT with which Okta authenticates a request of
	// Universal Logout. No access token has it.
	requestType = "global-token-revocation+jwt"
	// maxRequestLife bounds how far exp of that JWT may lie ahead, so that its use can
	// be remembered. Okta's live for five minutes.
	maxRequestLife = time.Hour
)

// globalCaller is who requests a global token revocation.
type globalCaller struct {
	actor   string
	subject sharedsignals.Subject // whose tokens the caller may end
	id      string                // jti of the JWT that authenticates the request; empty: an API token does
	at      int64                 // Unix seconds of the request, by the clock that is ahead
}

// revokeGlobally is the endpoint of Global Token Revocation
// (draft-parecki-oauth-global-token-revocation-06, section 3). It ends all tokens of
// a subject that were issued until now. No user is known here, so no user is
// unknown: the answer 404 of section 3.4.2 does not occur.
func (c *receiver) revokeGlobally(w http.ResponseWriter, r *http.Request) {
	caller, p := c.globalCaller(r)
	if p == nil {
		p = c.revokeSubject(w, r, caller)
	}
	switch {
	case p == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	case p.Status == http.StatusUnauthorized:
		c.api.CountAuthFailure()
		w.Header().Set("WWW-Authenticate", `Bearer realm="jwt-bouncer"`)
	}
	p.Write(w)
}

// globalCaller authenticates the caller: an identity provider by a JWT that it
// signed for this endpoint, or the holder of an API token, who may end the tokens of
// every issuer.
func (c *receiver) globalCaller(r *http.Request) (globalCaller, *httpapi.Problem) {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	raw = strings.TrimSpace(raw)
	if _, jwt := authz.SignedPart(raw); jwt && strings.EqualFold(scheme, "Bearer") && len(c.global.Audiences) > 0 {
		return c.signedCaller(r, raw)
	}
	actor, p := c.api.Admit(r)
	if p != nil {
		return globalCaller{}, p
	}
	subject := sharedsignals.Subject{Issuers: c.issuers.All(), Claims: c.claims}
	return globalCaller{actor: actor, subject: subject, at: c.clock.Now().Unix()}, nil
}

func (c *receiver) signedCaller(r *http.Request, raw string) (globalCaller, *httpapi.Problem) {
	refuse := func(detail string) (globalCaller, *httpapi.Problem) {
		return globalCaller{}, httpapi.Fail(http.StatusUnauthorized, detail)
	}
	if len(r.Header.Values("Authorization")) != 1 {
		return refuse("more than one Authorization header")
	}
	t, p, _ := c.verify(r, raw, "JWT", authz.SecurityEventRules{Types: []string{requestType}, Audiences: c.global.Audiences})
	now := c.clock.Now()
	switch {
	case p != nil && p.Status == http.StatusServiceUnavailable:
		return globalCaller{}, p
	case p != nil:
		return refuse(p.Detail)
	case t.ID == "":
		return refuse("the JWT has no jti")
	case t.Expires > now.Add(maxRequestLife).Unix():
		return refuse("the JWT expires in more than an hour")
	}
	// By the issuer's clock, which dates the tokens, now may be later.
	return globalCaller{actor: "gtr:" + t.Issuer, subject: c.speaks(t.Issuer), id: t.ID, at: max(now.Unix(), t.IssuedAt)}, nil
}

// revokeSubject carries out the request of an authenticated caller. It returns nil
// if the tokens are revoked.
func (c *receiver) revokeSubject(w http.ResponseWriter, r *http.Request, caller globalCaller) *httpapi.Problem {
	p := httpapi.RequireType(r, "application/json")
	if p != nil {
		return p
	}
	body, p := httpapi.ReadBody(w, r, httpapi.MaxForm)
	if p != nil {
		return p
	}
	// A JWT authenticates one request, which may be repeated.
	now := c.clock.Now()
	used := sharedsignals.MessageID(caller.actor, caller.id)
	done := sharedsignals.MessageID(caller.actor, caller.id+"\x00"+string(body))
	if caller.id != "" && c.globals.Has(used, now) {
		if c.globals.Has(done, now) {
			return nil
		}
		return httpapi.Fail(http.StatusUnauthorized, "the JWT has been used for another request (jti)")
	}
	requests, p := subjectRequests(body, caller)
	if p != nil {
		return p
	}
	if _, p := c.api.Revoke(r.Context(), httpapi.SourceGlobal, caller.actor, requests); p != nil {
		if p.Status == http.StatusBadRequest {
			return httpapi.Fail(http.StatusUnprocessableEntity, "sub_id: "+p.Errors[0].Detail)
		}
		return p
	}
	if caller.id != "" {
		c.globals.Add(used, now)
		c.globals.Add(done, now)
	}
	return nil
}

// subjectRequests returns the requests of a body, whose only member is sub_id
// (section 3.2).
func subjectRequests(body []byte, caller globalCaller) ([]authz.RevocationRequest, *httpapi.Problem) {
	var request struct {
		Subject map[string]any `json:"sub_id"`
	}
	if json.Unmarshal(body, &request, json.RejectUnknownMembers(true)) != nil || request.Subject == nil {
		return nil, httpapi.Fail(http.StatusBadRequest, `the body is not a JSON object whose only member is "sub_id", a subject identifier (RFC 9493)`)
	}
	subject := caller.subject
	subject.NotBefore, subject.Reason = authz.IssuedThrough(caller.at), "global token revocation"
	requests, err := subject.Requests(request.Subject)
	switch {
	case errors.Is(err, sharedsignals.ErrOtherIssuer):
		return nil, httpapi.Fail(http.StatusForbidden, "sub_id "+err.Error())
	case err != nil:
		return nil, httpapi.Fail(http.StatusBadRequest, "sub_id "+err.Error())
	}
	return requests, nil
}
