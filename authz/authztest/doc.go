// Package authztest provides an issuer that mints valid and deliberately invalid
// JSON Web Tokens, an in-memory authority, and the contract suites of authz's
// interfaces, for tests and the demonstration.
//
// It signs with the standard library alone, so that a defect of the JOSE library
// under test is not repeated here. A running sidecar never contains it.
package authztest
