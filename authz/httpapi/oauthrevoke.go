package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// oauthClient may call the RFC 7009 door.
type oauthClient struct {
	id      string
	secrets *tokenFile
}

func openClients(configured []ClientConfig) ([]oauthClient, error) {
	var clients []oauthClient
	for i, c := range configured {
		secrets, err := openTokenFile(c.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("api.clients[%d].secret_file: %w", i, err)
		}
		clients = append(clients, oauthClient{c.ID, secrets})
	}
	return clients, nil
}

// oauthRevoke is the revocation endpoint of RFC 7009.
func (a *api) oauthRevoke(w http.ResponseWriter, r *http.Request) {
	values, p := form(w, r)
	if p != nil {
		oauthProblem(w, p)
		return
	}
	client, actor, ok := a.oauthCaller(w, r, values)
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
		// token may well be good elsewhere, and this is not where it ends.
		writeOAuthError(w, http.StatusBadRequest, "unsupported_token_type", "only JWT access tokens can be revoked here")
		return
	}
	requests, p := a.tokenRequests(r, raw, claims, client)
	switch {
	case p != nil && p.Status == http.StatusForbidden:
		writeOAuthError(w, http.StatusBadRequest, "unauthorized_client", p.Detail)
		return
	case p != nil:
		oauthProblem(w, p)
		return
	case len(requests) == 0: // nothing that anybody would accept: section 2.2
		w.WriteHeader(http.StatusOK)
		return
	}
	if _, p := a.revoke(r, doorOAuth, actor, requests); p != nil {
		oauthProblem(w, p)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// tokenRequests returns what ends the token; none when it has no effect
// anyway. client is empty for a holder of the API's own token, who may revoke
// everybody's.
func (a *api) tokenRequests(r *http.Request, raw string, claims authz.UnverifiedClaims, client string) ([]authz.RevocationRequest, *problem) {
	t, err := a.verifier.Verify(r.Context(), raw)
	later := err != nil && a.goodLater(err, claims)
	asked := a.issuers.Introspecting(reasonOf(err) == authz.ReasonUnknownIssuer)
	if err == nil { // under that name it is revoked in any case
		asked = slices.DeleteFunc(asked, func(iss string) bool { return iss == t.Issuer })
	}
	switch {
	case err == nil || later:
	case a.couldNotFindOut(err, raw):
		a.log.WarnContext(r.Context(), "a token to be revoked could not be verified", "reason", reasonOf(err).String())
		return nil, unavailable("the token could not be verified for now; repeat the request")
	case len(asked) == 0:
		return nil, nil
	}
	if client != "" && claims.IssuedToOtherClient(client) {
		return nil, fail(http.StatusForbidden, "the token was issued to another client")
	}
	// Whether the signature is good cannot always be told from here, but the
	// hash of a forged one harms nobody. Nor is its exp believed: the ledger
	// keeps the hash for max_token_ttl, which no good token outlives.
	hash := authz.TokenValue(raw)
	const reason = "token revoked (RFC 7009)"
	var out []authz.RevocationRequest
	for _, iss := range asked {
		out = append(out, authz.RevocationRequest{Issuer: &iss, Token: &hash, Reason: reason})
	}
	switch {
	case later && !slices.Contains(asked, claims.Issuer):
		out = append(out, authz.RevocationRequest{Issuer: &claims.Issuer, Token: &hash, Reason: reason})
	case err == nil:
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

// oauthCaller authenticates the client (RFC 6749, section 2.3.1), or else the
// holder of the API's token. When it answers false, the reply has been written.
func (a *api) oauthCaller(w http.ResponseWriter, r *http.Request, values url.Values) (client, actor string, ok bool) {
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
			writeOAuthError(w, http.StatusBadRequest, "invalid_request", "more than one way of client authentication")
			return "", "", false
		}
		id, secret, basic = values.Get("client_id"), values.Get("client_secret"), true
	}
	if !basic {
		actor, p := a.admit(r)
		if p == nil {
			return "", actor, true
		}
		if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusForbidden {
			oauthProblem(w, p)
			return "", "", false
		}
		return a.refuseClient(w)
	}
	if named := values.Get("client_id"); named != "" && named != id {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "client_id is not the authenticated client")
		return "", "", false
	}
	at := slices.IndexFunc(a.clients, func(c oauthClient) bool { return c.id == id })
	if at < 0 {
		return a.refuseClient(w)
	}
	switch _, match, err := a.clients[at].secrets.match(secret); {
	case err != nil:
		a.log.ErrorContext(r.Context(), "a client's secret_file cannot be used", "client", id, "error", err)
		oauthProblem(w, unavailable("the client's secret cannot be read"))
		return "", "", false
	case !match:
		return a.refuseClient(w)
	}
	return id, "client:" + id, true
}

func (a *api) refuseClient(w http.ResponseWriter) (client, actor string, ok bool) {
	a.metrics.authFailures.Inc()
	challenges := []string{`Basic realm="jwt-bouncer"`, `Bearer realm="jwt-bouncer"`}
	w.Header().Set("WWW-Authenticate", strings.Join(challenges, ", "))
	writeOAuthError(w, http.StatusUnauthorized, "invalid_client", "client authentication failed")
	return "", "", false
}

// goodLater reports whether a token that is refused here and now may be good
// later, or elsewhere already: it is not valid yet, or under a key that has not
// been fetched here.
func (a *api) goodLater(err error, c authz.UnverifiedClaims) bool {
	switch reasonOf(err) {
	case authz.ReasonNotYetValid, authz.ReasonUnknownKey:
		return slices.Contains(a.issuers.All(), c.Issuer) && c.Expires > 0 && c.Expires < authz.LastSecond && !c.Expired(a.clock.Now())
	}
	return false
}
