package authz

import (
	"context"
	"strings"
)

// Grant is what an open stream rests on: the token that allowed its request, on a
// route with EndStreams. It is immutable, and refers to no memory of the request.
type Grant struct {
	token        *Token
	query        Query
	rule         *RouteRule
	credential   Credential
	introspected bool   // the issuer judges the token; see Introspected
	client       string // IP address that the request came from; empty: unknown
}

// newGrant returns the grant of an allowed decision under rule.
func newGrant(rule *RouteRule, d *Decision, client string) *Grant {
	in := rule.Introspector
	g := &Grant{token: d.Token, query: d.Token.Query(), rule: rule, client: strings.Clone(client)}
	// The issuer also judges what would be local and is of no configured issuer: generation 0.
	g.introspected = in != nil && (!in.Local(d.Credential.Raw) || d.Token.Generation == 0)
	g.credential = Credential{Raw: d.Token.Raw, Scheme: strings.Clone(d.Credential.Scheme)}
	if in != nil { // the token may have been made of the request's memory
		g.credential.Raw = strings.Clone(d.Credential.Raw)
	}
	return g
}

// Introspected reports whether Recheck asks the token's issuer.
func (g *Grant) Introspected() bool { return g.introspected }

// Recheck decides again about a stream that was allowed: whether its token is still
// valid, its key not withdrawn, and the token proven not revoked. The rest of the
// request is not judged again. The rules are those of the time of the request. An
// allowed Decision has the Grant for the next time. It never panics, and denies
// what it could not decide by ctx's deadline.
func (a *Authorizer) Recheck(ctx context.Context, g *Grant) (d Decision) {
	defer func() {
		if p := recover(); p != nil {
			d = panicked(p)
		}
	}()
	d = g.decision()
	token, err := a.identify(ctx, g.rule, &Request{Source: Peer{Address: g.client}}, g.credential.Raw, waiting)
	if err != nil {
		return d.deny(err)
	}
	d.Token = token
	d, _ = a.revocation(ctx, g.rule, d, nil, waiting)
	if d.Allowed() {
		d.Grant = newGrant(g.rule, &d, g.client)
	}
	return d
}

// RecheckNow returns the decision of Recheck if memory alone proves it. Otherwise
// decided is false. It does not block, and never panics.
func (a *Authorizer) RecheckNow(g *Grant) (d Decision, decided bool) {
	defer func() {
		if p := recover(); p != nil {
			d, decided = panicked(p), true
		}
	}()
	now := a.clock.Now().Unix()
	if !g.introspected && a.verifier.Expired(g.token, now) {
		return g.decision().deny(&Failure{Reason: ReasonExpired, Detail: "exp was " + FormatTime(g.token.Expires)}), true
	}
	verdict, err := a.lookup(context.Background(), &g.query, immediate)
	switch {
	case err != nil:
		return Decision{}, false
	case verdict == Revoked:
		return g.decision().deny(revoked()), true
	case g.introspected, !a.verifier.Current(g.token, now):
		return Decision{}, false
	}
	d = g.decision()
	d.Reason, d.Grant = ReasonAllowed, g
	return d, true
}

// decision returns a denial, to be completed.
func (g *Grant) decision() Decision {
	return Decision{Route: g.rule.Name, RequiredScopes: g.rule.RequiredScopes, Token: g.token, Credential: g.credential}
}
