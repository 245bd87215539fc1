// Package authz decides whether a request may pass: it finds the bearer
// credential, verifies the JWT, applies the route's rules and asks a chain of
// tiers whether the token has been revoked.
//
// It is the core. It imports nothing else of this module, speaks no wire
// protocol and opens no connection except to fetch signing keys. Every zero
// value in it denies.
package authz
