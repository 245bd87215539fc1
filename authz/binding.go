package authz

import (
	"context"
	"time"
)

// bindingNeed is a route's `require`.
type bindingNeed uint8

const (
	needNone bindingNeed = iota
	needAny
	needDPoP
	needMTLS
)

var bindingNeeds = map[string]bindingNeed{"": needNone, "any": needAny, "dpop": needDPoP, "mtls": needMTLS}

// Binding checks that a sender-constrained token comes with its proof.
type Binding struct{}

// checkBinding compares the token's "cnf" (RFC 7800) with what the request
// proves. A bound token without its proof is refused on every route, whatever
// the route requires.
func (r *Route) checkBinding(_ context.Context, _ *Request, cred Credential, t *Token, _ time.Time) *Failure {
	_, bound := t.Claims["cnf"]
	switch {
	case bound || cred.Scheme == "dpop":
		return &Failure{Reason: ReasonBindingMismatch, Detail: "sender-constrained tokens are not configured"}
	case r.require != needNone:
		return &Failure{Reason: ReasonBindingMismatch, Detail: "the route takes only sender-constrained tokens"}
	}
	return nil
}
