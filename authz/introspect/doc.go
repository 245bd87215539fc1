// Package introspect asks issuers about tokens that this process cannot verify
// (RFC 7662) and remembers their answers for a bounded time. Nothing but an
// issuer's answer makes a token of such text.
package introspect
