package policy

import (
	"context"
	"slices"
	"time"

	"jwtbouncer/authz"
)

// Route determines which requests it matches and what they need. It is immutable
// once it is part of a Policy. The zero Route matches every request and needs a
// valid token in the Authorization header.
type Route struct {
	authz.RouteRule
	Issuers   []string // one of them must be "iss", or match it (authz.MatchIssuer); empty: any configured issuer
	Audiences []string // one of them must be in "aud"; empty: the issuer's audiences
	AnyScopes []string // the token must have one of them; empty: none is needed

	when        conditions
	credentials CredentialsConfig
	allow       []*expression
	require     string   // one of the constants; empty: nothing
	binding     *Binding // nil: sender-constrained tokens are denied

	issuerAudiences func(issuer string) []string // Options.Audiences
}

var _ authz.Route = (*Route)(nil)

// Rule implements authz.Route.
func (r *Route) Rule() *authz.RouteRule { return &r.RouteRule }

// AdmitWaits implements authz.Route: only a DPoP proof is verified and used up, and
// only a credential of that scheme has one.
func (r *Route) AdmitWaits(cred authz.Credential) bool { return cred.Scheme == "dpop" }

// Admit applies the rules of the route to a verified token. It returns nil if the
// token is admitted. It checks whether the caller may use the token before it
// checks what the token permits.
func (r *Route) Admit(ctx context.Context, req *authz.Request, cred authz.Credential, t *authz.Token, now time.Time) *authz.Failure {
	tr := req.Trace
	if fail := r.checkIssuer(t); (fail != nil || len(r.Issuers) > 0) &&
		tr.Judge("route issuers", fail, func() string { return "the route accepts tokens of this issuer" }) {
		return fail
	}
	if fail := r.checkAudience(t); tr.Judge("audience", fail, func() string { return "aud " + authz.QuoteList(t.Audience) }) {
		return fail
	}
	if fail := r.checkBinding(ctx, req, cred, t, now); (fail != nil || tr != nil && r.needsProof(cred, t)) &&
		tr.Judge("binding", fail, func() string { return "the sender has proven possession of the key" }) {
		return fail
	}
	if fail := r.checkScopes(t); (fail != nil || len(r.RequiredScopes)+len(r.AnyScopes) > 0) &&
		tr.Judge("scopes", fail, func() string { return "has " + authz.QuoteList(t.Scopes) }) {
		return fail
	}
	for _, e := range r.allow {
		if fail := e.admit(ctx, req, t, now); tr.Judge(e.label, fail, func() string { return e.text }) {
			return fail
		}
	}
	return nil
}

// needsProof reports whether a binding applies to the request.
func (r *Route) needsProof(cred authz.Credential, t *authz.Token) bool {
	_, bound := t.Claims["cnf"]
	return bound || r.require != "" || cred.Scheme == "dpop"
}

func (r *Route) checkIssuer(t *authz.Token) *authz.Failure {
	if len(r.Issuers) > 0 && !slices.ContainsFunc(r.Issuers, func(name string) bool { return authz.MatchIssuer(name, t.Issuer) }) {
		return &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: authz.Mismatch("iss", []string{t.Issuer}, "the route accepts", r.Issuers)}
	}
	return nil
}

func (r *Route) checkAudience(t *authz.Token) *authz.Failure {
	switch {
	case len(r.Audiences) == 0 && !t.Accepted:
		return &authz.Failure{Reason: authz.ReasonWrongAudience, Detail: authz.Mismatch("aud", t.Audience, "configured for the issuer", r.audiencesOf(t.Issuer))}
	case len(r.Audiences) > 0 && !containsAny(t.Audience, r.Audiences):
		return &authz.Failure{Reason: authz.ReasonWrongAudience, Detail: authz.Mismatch("aud", t.Audience, "the route accepts", r.Audiences)}
	}
	return nil
}

// audiencesOf returns the audiences that are configured for an issuer, for messages.
func (r *Route) audiencesOf(issuer string) []string {
	if r.issuerAudiences == nil {
		return nil
	}
	return r.issuerAudiences(issuer)
}

func (r *Route) checkScopes(t *authz.Token) *authz.Failure {
	for _, s := range r.RequiredScopes {
		if !slices.Contains(t.Scopes, s) {
			return &authz.Failure{Reason: authz.ReasonInsufficientScope, Detail: "scope " + s + " is missing"}
		}
	}
	if len(r.AnyScopes) > 0 && !containsAny(t.Scopes, r.AnyScopes) {
		return &authz.Failure{Reason: authz.ReasonInsufficientScope, Detail: "all scopes of any_scopes are missing"}
	}
	return nil
}

func containsAny(have, want []string) bool {
	return slices.ContainsFunc(want, func(w string) bool { return slices.Contains(have, w) })
}
