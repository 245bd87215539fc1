// Package authztest provides what tests and the demonstration need around the
// core: an issuer that mints good and deliberately bad JSON Web Tokens.
//
// It signs with the standard library alone, so that a mistake in the JOSE
// library under test cannot hide behind the same mistake here. It is never
// part of a running sidecar.
package authztest
