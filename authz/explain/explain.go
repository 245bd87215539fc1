package explain

import (
	"context"
	"slices"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/authz/introspect"
)

// RevocableBy is a revocation that would match the token asked about.
type RevocableBy struct {
	authz.KeyName
	Revokes bool // this revocation exists
}

// Explanation is the decision about one request with the steps that led to it.
type Explanation struct {
	Decision authz.Decision
	Steps    []authz.Step
	// Keys are everything that could revoke the token; nil when no token could
	// be read.
	Keys []RevocableBy
}

// Explainer asks the Authorizer that decides for the steps of its decision.
type Explainer struct {
	Authorizer *authz.Authorizer
	// Revocations is asked which of a token's keys revokes it; nil: none is.
	Revocations authz.Tier
	// Offline: no key is fetched and no issuer or store is asked.
	Offline bool
	// RevocableClaims are the claims by which tokens can be revoked.
	RevocableClaims []string
	// NoStore says why no revocation can be looked up; empty: it can.
	NoStore string
}

// Explain returns why req would pass or not. The first refused step is the
// decision; without any, the request would be allowed as far as nothing was
// skipped.
func (e Explainer) Explain(ctx context.Context, req *authz.Request) Explanation {
	tr := &authz.Trace{Offline: e.Offline, NoStore: e.NoStore}
	traced := *req
	traced.Trace = tr
	x := Explanation{Decision: e.Authorizer.Authorize(ctx, &traced)}
	if t := x.Decision.Token; t != nil {
		x.Keys = e.keyNames(t, tr.Aliases)
		if n := len(tr.Steps) - 1; tr.Steps[n].Reason == authz.ReasonRevoked {
			tr.Steps[n].Detail += e.findRevoking(ctx, t, x.Keys)
		}
	}
	x.Steps = tr.Steps
	return x
}

// keyNames names what t.Keys are made of. aliases are further kids of the
// signing key.
func (e Explainer) keyNames(t *authz.Token, aliases []string) []RevocableBy {
	names := []authz.KeyName{{Kind: authz.KindJTI, Value: t.ID}, {Kind: authz.KindSub, Value: t.Subject}, {Kind: authz.KindSID, Value: t.Session}, {Kind: authz.KindKID, Value: t.KeyID}}
	for _, kid := range aliases {
		names = append(names, authz.KeyName{Kind: authz.KindKID, Value: kid})
	}
	names = append(names, authz.PartyNames(t.Claims)...)
	claims, _ := authz.ClaimNames(t.Claims, e.RevocableClaims) // a token that this refuses was refused for it
	names = append(names, claims...)
	for _, own := range introspect.OwnNames(t.Raw) { // those that count of an introspected JWT
		if !slices.Contains(names, own) && slices.Contains(t.Keys, own.Key(t.Issuer)) {
			names = append(names, own)
		}
	}
	names = slices.DeleteFunc(names, func(k authz.KeyName) bool { return k.Value == "" })
	names = append(names, authz.KeyName{Kind: authz.KindIss, Value: t.Issuer}, authz.KeyName{Kind: authz.KindAll}, authz.KeyName{Kind: authz.KindToken, Value: authz.TokenValue(t.Raw)})
	keys := make([]RevocableBy, len(names))
	for i, n := range names {
		keys[i].KeyName = n
	}
	return keys
}

// findRevoking marks the keys that revoke t, as far as a lookup of each alone
// can tell, and words them.
func (e Explainer) findRevoking(ctx context.Context, t *authz.Token, keys []RevocableBy) string {
	q := t.Query()
	q.Status = nil
	var names []string
	for i, k := range keys {
		q.Keys = []authz.Key{k.Key(t.Issuer)}
		if e.Revocations == nil {
			break
		}
		if v, _ := e.Revocations.Lookup(ctx, &q); v == authz.Revoked {
			keys[i].Revokes = true
			names = append(names, k.Kind.String()+" "+authz.QuoteShort(k.Value))
		}
	}
	switch {
	case len(names) > 0:
		return " by its " + strings.Join(names, ", ")
	case t.Status != nil:
		return " by its issuer's status list"
	}
	return ""
}
