package jose

import (
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// DefaultMaxTokenBytes bounds the text of a token. Envoy itself accepts at
// most 60 KiB of request headers by default.
const DefaultMaxTokenBytes = 16 << 10

// compact is a JWS in compact serialization (RFC 7515, section 7.1), taken
// apart and decoded but not verified.
type Compact struct {
	Header    Header
	Payload   []byte
	Input     string // the ASCII text that was signed: "header.payload"
	Signature []byte
}

// joseHeader holds the header parameters that are understood (RFC 7515,
// section 4.1).
type Header struct {
	Alg   string
	Kid   string // empty: absent
	Typ   string // lower case, without "application/"; empty: absent
	Keyed bool   // has a kid
}

// parseCompact is the gate in front of all cryptography: it admits only text
// that every correct reader understands the same way.
func ParseCompact(raw string, limit int) (*Compact, *authz.Failure) {
	if len(raw) > limit {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "token is longer than %d bytes", limit)
	}
	first := strings.IndexByte(raw, '.')
	last := strings.LastIndexByte(raw, '.')
	if n := strings.Count(raw, "."); n != 2 {
		if n == 4 {
			return nil, authz.Failuref(authz.ReasonUnsupportedToken, "five segments: encrypted tokens (JWE) are not accepted")
		}
		return nil, authz.Failuref(authz.ReasonMalformedToken, "%d segments; a JWT has three", n+1)
	}
	head, ok := authz.DecodeSegment(raw[:first])
	if !ok {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "header is not base64url without padding")
	}
	body, ok := authz.DecodeSegment(raw[first+1 : last])
	if !ok {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "payload is not base64url without padding")
	}
	sig, ok := authz.DecodeSegment(raw[last+1:])
	if !ok {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "signature is not base64url without padding")
	}
	members, err := parseObjectOf(string(head), maxHeaderValues)
	if err != nil {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "header: %v", err)
	}
	h, fail := readHeader(members)
	if fail != nil {
		return nil, fail
	}
	if len(sig) == 0 {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "no signature")
	}
	return &Compact{Header: h, Payload: body, Input: raw[:last], Signature: sig}, nil
}

// refusedParameters are header parameters whose presence changes what a token
// means (crit, b64, zip, enc) or brings its own key (RFC 8725, section 3.10).
var refusedParameters = [...]string{"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"}

func readHeader(m map[string]any) (Header, *authz.Failure) {
	var h Header
	for _, name := range refusedParameters {
		if _, present := m[name]; present {
			return h, authz.Failuref(authz.ReasonUnsupportedToken, "header parameter %q is not accepted", name)
		}
	}
	var ok bool
	if h.Alg, ok = m["alg"].(string); !ok || h.Alg == "" {
		return h, authz.Failuref(authz.ReasonMalformedToken, "header without an alg string")
	}
	if !slices.Contains(SupportedAlgorithms, h.Alg) {
		return h, authz.Failuref(authz.ReasonUnsupportedToken, "alg %s is never accepted", authz.QuoteShort(h.Alg))
	}
	if v, present := m["kid"]; present {
		h.Kid, ok = v.(string)
		if !ok || h.Kid == "" || len(h.Kid) > authz.MaxIdentifier || !authz.ValidText(h.Kid) {
			return h, authz.Failuref(authz.ReasonMalformedToken, "kid is not a string of 1 to %d bytes", authz.MaxIdentifier)
		}
		h.Keyed = true
	}
	if v, present := m["typ"]; present {
		typ, ok := v.(string)
		if !ok || typ == "" {
			return h, authz.Failuref(authz.ReasonMalformedToken, "typ is not a string")
		}
		h.Typ = MediaType(typ)
	}
	if v, present := m["cty"]; present {
		cty, ok := v.(string)
		if !ok {
			return h, authz.Failuref(authz.ReasonMalformedToken, "cty is not a string")
		}
		if MediaType(cty) == "jwt" {
			return h, authz.Failuref(authz.ReasonUnsupportedToken, "nested tokens are not accepted")
		}
	}
	return h, nil
}

// mediaType normalises typ and cty (RFC 7515, section 4.1.9).
func MediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}
