package authz

import (
	"maps"
	"slices"
)

// Header is one request header. Names are lower case.
type Header struct{ Name, Value string }

// Request is what the decision may depend on. Its strings may alias the
// request's wire buffer: clone a string to keep it beyond the check.
type Request struct {
	Method   string
	Scheme   string
	Host     string
	Path     string // as sent: with query, not decoded, not normalised
	Protocol string
	Headers  []Header // in order of arrival; a name may occur more than once

	ContextExtensions []Header // Envoy's per-route context_extensions, in any order; few
	Source            Peer
	Destination       Peer
	ServerName        string // SNI of the downstream TLS session (include_tls_session); empty: none
	Trace             *Trace // records the steps of the decision; nil: nothing is recorded
}

// Peer is one end of the downstream connection as Envoy reports it.
type Peer struct {
	Address     string // IP without port; empty when unknown
	Principal   string // identity from the mTLS certificate, as Envoy states it
	Certificate string // URL-encoded PEM of the client certificate (include_peer_certificate); empty: none
	// CertificateSHA256 is the SHA-256 of the client certificate (DER) in hex, where
	// Envoy reports that instead of the certificate; empty: it does not.
	CertificateSHA256 string
}

// Credential is a token as presented, and where it was found.
type Credential struct {
	Raw    string // the token text; a secret
	Scheme string // "bearer" or "dpop"; empty when there is no credential
	Source string // "authorization", "cookie:NAME", "query:NAME" or "header:NAME"
	Remove bool   // the upstream must not receive the header it was found in; cookies and parameters are always removed
}

// Header returns the header's first value and count. name must be lower case.
func (r *Request) Header(name string) (value string, n int) {
	for i := range r.Headers {
		if r.Headers[i].Name == name {
			if n == 0 {
				value = r.Headers[i].Value
			}
			n++
		}
	}
	return value, n
}

// Extension returns the context extension's value.
func (r *Request) Extension(name string) (string, bool) {
	i := slices.IndexFunc(r.ContextExtensions, func(h Header) bool { return h.Name == name })
	if i < 0 {
		return "", false
	}
	return r.ContextExtensions[i].Value, true
}

// HeadersFrom returns the map as headers, sorted by name.
func HeadersFrom(m map[string]string) []Header {
	var hs []Header
	for _, name := range slices.Sorted(maps.Keys(m)) {
		hs = append(hs, Header{Name: name, Value: m[name]})
	}
	return hs
}
