package authz

import "slices"

// Outcome is how one step of a traced decision ended.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Refused Outcome = "refused" // the request is denied for it
	Skipped Outcome = "skipped" // not evaluated: it needs the network, or an earlier step's result
)

// Step is one rule on the way to a decision, as people read it.
type Step struct {
	Rule    string // the rule evaluated: "route", "signature", "scopes" …
	Outcome Outcome
	Reason  Reason // of a refusal
	Detail  string // never holds a token; may quote claims of the token
}

// KeyName names a revocation that would match a token.
type KeyName struct {
	Kind  Kind
	Value string // as a revocation request spells it; for KindIss the issuer
}

// Key returns the revocation's key for a token of the issuer. For the kinds that
// have no Value, KeyName.Value is for people.
func (n KeyName) Key(issuer string) Key {
	switch n.Kind {
	case KindIss:
		return RevocationKey(KindIss, issuer, "")
	case KindAll:
		return allKey
	}
	return RevocationKey(n.Kind, issuer, n.Value)
}

// Trace records the steps of one decision, to explain it. The Authorizer that
// decides records them, so that the explanation cannot differ from the decision.
//
// With a Trace, the Authorizer continues after an objection as far as that makes
// sense, even with a token whose signature is not verified. The first objection
// or skipped step denies all the same. A nil *Trace records nothing. A Trace
// serves one request and one goroutine.
type Trace struct {
	// Offline skips every step that needs the network: keys that have never
	// been fetched, introspection, the revocation lookup.
	Offline bool
	// NoStore skips the revocation lookup alone, and says why; empty: it is done.
	NoStore string

	Steps []Step
	// Aliases are the further kids under which the issuer publishes the key
	// that signed the token.
	Aliases []string

	objection *Failure
}

// Halt records a rule that later ones depend on, and reports whether the
// decision ends here. passed returns the detail of a rule that holds.
func (t *Trace) Halt(rule string, fail *Failure, passed func() string) bool {
	switch {
	case t == nil:
	case fail == nil:
		t.add(Step{Rule: rule, Outcome: Passed, Detail: passed()}, nil)
	default:
		t.add(Step{Rule: rule, Outcome: Refused, Reason: fail.Reason, Detail: fail.Detail}, fail)
	}
	return fail != nil
}

// Judge records a rule that later ones do not depend on, and reports whether
// the decision ends here: at every objection, unless it is traced.
func (t *Trace) Judge(rule string, fail *Failure, passed func() string) bool {
	return t.Halt(rule, fail, passed) && t == nil
}

// Skip records a rule that was not evaluated. The decision is a denial for
// reason unless an earlier step objected.
func (t *Trace) Skip(rule string, reason Reason, detail string) {
	t.add(Step{Rule: rule, Outcome: Skipped, Detail: detail}, &Failure{Reason: reason, Detail: rule + ": " + detail})
}

func (t *Trace) add(s Step, objection *Failure) {
	t.Steps = append(t.Steps, s)
	if t.objection == nil {
		t.objection = objection
	}
}

// Refused reports whether a step so far has objected.
func (t *Trace) Refused() bool {
	return slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Outcome == Refused })
}

// isOffline reports whether steps that need the network are to be skipped.
func (t *Trace) isOffline() bool { return t != nil && t.Offline }

// skipsLookup says why the revocation is not to be looked up; empty: it is.
func (t *Trace) skipsLookup() string {
	switch {
	case t == nil:
		return ""
	case t.Offline:
		return "not looked up"
	}
	return t.NoStore
}

// firstObjection returns the failure that decides a traced request; nil: none.
func (t *Trace) firstObjection() *Failure {
	if t == nil {
		return nil
	}
	return t.objection
}
