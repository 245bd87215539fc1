package authz

import (
	"errors"
	"fmt"
)

// Failure is why a request is denied: the reason that decides the reply, and a
// detail for logs and for `check`. Detail never holds a token, a signature, or
// text an attacker chose beyond a quoted, shortened value.
type Failure struct {
	Reason Reason
	Detail string
	// Challenge goes into the Decision; nil: none.
	Challenge *Challenge
	// Settled says, with ReasonUnknownKey and ReasonBadSignature, that the issuer's
	// keys were fetched moments ago, so another fetch would change nothing.
	Settled bool
	// Final says that no key, clock or configuration makes the credential good.
	Final bool
}

func (f *Failure) Error() string { return f.Reason.String() + ": " + f.Detail }

// Failuref returns a Failure with a formatted detail.
func Failuref(r Reason, format string, args ...any) *Failure {
	return &Failure{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// AsFailure returns the Failure that err wraps, one with ReasonInternal if it
// wraps none, and nil for nil.
func AsFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	if f := (*Failure)(nil); errors.As(err, &f) && f != nil {
		return f
	}
	return &Failure{Reason: ReasonInternal, Detail: err.Error()}
}
