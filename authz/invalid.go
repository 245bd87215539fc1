package authz

import (
	"errors"
	"fmt"
	"strconv"
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
	at := e.Source
	switch {
	case e.Source == "":
		at = ErrInvalid.Error()
	case e.Line > 0:
		at = fmt.Sprintf("%s:%d:%d", e.Source, e.Line, e.Column)
	}
	if e.Field != "" {
		at += ": " + e.Field
	}
	return at + ": " + e.Detail
}

// Unwrap returns ErrInvalid.
func (*InvalidError) Unwrap() error { return ErrInvalid }

// Report is how the Validate method of a configuration stanza reports an invalid
// value. path is relative to the stanza ("jwks", "routes[2].match.path"). The
// message says what was found, what is allowed and, where it helps, what to do.
// The loader adds file, line and column, and returns all errors together.
type Report func(path, format string, args ...any)

// ValidationErrors returns the joined errors that validate reports, each with
// prefix and its path; nil if there are none.
func ValidationErrors(prefix string, validate func(Report)) error {
	var errs []error
	validate(func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s%s: %s", prefix, path, fmt.Sprintf(format, args...)))
	})
	return errors.Join(errs...)
}

// ItemPath returns the path of one entry of a list, such as "routes[2]".
func ItemPath(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func invalid(field, format string, args ...any) *InvalidError {
	return &InvalidError{Field: field, Detail: fmt.Sprintf(format, args...)}
}
