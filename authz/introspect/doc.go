// Package introspect asks authorization servers about tokens that this process
// cannot verify (RFC 7662) and caches the responses for a bounded time. Only an
// active response makes a token. It never looks up revocations and never applies
// a route's rules.
package introspect
