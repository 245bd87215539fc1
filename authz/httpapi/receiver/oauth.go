package receiver

import (
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

// oauthClient may revoke its tokens (RFC 7009).
type oauthClient struct {
	id      string
	secrets *httpapi.TokenFile
}

// revokeToken is the revocation endpoint of RFC 7009.
func (c *receiver) revokeToken(w http.ResponseWriter, r *http.Request) {
	if e := c.revokeForm(w, r); e != nil {
		e.write(w)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (c *receiver) revokeForm(w http.ResponseWriter, r *http.Request) *oauthError {
	values, p := httpapi.ReadForm(w, r)
	if p != nil {
		return oauthProblem(p)
	}
	client, actor, e := c.authenticateClient(r, values)
	if e != nil {
		return e
	}
	raw := values.Get("token")
	if raw == "" {
		return invalidRequest("token is missing")
	}
	claims, isJWT := authz.ReadUnverifiedClaims(raw)
	if !isJWT {
		// Not the 200 for invalid tokens of section 2.2: an opaque or refresh
		// token may be valid elsewhere, and cannot be revoked here.
		return &oauthError{status: http.StatusBadRequest, Error: "unsupported_token_type", Description: "only JWT access tokens can be revoked here"}
	}
	requests, verified, p := c.tokenRequests(r, raw, claims, client)
	if p == nil && len(requests) > 0 { // none: no sidecar will ever accept the token (section 2.2)
		if wait := c.unverified.take(actor, verified); wait > 0 {
			return &oauthError{
				status: http.StatusServiceUnavailable, Error: "temporarily_unavailable", retryAfter: wait, // section 2.2.1
				Description: "too many tokens that cannot be verified here; the token has not been revoked, repeat the request later",
			}
		}
		_, p = c.api.Revoke(r.Context(), httpapi.SourceOAuth, actor, requests)
	}
	switch {
	case p == nil:
		return nil
	case p.Status == http.StatusForbidden:
		return &oauthError{status: http.StatusBadRequest, Error: "unauthorized_client", Description: p.Detail}
	}
	return oauthProblem(p)
}

// tokenRequests returns the requests that revoke the token; none if no sidecar
// will ever accept it. verified says that its issuer signed it: the caller cannot
// have made it up. client is empty for a holder of the API token, who may revoke
// any client's tokens.
func (c *receiver) tokenRequests(r *http.Request, raw string, claims authz.UnverifiedClaims, client string) (out []authz.RevocationRequest, verified bool, p *httpapi.Problem) {
	t, err := c.verifier.Verify(r.Context(), raw)
	refusal := authz.AsFailure(err)
	asked, own := c.namesOf(refusal, claims)
	switch {
	case err == nil: // under this name in any case
		asked, own = slices.DeleteFunc(asked, func(iss string) bool { return iss == t.Issuer }), nil
	case fateOf(refusal) == undecided:
		c.log.WarnContext(r.Context(), "a token to be revoked could not be verified", "reason", refusal.Reason.String())
		return nil, false, errUnverifiable
	case fateOf(refusal) == nowhere:
		own = nil
	}
	if err != nil && len(asked)+len(own) == 0 {
		return nil, false, nil
	}
	if client != "" && claims.IssuedToOtherClient(client) {
		return nil, false, httpapi.Fail(http.StatusForbidden, "the token was issued to another client")
	}
	// The signature may not have been verified, but revoking the hash of a forged
	// token is harmless.
	const reason = "token revoked (RFC 7009)"
	hash := authz.TokenValue(raw)
	verified = err == nil || signed(refusal)
	lasting := claims.Ageless(c.clock.Now()) && time.Unix(int64(claims.Expires), 0).After(c.clock.Now().Add(c.maxTokenTTL))
	if lasting && !verified && len(asked) > 0 {
		return nil, false, errLasting
	}
	for _, iss := range asked { // an introspected issuer need not heed exp: max_token_ttl counts
		out = append(out, authz.RevocationRequest{Issuer: &iss, Token: &hash, Reason: reason})
		if lasting { // the ledger keeps the later expiry
			out = append(out, authz.RevocationRequest{Issuer: &iss, Token: &hash, ExpiresAt: time.Unix(int64(claims.Expires), 0).Add(authz.ExpiryMargin), Reason: reason})
		}
	}
	for _, iss := range own {
		until, known := c.hashExpiry(claims, verified)
		if !known {
			return nil, false, errUnverifiable
		}
		out = append(out, authz.RevocationRequest{Issuer: &iss, Token: &hash, ExpiresAt: until, Reason: reason})
	}
	if err == nil {
		q := authz.RevocationRequest{Issuer: &t.Issuer, ExpiresAt: time.Unix(t.Expires, 0).Add(authz.ExpiryMargin), Reason: reason, FromClaims: true}
		if t.ID != "" {
			q.JTI = &t.ID
		} else {
			q.Token = &hash
		}
		out = append(out, q)
	}
	return out, verified, nil
}

// authenticateClient authenticates the client (RFC 6749, section 2.3.1), or
// else the holder of the API token.
func (c *receiver) authenticateClient(r *http.Request, values url.Values) (client, actor string, e *oauthError) {
	id, secret, basic := r.BasicAuth()
	if basic {
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil {
			id, secret = "", ""
		}
	}
	if values.Has("client_secret") {
		if basic || r.Header.Get("Authorization") != "" {
			return "", "", invalidRequest("more than one method of client authentication")
		}
		id, secret, basic = values.Get("client_id"), values.Get("client_secret"), true
	}
	if !basic {
		actor, p := c.api.Admit(r)
		switch {
		case p == nil:
			return "", actor, nil
		case p.Status == http.StatusServiceUnavailable || p.Status == http.StatusForbidden:
			return "", "", oauthProblem(p)
		}
		return "", "", c.refuseClient()
	}
	if named := values.Get("client_id"); named != "" && named != id {
		return "", "", invalidRequest("client_id is not the authenticated client")
	}
	at := slices.IndexFunc(c.clients, func(oc oauthClient) bool { return oc.id == id })
	if at < 0 {
		return "", "", c.refuseClient()
	}
	switch _, match, err := c.clients[at].secrets.Match(secret); {
	case err != nil:
		c.log.ErrorContext(r.Context(), "a client's secret_file cannot be used", "client", id, "error", err)
		return "", "", oauthProblem(httpapi.Unavailable("the client's secret cannot be read"))
	case !match:
		return "", "", c.refuseClient()
	}
	return id, "client:" + id, nil
}

func (c *receiver) refuseClient() *oauthError {
	c.api.CountAuthFailure()
	return &oauthError{status: http.StatusUnauthorized, Error: "invalid_client", Description: "client authentication failed"}
}

// oauthError is an error response of OAuth 2.0 and OpenID Connect (RFC 6749,
// section 5.2).
type oauthError struct {
	status      int
	Error       string        `json:"error"`
	Description string        `json:"error_description,omitzero"`
	retryAfter  time.Duration // of a 503; 0: a second
}

func invalidRequest(description string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, Error: "invalid_request", Description: description}
}

func oauthProblem(p *httpapi.Problem) *oauthError {
	code := "invalid_request"
	if p.Status >= 500 {
		code = "temporarily_unavailable"
	}
	return &oauthError{status: p.Status, Error: code, Description: p.Detail}
}

func (e *oauthError) write(w http.ResponseWriter) {
	switch e.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="jwt-bouncer", Bearer realm="jwt-bouncer"`)
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds := max(1, int(math.Ceil(e.retryAfter.Seconds())))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	httpapi.WriteJSON(w, e.status, "application/json", e)
}
