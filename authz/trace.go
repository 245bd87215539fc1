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

// Trace records the steps of one decision for a person who asks why. It goes
// with the Request through the Authorizer that decides, so that the
// explanation cannot differ from the decision.
//
// With a trace the walk continues after an objection as far as that makes
// sense, including a token whose signature was not verified. The decision is a
// denial all the same, by the first objection or the first skipped step. A nil
// *Trace records nothing. A Trace serves one request and one goroutine.
type Trace struct {
	// Offline skips every step that needs the network: keys that have never
	// been fetched, introspection, the revocation lookup.
	Offline bool

	Steps []Step
	// Aliases are the further kids under which the issuer publishes the key
	// that signed the token.
	Aliases []string

	objection *Failure
}

// Halt records a rule without which later ones cannot be evaluated, and
// reports whether the walk ends here. passed words the detail of a rule that
// holds.
func (t *Trace) Halt(rule string, fail *Failure, passed func() string) bool {
	if t != nil {
		t.record(rule, fail, passed)
	}
	return fail != nil
}

// Judge records a rule that later ones do not depend on, and reports whether
// the walk ends here: at every objection, except where it is traced.
func (t *Trace) Judge(rule string, fail *Failure, passed func() string) bool {
	if t == nil {
		return fail != nil
	}
	t.record(rule, fail, passed)
	return false
}

// Skip records a rule that was not evaluated. The decision is a denial for
// reason unless an earlier step objected.
func (t *Trace) Skip(rule string, reason Reason, detail string) {
	t.Steps = append(t.Steps, Step{Rule: rule, Outcome: Skipped, Detail: detail})
	if t.objection == nil {
		t.objection = &Failure{Reason: reason, Detail: rule + ": " + detail}
	}
}

func (t *Trace) record(rule string, fail *Failure, passed func() string) {
	if fail == nil {
		t.Steps = append(t.Steps, Step{Rule: rule, Outcome: Passed, Detail: passed()})
		return
	}
	t.Steps = append(t.Steps, Step{Rule: rule, Outcome: Refused, Reason: fail.Reason, Detail: fail.Detail})
	if t.objection == nil {
		t.objection = fail
	}
}

// Refused reports whether a step so far has objected.
func (t *Trace) Refused() bool {
	return slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Outcome == Refused })
}

// isOffline reports whether steps that need the network are to be skipped.
func (t *Trace) isOffline() bool { return t != nil && t.Offline }

// firstObjection returns the failure that decides a traced request; nil: none.
func (t *Trace) firstObjection() *Failure {
	if t == nil {
		return nil
	}
	return t.objection
}
