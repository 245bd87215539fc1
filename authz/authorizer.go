package authz

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// Authorizer is the decision: match route → find credential → verify token →
// route's rules → revocation. The first step that objects ends the walk.
type Authorizer struct {
	verifier Verifier
	tokens   TokenCache // nil: every token is verified every time
	chain    *Chain
	policy   atomic.Pointer[Policy]
	clock    Clock
}

// NewAuthorizer returns an Authorizer. tokens may be nil; everything else is
// required.
func NewAuthorizer(v Verifier, tokens TokenCache, chain *Chain, p *Policy, clock Clock) *Authorizer {
	a := &Authorizer{verifier: v, tokens: tokens, chain: chain, clock: clock}
	a.policy.Store(p)
	return a
}

// SetPolicy replaces the routes for all requests that start later.
func (a *Authorizer) SetPolicy(p *Policy) { a.policy.Store(p) }

// Policy returns the routes in force.
func (a *Authorizer) Policy() *Policy { return a.policy.Load() }

// Authorize decides about one request. It never panics, and ends by ctx's
// deadline; what could not be decided by then is denied.
func (a *Authorizer) Authorize(ctx context.Context, req *Request) (d Decision) {
	defer func() {
		if p := recover(); p != nil {
			d = Decision{Reason: ReasonInternal, Detail: fmt.Sprintf("panic: %T", p)}
		}
	}()
	route, fail := a.policy.Load().Match(req)
	if fail != nil {
		return d.deny(fail)
	}
	if route == nil {
		return Decision{Reason: ReasonNoRoute, Detail: "no route matches"}
	}
	d.Route, d.RequiredScopes = route.Name, route.Scopes
	if route.Public {
		d.Reason = ReasonAllowedAnonymous
		return d
	}
	cred, fail := route.Find(req)
	if fail != nil {
		return d.deny(fail)
	}
	d.Credential = cred
	token, err := a.identify(ctx, route, cred.Raw)
	if err != nil {
		return d.deny(err)
	}
	d.Token = token
	if fail := route.Admit(ctx, req, cred, token, a.clock.Now()); fail != nil {
		return d.deny(fail)
	}
	q := token.Query()
	verdict, err := a.chain.Lookup(ctx, &q)
	switch {
	case verdict == Revoked:
		d.Reason, d.Detail = ReasonRevoked, "the token has been revoked"
	case verdict == NotRevoked && err == nil:
		d.Reason = ReasonAllowed
	case route.AllowRevocationUnknown:
		d.Reason, d.RevocationUnknown = ReasonAllowed, true
	default:
		d.Reason, d.Detail = ReasonRevocationUnknown, "no tier could prove that the token is not revoked"
		if err != nil {
			d.Detail += ": " + err.Error()
		}
	}
	return d
}

// identify makes a Token of the credential's text: a JWT of a configured issuer
// is verified here; the rest is for its issuer to say, on routes with
// introspection.
func (a *Authorizer) identify(ctx context.Context, route *Route, raw string) (*Token, error) {
	if route.opaque == nil || route.opaque.Local(raw) {
		t, err := a.verify(ctx, raw)
		if route.opaque == nil || !ofUnknownIssuer(err) {
			return t, err
		}
	}
	t, err := route.opaque.Introspect(ctx, raw)
	if err == nil && t == nil {
		return nil, &Failure{Reason: ReasonInternal, Detail: "introspector returned neither token nor error"}
	}
	return t, err
}

// ofUnknownIssuer reports whether err says that a token is of no issuer that is
// configured, or names none.
func ofUnknownIssuer(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.Reason == ReasonUnknownIssuer
}

// verify answers from the cache where it can. Only a token that the verifier
// accepted is ever remembered.
func (a *Authorizer) verify(ctx context.Context, raw string) (*Token, error) {
	if a.tokens != nil {
		if t, ok := a.tokens.Get(raw); ok && a.verifier.Current(t, a.clock.Now().Unix()) {
			return t, nil
		}
	}
	t, err := a.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	if t == nil { // a broken verifier must not become an allow
		return nil, &Failure{Reason: ReasonInternal, Detail: "verifier returned neither token nor error"}
	}
	if a.tokens != nil {
		a.tokens.Put(t)
	}
	return t, nil
}

func (d Decision) deny(err error) Decision {
	var f *Failure
	if errors.As(err, &f) && f.Reason != ReasonAllowed && f.Reason != ReasonAllowedAnonymous {
		d.Reason, d.Detail, d.Challenge = f.Reason, f.Detail, f.Challenge
	} else {
		d.Reason, d.Detail = ReasonInternal, "unclassified failure"
	}
	return d
}
