package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Outcome is how a step of an explanation ended.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Refused Outcome = "refused" // the request would be denied for it
	Skipped Outcome = "skipped" // not looked at: it would need the network, or something that is not there
)

// Step is one rule on the way to a decision, as people read it.
type Step struct {
	Rule    string // what was looked at: "route", "signature", "scopes" …
	Outcome Outcome
	Reason  Reason // of a refusal
	Detail  string // never holds a token; may quote claims of the token asked about
	// Keys are, of the step about revocation, everything that could revoke the token.
	Keys []StepKey
}

// StepKey names a revocation that would match the token asked about.
type StepKey struct {
	Kind    Kind
	Value   string // as an order has it; of a KindIss revocation the issuer
	Revokes bool   // it is this one that has been ordered
}

// Explainer tells step by step why a request would pass or not. Unlike a
// decision it goes on after a refusal as far as it makes sense.
type Explainer struct {
	Policy   *Policy
	Verifier *JWTVerifier
	// Revocation is asked whether the token is revoked; nil: that is skipped.
	Revocation Tier
	// Network: keys may be fetched and issuers asked. Otherwise only what is
	// on this machine is used.
	Network bool
	Clock   Clock // nil: SystemClock
}

// Explain returns the steps in order. The first refused one is what a decision
// would be; without any, the request would be allowed as far as nothing was
// skipped. It uses up no DPoP proof.
func (e Explainer) Explain(ctx context.Context, req *Request) []Step {
	if e.Clock == nil {
		e.Clock = SystemClock{}
	}
	x := &explanation{Explainer: e, ctx: ctx, req: req}
	x.run()
	return x.steps
}

type explanation struct {
	Explainer
	ctx   context.Context
	req   *Request
	steps []Step
	kids  []string // further names of the key that made the signature
}

func (x *explanation) add(rule string, o Outcome, format string, args ...any) {
	x.steps = append(x.steps, Step{Rule: rule, Outcome: o, Detail: fmt.Sprintf(format, args...)})
}

// judge adds a step that failed with fail, or passed.
func (x *explanation) judge(rule string, err error, passed string, args ...any) bool {
	var f *Failure
	switch {
	case err == nil:
		x.add(rule, Passed, passed, args...)
		return true
	case errors.As(err, &f):
		x.steps = append(x.steps, Step{Rule: rule, Outcome: Refused, Reason: f.Reason, Detail: f.Detail})
	default:
		x.steps = append(x.steps, Step{Rule: rule, Outcome: Refused, Reason: ReasonInternal, Detail: err.Error()})
	}
	return false
}

// asError keeps a nil *Failure from becoming an error that is not nil.
func asError(f *Failure) error {
	if f == nil {
		return nil
	}
	return f
}

func (x *explanation) run() {
	route, fail := x.Policy.Match(x.req)
	switch {
	case fail != nil:
		x.judge("route", fail, "")
		return
	case route == nil:
		x.judge("route", &Failure{Reason: ReasonNoRoute, Detail: "no route matches"}, "")
		return
	case route.Public:
		x.add("route", Passed, "route %s is public: no token is looked at", route.Name)
		return
	}
	x.add("route", Passed, "route %s", route.Name)
	cred, fail := route.Find(x.req)
	if !x.judge("credential", asError(fail), "%s token found in %s", cred.Scheme, cred.Source) {
		return
	}
	token := x.identify(route, cred.Raw)
	if token == nil {
		return
	}
	x.rules(route, cred, token)
	x.revocation(route, token)
}

// identify explains the token itself; nil when nothing more can be said.
func (x *explanation) identify(route *Route, raw string) *Token {
	if route.opaque != nil && !route.opaque.Local(raw) {
		return x.introspect(route, raw)
	}
	c, fail := parseCompact(raw, x.Verifier.maxBytes)
	if !x.judge("form", asError(fail), "a signed JWT") {
		return nil
	}
	payload := string(c.payload)
	iss, err := skimIssuer(payload)
	if err != nil {
		x.judge("form", malformed("payload: %v", err), "")
		return nil
	}
	ring, fail := x.Verifier.ring(iss, nil)
	if route.opaque != nil && ofUnknownIssuer(asError(fail)) {
		return x.introspect(route, raw)
	}
	if !x.judge("issuer", asError(fail), "%s is configured", quoteShort(iss.name)) {
		return nil
	}
	known := x.judge("header", asError(ring.cfg.admits(c.header, nil)), "alg %s, typ %s, kid %s", c.header.alg, quoteShort(c.header.typ), quoteShort(c.header.kid))
	err = x.signature(ring, raw, known)
	t := &Token{Raw: raw, KeyID: c.header.kid, Type: c.header.typ}
	var aliases []Key
	if key := ring.held(c.header); key != nil {
		t.KeyID, aliases, x.kids = key.kid, key.aliases(ring.cfg.Issuer), key.others
	}
	claims, fault := parseObject(payload)
	if fault != nil {
		x.judge("claims", malformed("payload: %v", fault), "")
		return nil
	}
	if fail := t.readClaims(claims, true); fail != nil {
		x.judge("claims", fail, "")
		return nil
	}
	x.times(ring, t)
	if err != nil && !x.refused() { // a rule of the verifier that has no step of its own here
		x.judge("token", err, "")
	}
	t.Accepted = ring.cfg.accepts(t.Audience)
	t.SetKeys(aliases...)
	return t
}

func (x *explanation) introspect(route *Route, raw string) *Token {
	if !x.Network {
		x.add("introspection", Skipped, "the issuer would be asked about this token, which needs the network")
		return nil
	}
	t, err := route.opaque.Introspect(x.ctx, raw)
	if !x.judge("introspection", err, "the issuer says that the token is active") {
		return nil
	}
	return t
}

func (x *explanation) refused() bool {
	return slices.ContainsFunc(x.steps, func(s Step) bool { return s.Outcome == Refused })
}

// signature has the whole token verified where that needs no network, or the
// network may be used, and returns what came of it; its step is about keys.
func (x *explanation) signature(ring *KeyRing, raw string, known bool) error {
	if !known {
		x.add("signature", Skipped, "not looked at, because of the header")
		return nil
	}
	if _, local := ring.cfg.keyFile(); !local && !x.Network && ring.state.Load() == nil {
		x.add("signature", Skipped, "the issuer's keys would have to be fetched")
		return nil
	}
	_, err := x.Verifier.Verify(x.ctx, raw)
	var f *Failure
	if errors.As(err, &f) {
		switch f.Reason {
		case ReasonUnknownKey, ReasonBadSignature, ReasonKeysUnavailable, ReasonInternal:
			x.judge("signature", f, "")
			return err
		}
	}
	x.add("signature", Passed, "made with a key of the issuer")
	return err
}

func (x *explanation) times(ring *KeyRing, t *Token) {
	now := x.Clock.Now()
	detail := fmt.Sprintf("expires %s (in %s)", stamp(t.Expires), time.Unix(t.Expires, 0).Sub(now).Round(time.Second))
	if t.IssuedAt != 0 {
		detail = "issued " + stamp(t.IssuedAt) + ", " + detail
	}
	x.judge("times", asError(x.Verifier.checkTimes(t, ring.leeway(), false)), "%s", detail)
}

// rules explains the route's, each by the code that decides.
func (x *explanation) rules(route *Route, cred Credential, t *Token) {
	if len(route.Issuers) > 0 {
		x.judge("route issuers", asError(route.checkIssuer(t)), "the route takes tokens of this issuer")
	}
	x.judge("audience", asError(route.checkAudience(t)), "aud %s", quoteList(t.Audience))
	if _, bound := t.Claims["cnf"]; bound || route.require != needNone || cred.Scheme == "dpop" {
		r := *route
		if r.binding != nil {
			b := *r.binding
			b.replay = unrecorded{}
			r.binding = &b
		}
		x.judge("binding", asError(r.checkBinding(x.ctx, x.req, cred, t, x.Clock.Now())), "the sender has proven possession")
	}
	if len(route.Scopes)+len(route.AnyScopes) > 0 {
		x.judge("scopes", asError(route.checkScopes(t)), "has %s", quoteList(t.Scopes))
	}
	for _, e := range route.allow {
		x.judge(e.label, asError(e.admit(x.ctx, x.req, t)), "%s", e.text)
	}
}

func (x *explanation) revocation(route *Route, t *Token) {
	keys := x.keysOf(t)
	defer func() { x.steps[len(x.steps)-1].Keys = keys }()
	if x.Revocation == nil {
		x.add("revocation", Skipped, "not looked up")
		return
	}
	q := t.Query()
	verdict, err := x.Revocation.Lookup(x.ctx, &q)
	switch {
	case verdict == Revoked:
		x.judge("revocation", &Failure{Reason: ReasonRevoked, Detail: "the token has been revoked" + x.by(q, keys)}, "")
	case verdict == NotRevoked && err == nil:
		x.add("revocation", Passed, "not revoked")
	case route.AllowRevocationUnknown:
		x.add("revocation", Passed, "nothing can prove that it is not revoked; the route allows that (on_revocation_unknown)")
	default:
		detail := "nothing can prove that it is not revoked"
		if err != nil {
			detail += ": " + err.Error()
		}
		x.judge("revocation", &Failure{Reason: ReasonRevocationUnknown, Detail: detail}, "")
	}
}

// keysOf names what t.Keys are made of.
func (x *explanation) keysOf(t *Token) []StepKey {
	all := []StepKey{{Kind: KindJTI, Value: t.ID}, {Kind: KindSub, Value: t.Subject}, {Kind: KindSID, Value: t.Session}, {Kind: KindKID, Value: t.KeyID}}
	for _, kid := range x.kids {
		all = append(all, StepKey{Kind: KindKID, Value: kid})
	}
	for _, own := range ownNames(t.Raw) { // those that count of an introspected JWT
		if !slices.Contains(all, own) && slices.Contains(t.Keys, RevocationKey(own.Kind, t.Issuer, own.Value)) {
			all = append(all, own)
		}
	}
	all = slices.DeleteFunc(all, func(k StepKey) bool { return k.Value == "" })
	return append(all, StepKey{Kind: KindIss, Value: t.Issuer}, StepKey{Kind: KindToken, Value: TokenValue(t.Raw)})
}

// by marks those of keys that revoke the token, as far as asking about each
// alone can tell, and says which they are.
func (x *explanation) by(q Query, keys []StepKey) string {
	status := q.Status
	q.Status = nil
	var names []string
	for i, k := range keys {
		value := k.Value
		if k.Kind == KindIss {
			value = ""
		}
		q.Keys = []Key{RevocationKey(k.Kind, q.Issuer, value)}
		if v, err := x.Revocation.Lookup(x.ctx, &q); v == Revoked && err == nil {
			keys[i].Revokes = true
			names = append(names, k.Kind.String()+" "+quoteShort(k.Value))
		}
	}
	switch {
	case len(names) > 0:
		return " by its " + strings.Join(names, ", ")
	case status != nil:
		return " by its issuer's status list"
	}
	return ""
}

func quoteList(list []string) string {
	if len(list) == 0 {
		return "is empty"
	}
	quoted := make([]string, 0, len(list))
	for i, s := range list {
		if i == 10 {
			quoted = append(quoted, "…")
			break
		}
		quoted = append(quoted, quoteShort(s))
	}
	return strings.Join(quoted, ", ")
}
