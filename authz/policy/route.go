package policy

import (
	"context"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// CompiledRoute says which requests it is for and what they need. It is immutable
// once it is part of a CompiledPolicy. The zero CompiledRoute is for every request and needs a
// valid token in the Authorization header.
type Route struct {
	authz.RouteRule
	Issuers   []string // "iss" must be one of them; empty: every configured issuer
	Audiences []string // one of them must be in "aud"; empty: the issuer's audiences
	AnyScopes []string // one of them is needed; empty: none

	when    conditions
	sources credentialSources
	allow   []*expression
	require bindingNeed
	binding *Binding // nil: only unbound tokens can be used
}

var _ authz.Route = (*Route)(nil)

// Rule returns what the Authorizer's walk depends on.
func (r *Route) Rule() *authz.RouteRule { return &r.RouteRule }

// Admit applies the route's rules to a verified token. nil: admitted. Who may
// use the token at all comes before what it may be used for.
func (r *Route) Admit(ctx context.Context, req *authz.Request, cred authz.Credential, t *authz.Token, now time.Time) *authz.Failure {
	tr := req.Trace
	if fail := r.checkIssuer(t); (fail != nil || len(r.Issuers) > 0) &&
		tr.Judge("route issuers", fail, func() string { return "the route takes tokens of this issuer" }) {
		return fail
	}
	if fail := r.checkAudience(t); tr.Judge("audience", fail, func() string { return "aud " + quoteList(t.Audience) }) {
		return fail
	}
	if fail := r.checkBinding(ctx, req, cred, t, now); (fail != nil || tr != nil && r.needsProof(cred, t)) &&
		tr.Judge("binding", fail, func() string { return "the sender has proven possession of the key" }) {
		return fail
	}
	if fail := r.checkScopes(t); (fail != nil || len(r.RequiredScopes)+len(r.AnyScopes) > 0) &&
		tr.Judge("scopes", fail, func() string { return "has " + quoteList(t.Scopes) }) {
		return fail
	}
	for _, e := range r.allow {
		if fail := e.admit(ctx, req, t); tr.Judge(e.label, fail, func() string { return e.text }) {
			return fail
		}
	}
	return nil
}

// needsProof reports whether the binding of t is a rule of this request at all.
func (r *Route) needsProof(cred authz.Credential, t *authz.Token) bool {
	_, bound := t.Claims["cnf"]
	return bound || r.require != needNone || cred.Scheme == "dpop"
}

// quoteList words a list of claims for a trace.
func quoteList(list []string) string {
	const most = 10
	if len(list) == 0 {
		return "is empty"
	}
	quoted := make([]string, 0, most+1)
	for i, s := range list {
		if i == most {
			quoted = append(quoted, "…")
			break
		}
		quoted = append(quoted, authz.QuoteShort(s))
	}
	return strings.Join(quoted, ", ")
}

func (r *Route) checkIssuer(t *authz.Token) *authz.Failure {
	if len(r.Issuers) > 0 && !slices.Contains(r.Issuers, t.Issuer) {
		return &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: "the route does not take tokens of this issuer"}
	}
	return nil
}

func (r *Route) checkAudience(t *authz.Token) *authz.Failure {
	switch {
	case len(r.Audiences) == 0 && !t.Accepted:
		return &authz.Failure{Reason: authz.ReasonWrongAudience, Detail: "aud names none of the issuer's audiences"}
	case len(r.Audiences) > 0 && !containsAny(t.Audience, r.Audiences):
		return &authz.Failure{Reason: authz.ReasonWrongAudience, Detail: "aud names none of the route's audiences"}
	}
	return nil
}

func (r *Route) checkScopes(t *authz.Token) *authz.Failure {
	for _, s := range r.RequiredScopes {
		if !slices.Contains(t.Scopes, s) {
			return &authz.Failure{Reason: authz.ReasonInsufficientScope, Detail: "scope " + s + " is missing"}
		}
	}
	if len(r.AnyScopes) > 0 && !containsAny(t.Scopes, r.AnyScopes) {
		return &authz.Failure{Reason: authz.ReasonInsufficientScope, Detail: "none of the scopes in any_scopes is present"}
	}
	return nil
}

func containsAny(have, want []string) bool {
	for _, w := range want {
		if slices.Contains(have, w) {
			return true
		}
	}
	return false
}
