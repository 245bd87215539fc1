package authz

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Policy selects the route of a request.
type Policy interface {
	// Match returns the first route that matches; nil if none does. It returns a
	// failure if servers may read the request in ways that match different routes.
	Match(req *Request) (Route, *Failure)
}

// Route holds the rules for the requests that match it. It is immutable.
type Route interface {
	// Rule returns the facts that the Authorizer itself depends on.
	Rule() *RouteRule
	// Find takes the credential out of the request (RFC 6750, section 2).
	Find(req *Request) (Credential, *Failure)
	// AdmitWaits reports whether Admit may wait, verify a signature, or use up
	// anything, such as a DPoP proof, for a request with the credential. It does
	// none of these itself.
	AdmitWaits(cred Credential) bool
	// Admit applies the route's rules to a verified token; nil: admitted. It
	// records each rule in req.Trace.
	Admit(ctx context.Context, req *Request, cred Credential, t *Token, now time.Time) *Failure
}

// RouteRule holds the facts of a route that the Authorizer depends on. The zero
// RouteRule requires a verified token that is proven not revoked.
type RouteRule struct {
	Name                   string
	Public                 bool         // no credential needed; identity headers are removed all the same
	RequiredScopes         []string     // named in the challenge when scopes are missing (RFC 6750, section 3)
	Introspector           Introspector // judges tokens that the verifier does not know; nil: they are refused
	AllowRevocationUnknown bool         // on_revocation_unknown: allow; false: deny
	EndStreams             bool         // an open stream ends with its token; false: it is not asked about again
}

// Authorizer is the decision: match route → find credential → verify token →
// route's rules → revocation. The first step that objects ends the walk.
type Authorizer struct {
	verifier    Verifier
	tokens      TokenCache // nil: every token is verified every time
	revocations Tier
	policy      atomic.Pointer[Policy]
	clock       Clock
}

// NewAuthorizer returns an Authorizer. tokens may be nil; everything else is
// required.
func NewAuthorizer(v Verifier, tokens TokenCache, revocations Tier, p Policy, clock Clock) *Authorizer {
	a := &Authorizer{verifier: v, tokens: tokens, revocations: revocations, clock: clock}
	a.policy.Store(&p)
	return a
}

// SetPolicy replaces the routes for all requests that start later.
func (a *Authorizer) SetPolicy(p Policy) { a.policy.Store(&p) }

// Authorize decides about one request. It never panics, and denies what it
// could not decide by ctx's deadline.
func (a *Authorizer) Authorize(ctx context.Context, req *Request) (d Decision) {
	defer func() {
		if p := recover(); p != nil {
			d = panicked(p)
		}
	}()
	d, _ = a.walk(ctx, req, waiting)
	if fail := req.Trace.firstObjection(); fail != nil { // the walk continued only for the trace
		return d.deny(fail)
	}
	return d
}

// AuthorizeNow decides about one request on the calling goroutine if nothing has to
// be waited for: the credential decides by itself, or its token is cached and the
// nearest tier has proof. The Decision is then the one that Authorize returns.
// Otherwise decided is false and the call has had no effect: no metric has changed,
// no cache, and no proof is used up. It verifies no signature, and decides no
// request with a Trace. It never panics.
func (a *Authorizer) AuthorizeNow(req *Request) (d Decision, decided bool) {
	if req.Trace != nil {
		return Decision{}, false
	}
	defer func() {
		if p := recover(); p != nil {
			d, decided = panicked(p), true
		}
	}()
	d, err := a.walk(context.Background(), req, immediate)
	return d, err == nil
}

// panicked is the decision of a walk that ended with a panic. The value is not part of
// it, because it may quote the request.
func panicked(value any) Decision {
	return Decision{Reason: ReasonInternal, Detail: fmt.Sprintf("panic: %T", value)}
}

// mode says whether a walk may wait.
type mode uint8

const (
	waiting   mode = iota // the walk always decides
	immediate             // the walk ends with errWouldWait before it waits or has an effect
)

// errWouldWait is the only error of a walk: it has decided nothing.
var errWouldWait = errors.New("the decision would have to wait")

func (a *Authorizer) walk(ctx context.Context, req *Request, m mode) (d Decision, err error) {
	tr := req.Trace
	route, fail := (*a.policy.Load()).Match(req)
	if route == nil && fail == nil {
		fail = &Failure{Reason: ReasonNoRoute, Detail: "no route matches"}
	}
	if tr.Halt("route", fail, func() string { return describeRoute(route.Rule()) }) {
		return d.deny(fail), nil
	}
	rule := route.Rule()
	d.Route, d.RequiredScopes = rule.Name, rule.RequiredScopes
	if rule.Public {
		d.Reason = ReasonAllowedAnonymous
		return d, nil
	}
	cred, fail := route.Find(req)
	if tr.Halt("credential", fail, func() string { return cred.Scheme + " token found in " + cred.Source }) {
		return d.deny(fail), nil
	}
	d.Credential = cred
	token, err := a.identify(ctx, rule, req, cred.Raw, m)
	switch {
	case errors.Is(err, errWouldWait):
		return Decision{}, errWouldWait
	case err != nil:
		return d.deny(err), nil
	case m == immediate && route.AdmitWaits(cred):
		return Decision{}, errWouldWait
	}
	d.Token = token
	if fail := route.Admit(ctx, req, cred, token, a.clock.Now()); fail != nil {
		a.countHit(cred.Raw, m)
		return d.deny(fail), nil
	}
	d, err = a.revocation(ctx, rule, d, tr, m)
	if rule.EndStreams && d.Reason == ReasonAllowed {
		d.Grant = newGrant(rule, &d, req.Source.Address)
	}
	return d, err
}

func describeRoute(r *RouteRule) string {
	if r.Public {
		return "route " + r.Name + " is public: no token is evaluated"
	}
	return "route " + r.Name
}

// revocation completes d with the last step. Only a proof allows, or a route
// that says on_revocation_unknown: allow.
func (a *Authorizer) revocation(ctx context.Context, rule *RouteRule, d Decision, tr *Trace, m mode) (Decision, error) {
	if why := tr.skipsLookup(); why != "" {
		tr.Skip("revocation", ReasonRevocationUnknown, why)
		return d, nil
	}
	q := d.Token.Query()
	verdict, err := a.lookup(ctx, &q, m)
	if errors.Is(err, errWouldWait) {
		return Decision{}, errWouldWait
	}
	a.countHit(d.Credential.Raw, m)
	var fail *Failure
	detail := "not revoked"
	switch {
	case verdict == Revoked:
		fail = revoked()
	case verdict == NotRevoked && err == nil:
		d.Reason = ReasonAllowed
	case rule.AllowRevocationUnknown:
		d.Reason, d.RevocationUnknown = ReasonAllowed, true
		detail = "no tier could prove that the token is not revoked; the route allows that (on_revocation_unknown)"
	default:
		fail = &Failure{Reason: ReasonRevocationUnknown, Detail: "no tier could prove that the token is not revoked"}
		if err != nil {
			fail.Detail += ": " + err.Error()
		}
	}
	if tr.Halt("revocation", fail, func() string { return detail }) {
		return d.deny(fail), nil
	}
	return d, nil
}

func revoked() *Failure {
	return &Failure{Reason: ReasonRevoked, Detail: "the token has been revoked"}
}

// lookup asks the tiers. An immediate one returns Revoked or NotRevoked with proof, or
// errWouldWait.
func (a *Authorizer) lookup(ctx context.Context, q *Query, m mode) (Verdict, error) {
	if m == waiting {
		return a.revocations.Lookup(ctx, q)
	}
	verdict, proven := a.revocations.LookupNow(q)
	if !proven || verdict != Revoked && verdict != NotRevoked {
		return Unknown, errWouldWait
	}
	return verdict, nil
}

// countHit makes an immediate walk that has decided count as a use of the cached
// token, which verify has only looked at.
func (a *Authorizer) countHit(raw string, m mode) {
	if m == immediate {
		_, _ = a.tokens.Get(raw)
	}
}

// identify turns the credential's text into a Token. The verifier judges JWTs of
// configured issuers. On routes with introspection, the issuer judges all others,
// and JWTs of configured issuers too unless the introspector leaves them to the
// verifier.
func (a *Authorizer) identify(ctx context.Context, rule *RouteRule, req *Request, raw string, m mode) (*Token, error) {
	in, tr := rule.Introspector, req.Trace
	if m == immediate {
		return a.cached(in, raw)
	}
	if in == nil {
		return a.verify(ctx, raw, tr, false)
	}
	local := in.Local(raw)
	var verified *Token
	if _, jwt := SignedPart(raw); local || jwt {
		t, err := a.verify(ctx, raw, tr, true)
		switch {
		case err == nil && local, err != nil && !ofUnknownIssuer(err):
			return t, err
		case err == nil:
			verified = t
		}
	}
	if tr.isOffline() {
		tr.Skip("introspection", ReasonRevocationUnknown, "the issuer would be asked about this token, which needs the network")
		return nil, tr.firstObjection()
	}
	t, err := requireToken(in.Introspect(ctx, raw, verified, req.Source.Address))
	if tr.Halt("introspection", AsFailure(err), func() string { return "the issuer reports an active token" }) {
		return nil, err
	}
	return t, nil
}

// cached is identify for an immediate walk: it finds only tokens that the verifier
// alone judges and has accepted before.
func (a *Authorizer) cached(in Introspector, raw string) (*Token, error) {
	if a.tokens == nil || in != nil && !in.Local(raw) {
		return nil, errWouldWait
	}
	t, ok := a.tokens.Peek(raw)
	if !ok || !a.verifier.Current(t, a.clock.Now().Unix()) {
		return nil, errWouldWait
	}
	return t, nil
}

// ofUnknownIssuer reports whether err means that a token names no configured
// issuer.
func ofUnknownIssuer(err error) bool {
	f := AsFailure(err)
	return f != nil && f.Reason == ReasonUnknownIssuer
}

// verify returns the token from the cache if it can. The cache gets only tokens
// that the verifier accepted.
func (a *Authorizer) verify(ctx context.Context, raw string, tr *Trace, orIntrospect bool) (*Token, error) {
	if tr != nil {
		return a.verifyTraced(ctx, raw, tr, orIntrospect)
	}
	if a.tokens != nil {
		if t, ok := a.tokens.Get(raw); ok && a.verifier.Current(t, a.clock.Now().Unix()) {
			return t, nil
		}
	}
	t, err := requireToken(a.verifier.Verify(ctx, raw))
	if err != nil {
		return nil, err
	}
	if a.tokens != nil {
		a.tokens.Put(t)
	}
	return t, nil
}

// verifyTraced verifies without the cache, which holds no steps. If the token may
// still be introspected, an unknown issuer is not recorded as an objection.
func (a *Authorizer) verifyTraced(ctx context.Context, raw string, tr *Trace, orIntrospect bool) (*Token, error) {
	steps := *tr
	var t *Token
	var err error
	if v, ok := a.verifier.(TracingVerifier); ok {
		t, err = v.VerifyTraced(ctx, raw, &steps)
	} else {
		t, err = requireToken(a.verifier.Verify(ctx, raw))
		steps.Halt("token", AsFailure(err), func() string { return "verified" })
	}
	if orIntrospect && ofUnknownIssuer(err) {
		return nil, err
	}
	*tr = steps
	return t, err
}

// requireToken keeps a verifier or introspector that returns neither token nor
// error from allowing a request.
func requireToken(t *Token, err error) (*Token, error) {
	if err == nil && t == nil {
		err = &Failure{Reason: ReasonInternal, Detail: "the token's verifier or introspector returned neither token nor error"}
	}
	return t, err
}

func (d Decision) deny(err error) Decision {
	d.RevocationUnknown = false // it was allowed despite that, and no longer is
	var f *Failure
	if errors.As(err, &f) && f.Reason != ReasonAllowed && f.Reason != ReasonAllowedAnonymous {
		d.Reason, d.Detail, d.Challenge = f.Reason, f.Detail, f.Challenge
	} else {
		d.Reason, d.Detail = ReasonInternal, "unclassified failure"
	}
	return d
}
