// Package policy compiles the configured routes: which requests a route is for,
// where its credential is found, and what it requires of a verified token
// (issuer, audience, scopes, CEL expressions, sender constraints). It opens no
// connection and never looks up revocations.
package policy
