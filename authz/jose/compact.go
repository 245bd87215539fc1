package jose

import (
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// DefaultMaxTokenBytes bounds the text of a token. Envoy itself accepts at
// most 60 KiB of request headers by default.
const DefaultMaxTokenBytes = 16 << 10

// Compact is a JWS in compact serialization (RFC 7515, section 7.1): parsed and
// decoded, but not verified. See PublicKey.Verify.
type Compact struct {
	Header    Header
	Payload   string
	input     string // the signed ASCII text: "header.payload"
	signature []byte
}

// Header holds the supported header parameters (RFC 7515, section 4.1).
type Header struct {
	Alg string
	Kid string // empty: absent
	Typ string // normalized by MediaType; empty: absent
}

// ParseCompact is the strict parser that runs before any cryptography. It
// accepts only text that every correct reader understands the same way. limit
// is the maximum length of raw in bytes.
func ParseCompact(raw string, limit int) (*Compact, *authz.Failure) {
	if len(raw) > limit {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "token is longer than %d bytes", limit)
	}
	switch n := strings.Count(raw, ".") + 1; n {
	case 3:
	case 5:
		return nil, authz.Failuref(authz.ReasonUnsupportedToken, "five segments: encrypted tokens (JWE) are not accepted")
	default:
		return nil, authz.Failuref(authz.ReasonMalformedToken, "%d segments; a JWT has three", n)
	}
	input := raw[:strings.LastIndexByte(raw, '.')]
	header, payload, _ := strings.Cut(input, ".")
	var decoded [3][]byte
	for i, segment := range [...]string{header, payload, raw[len(input)+1:]} {
		var ok bool
		if decoded[i], ok = authz.DecodeSegment(segment); !ok {
			return nil, authz.Failuref(authz.ReasonMalformedToken, "%s is not base64url without padding", [...]string{"header", "payload", "signature"}[i])
		}
	}
	members, err := parseObjectOf(string(decoded[0]), maxHeaderValues)
	if err != nil {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "header: %v", err)
	}
	h, fail := readHeader(members)
	if fail != nil {
		return nil, fail
	}
	if len(decoded[2]) == 0 {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "no signature")
	}
	return &Compact{Header: h, Payload: string(decoded[1]), input: input, signature: decoded[2]}, nil
}

// refusedParameters are header parameters that change the meaning of a token
// (crit, b64, zip, enc) or supply its key (RFC 8725, section 3.10).
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
		return h, &authz.Failure{Reason: authz.ReasonUnsupportedToken, Final: true, Detail: "alg " + authz.QuoteShort(h.Alg) + " is never accepted"}
	}
	if !optionalString(m, "kid", &h.Kid) {
		return h, authz.Failuref(authz.ReasonMalformedToken, "kid is not a string of 1 to %d bytes", authz.MaxIdentifier)
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

// MediaType normalizes the value of typ or cty to lower case without the prefix
// "application/" (RFC 7515, section 4.1.9).
func MediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}
