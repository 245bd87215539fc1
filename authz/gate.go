package authz

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DefaultMaxTokenBytes bounds the text of a token. Envoy itself accepts at
// most 60 KiB of request headers by default.
const DefaultMaxTokenBytes = 16 << 10

// maxIdentifier bounds iss, sub, jti, sid and kid, in bytes: what is longer
// could not be named in a revocation (Revocation.Normalize).
const maxIdentifier = 1024

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
		return nil, malformed("token is longer than %d bytes", limit)
	}
	first := strings.IndexByte(raw, '.')
	last := strings.LastIndexByte(raw, '.')
	if n := strings.Count(raw, "."); n != 2 {
		if n == 4 {
			return nil, unsupported("five segments: encrypted tokens (JWE) are not accepted")
		}
		return nil, malformed("%d segments; a JWT has three", n+1)
	}
	head, ok := decodeSegment(raw[:first])
	if !ok {
		return nil, malformed("header is not base64url without padding")
	}
	body, ok := decodeSegment(raw[first+1 : last])
	if !ok {
		return nil, malformed("payload is not base64url without padding")
	}
	sig, ok := decodeSegment(raw[last+1:])
	if !ok {
		return nil, malformed("signature is not base64url without padding")
	}
	members, err := parseObjectOf(string(head), maxHeaderValues)
	if err != nil {
		return nil, malformed("header: %v", err)
	}
	h, fail := readHeader(members)
	if fail != nil {
		return nil, fail
	}
	if len(sig) == 0 {
		return nil, malformed("no signature")
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
			return h, unsupported("header parameter %q is not accepted", name)
		}
	}
	var ok bool
	if h.alg, ok = m["alg"].(string); !ok || h.alg == "" {
		return h, malformed("header without an alg string")
	}
	if !slices.Contains(supportedAlgorithms, h.alg) {
		return h, unsupported("alg %s is never accepted", quoteShort(h.alg))
	}
	if v, present := m["kid"]; present {
		h.kid, ok = v.(string)
		if !ok || h.kid == "" || len(h.kid) > maxIdentifier || !validText(h.kid) {
			return h, malformed("kid is not a string of 1 to %d bytes", maxIdentifier)
		}
		h.keyed = true
	}
	if v, present := m["typ"]; present {
		typ, ok := v.(string)
		if !ok || typ == "" {
			return h, malformed("typ is not a string")
		}
		h.typ = mediaType(typ)
	}
	if v, present := m["cty"]; present {
		cty, ok := v.(string)
		if !ok {
			return h, malformed("cty is not a string")
		}
		if mediaType(cty) == "jwt" {
			return h, unsupported("nested tokens are not accepted")
		}
	}
	return h, nil
}

// mediaType normalises typ and cty (RFC 7515, section 4.1.9).
func mediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}

var base64urlBytes = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		t[c] = true
	}
	return t
}()

var strictBase64 = base64.RawURLEncoding.Strict()

// decodeSegment decodes base64url as RFC 7515, section 2, defines it: no
// padding, no line breaks (which encoding/base64 skips), no other alphabet,
// and unused bits zero, so that each value has one text.
func decodeSegment(s string) ([]byte, bool) {
	for i := range len(s) {
		if !base64urlBytes[s[i]] {
			return nil, false
		}
	}
	b, err := strictBase64.DecodeString(s)
	return b, err == nil
}

func malformed(format string, args ...any) *Failure {
	return &Failure{Reason: ReasonMalformedToken, Detail: fmt.Sprintf(format, args...)}
}

func unsupported(format string, args ...any) *Failure {
	return &Failure{Reason: ReasonUnsupportedToken, Detail: fmt.Sprintf(format, args...)}
}

// quoteShort makes text an attacker chose fit for a log: quoted, ASCII,
// at most 64 bytes of it.
func quoteShort(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.QuoteToASCII(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.QuoteToASCII(s[:cut]) + "…"
}
