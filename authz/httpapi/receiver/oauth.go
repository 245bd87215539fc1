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
	values, p := httpapi.ReadForm(w, r)
	if p != nil {
		writeOAuthProblem(w, p)
		return
	}
	client, actor, ok := c.authenticateClient(w, r, values)
	if !ok {
		return
	}
	raw := values.Get("token")
	if raw == "" {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "token is missing")
		return
	}
	claims, isJWT := authz.ReadUnverifiedClaims(raw)
	if !isJWT {
		// Not the 200 for invalid tokens of section 2.2: an opaque or refresh
		// token may be valid elsewhere, and cannot be revoked here.
		writeOAuthError(w, http.StatusBadRequest, "unsupported_token_type", "only JWT access tokens can be revoked here")
		return
	}
	requests, p := c.tokenRequests(r, raw, claims, client)
	switch {
	case p != nil && p.Status == http.StatusForbidden:
		writeOAuthError(w, http.StatusBadRequest, "unauthorized_client", p.Detail)
		return
	case p != nil:
		writeOAuthProblem(w, p)
		return
	case len(requests) == 0: // no issuer would accept the token: section 2.2
		w.WriteHeader(http.StatusOK)
		return
	}
	if _, p := c.api.Revoke(r, httpapi.SourceOAuth, actor, requests); p != nil {
		writeOAuthProblem(w, p)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// tokenRequests returns the requests that revoke the token; none if no issuer
// would accept it. client is empty for a holder of the API token, who may
// revoke the tokens of every client.
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

// mayBecomeValid reports whether a token that err refuses may be valid later,
// or at another sidecar: it is not valid yet, or its key has not been fetched
// here.
func (c *receiver) mayBecomeValid(err error, claims authz.UnverifiedClaims) bool {
	switch reasonOf(err) {
	case authz.ReasonNotYetValid, authz.ReasonUnknownKey:
		return slices.Contains(c.issuers.All(), claims.Issuer) && claims.Expires > 0 && claims.Expires < authz.LastSecond && !claims.Expired(c.clock.Now())
	}
	return false
}

// authenticateClient authenticates the client (RFC 6749, section 2.3.1), or
// else the holder of the API token. If it returns false, it has sent the
// response.
func (c *receiver) authenticateClient(w http.ResponseWriter, r *http.Request, values url.Values) (client, actor string, ok bool) {
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
			writeOAuthError(w, http.StatusBadRequest, "invalid_request", "more than one method of client authentication")
			return "", "", false
		}
		id, secret, basic = values.Get("client_id"), values.Get("client_secret"), true
	}
	if !basic {
		actor, p := c.api.Admit(r)
		if p == nil {
			return "", actor, true
		}
		if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusForbidden {
			writeOAuthProblem(w, p)
			return "", "", false
		}
		return c.refuseClient(w)
	}
	if named := values.Get("client_id"); named != "" && named != id {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "client_id is not the authenticated client")
		return "", "", false
	}
	at := slices.IndexFunc(c.clients, func(oc oauthClient) bool { return oc.id == id })
	if at < 0 {
		return c.refuseClient(w)
	}
	switch _, match, err := c.clients[at].secrets.Match(secret); {
	case err != nil:
		c.log.ErrorContext(r.Context(), "a client's secret_file cannot be used", "client", id, "error", err)
		writeOAuthProblem(w, httpapi.Unavailable("the client's secret cannot be read"))
		return "", "", false
	case !match:
		return c.refuseClient(w)
	}
	return id, "client:" + id, true
}

func (c *receiver) refuseClient(w http.ResponseWriter) (client, actor string, ok bool) {
	c.api.CountAuthFailure()
	w.Header().Set("WWW-Authenticate", `Basic realm="jwt-bouncer", Bearer realm="jwt-bouncer"`)
	writeOAuthError(w, http.StatusUnauthorized, "invalid_client", "client authentication failed")
	return "", "", false
}

// oauthError is an error response of OAuth 2.0 and OpenID Connect (RFC 6749,
// section 5.2).
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitzero"`
}

func writeOAuthError(w http.ResponseWriter, status int, code, description string) {
	if status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout {
		w.Header().Set("Retry-After", "1")
	}
	httpapi.WriteJSON(w, status, "application/json", oauthError{code, description})
}

// writeOAuthProblem sends p as an oauthError.
func writeOAuthProblem(w http.ResponseWriter, p *httpapi.Problem) {
	code := "invalid_request"
	if p.Status >= 500 {
		code = "temporarily_unavailable"
	}
	writeOAuthError(w, p.Status, code, p.Detail)
}
