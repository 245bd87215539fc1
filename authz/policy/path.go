package policy

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// requestPath is the path of a request as routes compare it. A path is unclear if
// another server could read it differently.
type requestPath struct {
	// text is percent-decoded, without the query. It is valid if unclear is "".
	text string
	// unclear is the reason why the path is unclear, a constant. It is "" for a
	// clear path.
	unclear string
	// readings are all readings of an unclear path; nil if they cannot be
	// listed (dot segments, control bytes, double encoding …).
	readings []string
}

// plain contains the bytes that mean the same to every server if they occur
// unencoded in a path: pchar of RFC 3986 without "%" and without ";", because some
// servers strip parameters.
var plain = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "-._~!$&'()*+,=:@/[]{}|\"<>^`" {
		t[c] = true
	}
	return t
}()

// Reasons why a path is unclear.
const (
	pathNotOrigin    = "path does not begin with a single slash"
	pathDotSegment   = "path contains dot segments"
	pathEmptySegment = "path contains empty segments"
	pathParameter    = "path contains parameters (;)"
	pathEncodedSlash = "path contains an encoded slash"
	pathBackslash    = "path contains a backslash"
	pathFragment     = "path contains a fragment or an encoded delimiter"
	pathControl      = "path contains control characters or spaces"
	pathBadEscape    = "path contains an invalid percent escape"
	pathDoubleEscape = "path is encoded twice"
	pathNotASCII     = "path contains unencoded bytes outside ASCII"
	pathBadUTF8      = "path is not valid UTF-8"
	pathLookalike    = "path contains characters that some servers turn into ASCII"
	pathTooLong      = "path is longer than 8192 bytes"
)

const (
	maxPath     = 8192 // bytes
	maxReadings = 8    // 2^3: encoded slashes decoded, parameters stripped, slashes merged
)

// readPath reads the path of a request target in origin form (RFC 9112,
// section 3.2.1). It allocates nothing for a path of plain bytes.
func readPath(raw string) requestPath {
	if i := strings.IndexByte(raw, '?'); i >= 0 {
		raw = raw[:i]
	}
	if len(raw) > maxPath {
		return requestPath{unclear: pathTooLong}
	}
	if raw == "" || raw[0] != '/' || strings.HasPrefix(raw, "//") {
		return requestPath{unclear: pathNotOrigin}
	}
	for i := range len(raw) {
		if !plain[raw[i]] || (raw[i] == '/' || raw[i] == '.') && i > 0 && raw[i-1] == '/' {
			return readOddPath(raw)
		}
	}
	return requestPath{text: raw}
}

// readOddPath is readPath for a path that contains other than plain bytes.
func readOddPath(raw string) requestPath {
	decoded, why := decodePath(raw)
	if why != "" {
		return requestPath{unclear: why}
	}
	unclear := ""
	switch {
	case strings.IndexByte(decoded, encodedSlash) >= 0:
		unclear = pathEncodedSlash
	case strings.IndexByte(decoded, ';') >= 0:
		unclear = pathParameter
	case strings.Contains(decoded, "//"):
		unclear = pathEmptySegment
	}
	if unclear == "" {
		if hasDotSegment(decoded) {
			return requestPath{unclear: pathDotSegment}
		}
		return requestPath{text: decoded}
	}
	readings := make([]string, 0, maxReadings)
	for variant := range maxReadings {
		s := decoded
		if variant&1 != 0 {
			s = strings.ReplaceAll(s, string(rune(encodedSlash)), "/")
		}
		if variant&2 != 0 {
			s = stripParameters(s)
		}
		if hasDotSegment(s) {
			return requestPath{unclear: pathDotSegment}
		}
		if variant&4 != 0 {
			for strings.Contains(s, "//") {
				s = strings.ReplaceAll(s, "//", "/")
			}
		}
		readings = append(readings, s)
	}
	return requestPath{unclear: unclear, readings: readings}
}

// encodedSlash replaces %2F in decoded text until a reading decodes it or not. It
// cannot occur in the path itself, in which control bytes are invalid.
const encodedSlash = 0x01

func decodePath(raw string) (decoded, unclear string) {
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		escaped := c == '%'
		if escaped {
			var ok bool
			if c, ok = unescape(raw[i:]); !ok {
				return "", pathBadEscape
			}
			i += 2
		}
		switch {
		case c == '\\':
			return "", pathBackslash
		case c == '?' || c == '#':
			return "", pathFragment
		case c < ' ' || c == 0x7f || c == ' ' && !escaped:
			return "", pathControl
		case c >= utf8.RuneSelf && !escaped:
			return "", pathNotASCII
		case c == '/' && escaped:
			c = encodedSlash
		}
		b = append(b, c)
	}
	decoded = string(b)
	for i := range decoded {
		if _, ok := unescape(decoded[i:]); ok {
			return "", pathDoubleEscape
		}
	}
	if !utf8.ValidString(decoded) {
		return "", pathBadUTF8 // includes overlong forms
	}
	for _, r := range decoded {
		if r >= utf8.RuneSelf && lookalike(r) {
			return "", pathLookalike
		}
	}
	return decoded, ""
}

// lookalike reports whether a server that folds Unicode (compatibility
// normalisation, "best fit" code pages) could turn r into ASCII or drop it.
func lookalike(r rune) bool {
	switch r {
	case '\u2044', '\u2215', '\u29f8', '\u2216', '\u29f5', utf8.RuneError:
		return true
	}
	if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zs, unicode.Zl, unicode.Zp) {
		return true
	}
	// Without norm.NFKC.String, which would allocate for each character of a path.
	var text [utf8.UTFMax]byte
	n := utf8.EncodeRune(text[:], r)
	if norm.NFKC.QuickSpan(text[:n]) == n {
		return false
	}
	for _, c := range norm.NFKC.Properties(text[:n]).Decomposition() {
		if c < utf8.RuneSelf {
			return true
		}
	}
	return false
}

func hasDotSegment(s string) bool {
	s += "/"
	return strings.Contains(s, "/./") || strings.Contains(s, "/../")
}

// stripParameters removes the parameters of every segment: ";" and what follows.
func stripParameters(s string) string {
	segments := strings.Split(s, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

// unescape returns the byte that the percent escape at the start of s encodes.
func unescape(s string) (c byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	var b [1]byte
	_, err := hex.Decode(b[:], []byte(s[1:3]))
	return b[0], err == nil
}
