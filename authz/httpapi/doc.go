// Package httpapi is the HTTP door: the revocation resource, the doors through
// which identity providers report logouts, health, metrics, and the operator's
// page.
//
// It turns messages into revocations and hands them to the write path. It
// never decides about a request, never stores anything itself, and never
// answers success before the ledger has committed.
package httpapi
