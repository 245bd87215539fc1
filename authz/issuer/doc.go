// Package issuer verifies the tokens of configured issuers: it fetches and
// refreshes their keys, checks signature, claims and times, and verifies
// security event tokens. It never looks up revocations, except of the key that
// signed a security event token, and never applies a route's rules.
package issuer
