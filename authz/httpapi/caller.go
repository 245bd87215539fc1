package httpapi

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
)

type actorKey struct{}

// WithActor returns r as authenticated: actor is who the ledger and the audit
// log name.
func WithActor(r *http.Request, actor string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), actorKey{}, actor))
}

// ActorOf returns who the request was authenticated as; "" if it was not.
func ActorOf(r *http.Request) string {
	s, _ := r.Context().Value(actorKey{}).(string)
	return s
}

// Tokens returns the API's tokens; nil: no token is required.
func (a *API) Tokens() *TokenFile { return a.tokens }

// CountAuthFailure counts a request that was refused because it had no valid
// credential.
func (a *API) CountAuthFailure() { a.metrics.authFailures.Inc() }

// Admit returns who a request comes from. Without a token file, which Config
// allows on loopback only, it admits every process on this machine, but no web
// page that reached it under a host name of its own.
func (a *API) Admit(r *http.Request) (actor string, p *Problem) {
	if a.tokens == nil {
		if !a.knownHost(r.Host) {
			return "", Fail(http.StatusForbidden, "the Host header is neither localhost, nor an IP address, nor one of api.hosts")
		}
		return "local", nil
	}
	scheme, presented, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if len(r.Header.Values("Authorization")) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return "", Fail(http.StatusUnauthorized, "an API token is needed: Authorization: Bearer …")
	}
	name, ok, err := a.tokens.Match(strings.TrimSpace(presented))
	switch {
	case err != nil:
		a.o.Logger.ErrorContext(r.Context(), "api.token_file cannot be used; all callers are refused", "error", err)
		return "", Unavailable("the API tokens cannot be read")
	case !ok:
		return "", Fail(http.StatusUnauthorized, "the token is not a valid API token")
	}
	return "api:" + name, nil
}

// authenticate returns the request with its actor, or why it is refused.
func (a *API) authenticate(w http.ResponseWriter, r *http.Request) (*http.Request, *Problem) {
	actor, p := a.Admit(r)
	if p == nil {
		return WithActor(r, actor), nil
	}
	if p.Status != http.StatusServiceUnavailable {
		a.CountAuthFailure()
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="jwt-bouncer"`)
	}
	return r, p
}

// knownHost refuses names that an attacker's DNS could point at this machine.
func (a *API) knownHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil { // without a port
		host = hostport
	}
	host = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), ".")
	return strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil ||
		slices.ContainsFunc(a.o.Config.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}
