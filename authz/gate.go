package authz

import (
	"slices"
	"strings"
)

// DefaultMaxTokenBytes bounds the text of a token. Envoy itself accepts at
// most 60 KiB of request headers by default.
const DefaultMaxTokenBytes = 16 << 10

// compact is a JWS in compact serialization (RFC 7515, section 7.1), taken
// apart and decoded but not verified.
type compact struct {
	header    joseHeader
	payload   []byte
	input     string // the ASCII text that was signed: "header.payload"
	signature []byte
}

// joseHeader holds the header parameters that are understood (RFC 7515,
// section 4.1).
type joseHeader struct {
	alg   string
	kid   string // empty: absent
	typ   string // lower case, without "application/"; empty: absent
	keyed bool   // has a kid
}

// parseCompact is the gate in front of all cryptography: it admits only text
// that every correct reader understands the same way.
func parseCompact(raw string, limit int) (*compact, *Failure) {
	if len(raw) > limit {
		return nil, Failuref(ReasonMalformedToken, "token is longer than %d bytes", limit)
	}
	first := strings.IndexByte(raw, '.')
	last := strings.LastIndexByte(raw, '.')
	if n := strings.Count(raw, "."); n != 2 {
		if n == 4 {
			return nil, Failuref(ReasonUnsupportedToken, "five segments: encrypted tokens (JWE) are not accepted")
		}
		return nil, Failuref(ReasonMalformedToken, "%d segments; a JWT has three", n+1)
	}
	head, ok := decodeSegment(raw[:first])
	if !ok {
		return nil, Failuref(ReasonMalformedToken, "header is not base64url without padding")
	}
	body, ok := decodeSegment(raw[first+1 : last])
	if !ok {
		return nil, Failuref(ReasonMalformedToken, "payload is not base64url without padding")
	}
	sig, ok := decodeSegment(raw[last+1:])
	if !ok {
		return nil, Failuref(ReasonMalformedToken, "signature is not base64url without padding")
	}
	members, err := parseObjectOf(string(head), maxHeaderValues)
	if err != nil {
		return nil, Failuref(ReasonMalformedToken, "header: %v", err)
	}
	h, fail := readHeader(members)
	if fail != nil {
		return nil, fail
	}
	if len(sig) == 0 {
		return nil, Failuref(ReasonMalformedToken, "no signature")
	}
	return &compact{header: h, payload: body, input: raw[:last], signature: sig}, nil
}

// refusedParameters are header parameters whose presence changes what a token
// means (crit, b64, zip, enc) or brings its own key (RFC 8725, section 3.10).
var refusedParameters = [...]string{"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"}

func readHeader(m map[string]any) (joseHeader, *Failure) {
	var h joseHeader
	for _, name := range refusedParameters {
		if _, present := m[name]; present {
			return h, Failuref(ReasonUnsupportedToken, "header parameter %q is not accepted", name)
		}
	}
	var ok bool
	if h.alg, ok = m["alg"].(string); !ok || h.alg == "" {
		return h, Failuref(ReasonMalformedToken, "header without an alg string")
	}
	if !slices.Contains(supportedAlgorithms, h.alg) {
		return h, Failuref(ReasonUnsupportedToken, "alg %s is never accepted", quoteShort(h.alg))
	}
	if v, present := m["kid"]; present {
		h.kid, ok = v.(string)
		if !ok || h.kid == "" || len(h.kid) > maxIdentifier || !validText(h.kid) {
			return h, Failuref(ReasonMalformedToken, "kid is not a string of 1 to %d bytes", maxIdentifier)
		}
		h.keyed = true
	}
	if v, present := m["typ"]; present {
		typ, ok := v.(string)
		if !ok || typ == "" {
			return h, Failuref(ReasonMalformedToken, "typ is not a string")
		}
		h.typ = mediaType(typ)
	}
	if v, present := m["cty"]; present {
		cty, ok := v.(string)
		if !ok {
			return h, Failuref(ReasonMalformedToken, "cty is not a string")
		}
		if mediaType(cty) == "jwt" {
			return h, Failuref(ReasonUnsupportedToken, "nested tokens are not accepted")
		}
	}
	return h, nil
}

// mediaType normalises typ and cty (RFC 7515, section 4.1.9).
func mediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}
