package authz

import (
	"context"
	"slices"
	"time"
)

// Route says which requests it is for and what they need. It is immutable
// once it is part of a Policy. The zero Route is for every request and needs a
// valid token in the Authorization header.
type Route struct {
	Name                   string
	Public                 bool     // no credential needed; identity headers are removed all the same
	Issuers                []string // "iss" must be one of them; empty: every configured issuer
	Audiences              []string // one of them must be in "aud"; empty: the issuer's audiences
	Scopes                 []string // all of them are needed; empty: none
	AnyScopes              []string // one of them is needed; empty: none
	AllowRevocationUnknown bool     // on_revocation_unknown: allow. False (deny) is the default

	when    conditions
	sources credentialSources
	allow   []*expression
	require bindingNeed
	binding *Binding     // nil: only unbound tokens can be used
	opaque  Introspector // nil: opaque tokens are malformed
}

// Admit applies the route's rules to a verified token. nil: admitted. Who may
// use the token at all comes before what it may be used for.
func (r *Route) Admit(ctx context.Context, req *Request, cred Credential, t *Token, now time.Time) *Failure {
	if fail := r.checkIssuer(t); fail != nil {
		return fail
	}
	if fail := r.checkAudience(t); fail != nil {
		return fail
	}
	if fail := r.checkBinding(ctx, req, cred, t, now); fail != nil {
		return fail
	}
	if fail := r.checkScopes(t); fail != nil {
		return fail
	}
	for _, e := range r.allow {
		if fail := e.admit(ctx, req, t); fail != nil {
			return fail
		}
	}
	return nil
}

func (r *Route) checkIssuer(t *Token) *Failure {
	if len(r.Issuers) > 0 && !slices.Contains(r.Issuers, t.Issuer) {
		return &Failure{Reason: ReasonUnknownIssuer, Detail: "the route does not take tokens of this issuer"}
	}
	return nil
}

func (r *Route) checkAudience(t *Token) *Failure {
	switch {
	case len(r.Audiences) == 0 && !t.Accepted:
		return &Failure{Reason: ReasonWrongAudience, Detail: "aud names none of the issuer's audiences"}
	case len(r.Audiences) > 0 && !containsAny(t.Audience, r.Audiences):
		return &Failure{Reason: ReasonWrongAudience, Detail: "aud names none of the route's audiences"}
	}
	return nil
}

func (r *Route) checkScopes(t *Token) *Failure {
	for _, s := range r.Scopes {
		if !slices.Contains(t.Scopes, s) {
			return &Failure{Reason: ReasonInsufficientScope, Detail: "scope " + s + " is missing"}
		}
	}
	if len(r.AnyScopes) > 0 && !containsAny(t.Scopes, r.AnyScopes) {
		return &Failure{Reason: ReasonInsufficientScope, Detail: "none of the scopes in any_scopes is present"}
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
