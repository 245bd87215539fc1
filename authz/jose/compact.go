package jose

import (
	"bytes"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// DefaultMaxTokenBytes bounds the text of a token. It is several times what real
// issuers make.
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
	// X5T and X5TS256 are the thumbprints of the key's certificate, "x5t" and
	// "x5t#S256". They choose the key of a token without a kid; empty: absent.
	X5T, X5TS256 string
	nested       bool // "cty" says that the payload is a JWT (RFC 7519, section 5.2)
}

// KeyName describes, for messages, how the header names its key.
func (h Header) KeyName() string {
	switch {
	case h.Kid != "":
		return "kid " + authz.QuoteShort(h.Kid)
	case h.X5T != "":
		return "x5t " + authz.QuoteShort(h.X5T)
	case h.X5TS256 != "":
		return "x5t#S256 " + authz.QuoteShort(h.X5TS256)
	}
	return "no kid"
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
	members, err := ParseObjectOf(string(decoded[0]), maxHeaderValues)
	if err != nil {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "header: %v", err)
	}
	h, fail := readHeader(members)
	if fail != nil {
		return nil, fail
	}
	if h.nested && !opensObject(decoded[1]) {
		return nil, authz.Failuref(authz.ReasonUnsupportedToken, "nested tokens are not accepted")
	}
	if len(decoded[2]) == 0 {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "no signature")
	}
	return &Compact{Header: h, Payload: string(decoded[1]), input: input, signature: decoded[2]}, nil
}

// opensObject reports whether text begins like a JSON object, white space aside.
func opensObject(text []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{"))
}

// CriticalParameter returns the name of a header parameter that changes what the
// token says, and that this package does not understand; "" if there is none:
// crit, a b64 other than its default true (RFC 7797), and enc, which marks an
// encrypted token (RFC 7516, section 9). Any other parameter is ignored (RFC
// 7515, section 4): zip has a meaning in encrypted tokens only, and the keys and
// addresses in jwk, jku, x5u and x5c are never used (RFC 8725, section 3.10).
func CriticalParameter(header map[string]any) string {
	for _, name := range [...]string{"crit", "b64", "enc"} {
		if v, present := header[name]; present && (name != "b64" || v != true) {
			return name
		}
	}
	return ""
}

// readHeader reads the parameters that are used. One that is null or empty
// counts as absent, which never widens the choice of keys or types.
func readHeader(m map[string]any) (Header, *authz.Failure) {
	var h Header
	if name := CriticalParameter(m); name != "" {
		return h, authz.Failuref(authz.ReasonUnsupportedToken, "header parameter %q is not accepted", name)
	}
	DropEmpty(m)
	var ok bool
	if h.Alg, ok = m["alg"].(string); !ok {
		return h, authz.Failuref(authz.ReasonMalformedToken, "header without an alg string")
	}
	if !slices.Contains(SupportedAlgorithms, h.Alg) {
		return h, &authz.Failure{Reason: authz.ReasonUnsupportedToken, Final: true, Detail: "alg " + authz.QuoteShort(h.Alg) + " is never accepted"}
	}
	if !optionalString(m, "kid", &h.Kid) {
		return h, authz.Failuref(authz.ReasonMalformedToken, "kid is not a string of 1 to %d bytes", authz.MaxIdentifier)
	}
	if h.Kid == "" { // a kid rules
		h.X5T, h.X5TS256 = thumbprint(m, "x5t"), thumbprint(m, "x5t#S256")
	}
	if v, present := m["typ"]; present {
		typ, ok := v.(string)
		if !ok {
			return h, authz.Failuref(authz.ReasonMalformedToken, "typ is not a string")
		}
		h.Typ = MediaType(typ)
	}
	cty, _ := m["cty"].(string)
	h.nested = MediaType(cty) == "jwt"
	return h, nil
}

// thumbprint returns the thumbprint of a certificate in a header or JWK; "" for
// a value that can be none.
func thumbprint(m map[string]any, name string) string {
	var text string
	if !optionalString(m, name, &text) {
		return ""
	}
	return text
}

// MediaType normalizes the value of typ or cty to lower case without the prefix
// "application/" (RFC 7515, section 4.1.9).
func MediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}
