package authz

import "context"

// Introspector turns a token that this process cannot verify into a Token by
// asking its issuer (RFC 7662).
type Introspector interface {
	// Local reports whether raw is a JWT that the Verifier shall judge instead,
	// if it knows the issuer.
	Local(raw string) bool
	// Introspect returns the token's claims, or an error that wraps a
	// *Failure. Nothing but an answer of the issuer makes a Token.
	Introspect(ctx context.Context, raw string) (*Token, error)
}
