package receiver

import (
	"net/http"
	"net/url"
	"slices"
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
		return &oauthError{http.StatusBadRequest, "unsupported_token_type", "only JWT access tokens can be revoked here"}
	}
	requests, p := c.tokenRequests(r, raw, claims, client)
	if p == nil && len(requests) > 0 { // none: no issuer would accept the token (section 2.2)
		_, p = c.api.Revoke(r, httpapi.SourceOAuth, actor, requests)
	}
	switch {
	case p == nil:
		return nil
	case p.Status == http.StatusForbidden:
		return &oauthError{http.StatusBadRequest, "unauthorized_client", p.Detail}
	}
	return oauthProblem(p)
}

// tokenRequests returns the requests that revoke the token; none if no issuer
// would accept it. client is empty for a holder of the API token, who may revoke
// any client's tokens.
func (c *receiver) tokenRequests(r *http.Request, raw string, claims authz.UnverifiedClaims, client string) ([]authz.RevocationRequest, *httpapi.Problem) {
	t, err := c.verifier.Verify(r.Context(), raw)
	later := err != nil && c.mayBecomeValid(err, claims)
	issuers := c.issuers.Introspecting(reasonOf(err) == authz.ReasonUnknownIssuer)
	if err == nil { // revoked under this issuer's name in any case
		issuers = slices.DeleteFunc(issuers, func(iss string) bool { return iss == t.Issuer })
	}
	switch {
	case err == nil || later:
	case c.retryable(err, raw):
		c.log.WarnContext(r.Context(), "a token to be revoked could not be verified", "reason", reasonOf(err).String())
		return nil, httpapi.Unavailable("the token cannot be verified at the moment; repeat the request")
	case len(issuers) == 0:
		return nil, nil
	}
	if client != "" && claims.IssuedToOtherClient(client) {
		return nil, httpapi.Fail(http.StatusForbidden, "the token was issued to another client")
	}
	if later && !slices.Contains(issuers, claims.Issuer) {
		issuers = append(issuers, claims.Issuer)
	}
	// The signature may not have been verified, but revoking the hash of a
	// forged token is harmless. Its exp is not trusted: the ledger keeps the
	// hash for max_token_ttl, which no valid token outlives.
	hash := authz.TokenValue(raw)
	const reason = "token revoked (RFC 7009)"
	var out []authz.RevocationRequest
	for _, iss := range issuers {
		out = append(out, authz.RevocationRequest{Issuer: &iss, Token: &hash, Reason: reason})
	}
	if err == nil {
		own := authz.RevocationRequest{Issuer: &t.Issuer, ExpiresAt: time.Unix(t.Expires, 0).Add(authz.ExpiryMargin), Reason: reason, FromClaims: true}
		if t.ID != "" {
			own.JTI = &t.ID
		} else {
			own.Token = &hash
		}
		out = append(out, own)
	}
	return out, nil
}

// mayBecomeValid reports whether a token that err refuses may be valid later or
// at another sidecar: it is not valid yet, or its key has not been fetched here.
func (c *receiver) mayBecomeValid(err error, claims authz.UnverifiedClaims) bool {
	reason := reasonOf(err)
	return (reason == authz.ReasonNotYetValid || reason == authz.ReasonUnknownKey) && slices.Contains(c.issuers.All(), claims.Issuer) &&
		claims.Expires > 0 && claims.Expires < authz.LastSecond && !claims.Expired(c.clock.Now())
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
	return &oauthError{http.StatusUnauthorized, "invalid_client", "client authentication failed"}
}

// oauthError is an error response of OAuth 2.0 and OpenID Connect (RFC 6749,
// section 5.2).
type oauthError struct {
	status      int
	Error       string `json:"error"`
	Description string `json:"error_description,omitzero"`
}

func invalidRequest(description string) *oauthError {
	return &oauthError{http.StatusBadRequest, "invalid_request", description}
}

func oauthProblem(p *httpapi.Problem) *oauthError {
	code := "invalid_request"
	if p.Status >= 500 {
		code = "temporarily_unavailable"
	}
	return &oauthError{p.Status, code, p.Detail}
}

func (e *oauthError) write(w http.ResponseWriter) {
	switch e.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="jwt-bouncer", Bearer realm="jwt-bouncer"`)
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		w.Header().Set("Retry-After", "1")
	}
	httpapi.WriteJSON(w, e.status, "application/json", e)
}
