// Package httpapi serves the HTTP port: the revocation resource, health,
// metrics and the OpenAPI document. Package receiver adds the endpoints for
// identity providers' messages, package page the operator's page.
//
// It turns requests into revocations and hands them to the write path. It never
// decides about a request to the upstream, never stores anything itself, and
// never reports success before the ledger has committed.
package httpapi
