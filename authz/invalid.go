package authz

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid is the error of a malformed revocation. The message says what is
// wrong with it.
var ErrInvalid = errors.New("invalid revocation")

// InvalidError says what is wrong with one value of a configuration or of a
// revocation request. It wraps ErrInvalid.
type InvalidError struct {
	Source       string // the file, environment variable or flag; empty: a revocation request
	Line, Column int    // in Source, from 1; 0: the value is not in the file
	Index        int    // position of the request in its batch, from 0; 0 for a single request
	Field        string // "not_before" or "issuers[0].jwks", as the text spells it; empty: the whole text
	Detail       string // what was found and what is allowed; never contains a token or a secret
}

func (e *InvalidError) Error() string {
	var b strings.Builder
	switch {
	case e.Source == "":
		b.WriteString(ErrInvalid.Error())
	case e.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d", e.Source, e.Line, e.Column)
	default:
		b.WriteString(e.Source)
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Detail)
	return b.String()
}

// Unwrap returns ErrInvalid.
func (*InvalidError) Unwrap() error { return ErrInvalid }

func invalid(field, format string, args ...any) *InvalidError {
	return &InvalidError{Field: field, Detail: fmt.Sprintf(format, args...)}
}
