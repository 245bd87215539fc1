package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// requestPath is a request's path as routes see it. A path that another server
// could read differently has several readings, or none that can be told.
type requestPath struct {
	// text is percent-decoded and without query; valid when unclear is "".
	text string
	// unclear says why the path has more than one reading; a constant.
	unclear string
	// readings are all readings of an unclear path; nil when they cannot be
	// listed (dot segments, control bytes, double encoding …).
	readings []string
}

// plain marks the bytes that mean the same to every server when they stand in
// a path unencoded: RFC 3986's pchar without ";" (parameters are stripped by
// some servers) and without "%".
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

// The ways in which a path can be unclear.
const (
	pathNotOrigin     = "path does not begin with a single slash"
	pathDotSegment    = "path has dot segments"
	pathEmptySegment  = "path has empty segments"
	pathParameter     = "path has parameters (;)"
	pathEncodedSlash  = "path has an encoded slash"
	pathBackslash     = "path has a backslash"
	pathFragment      = "path has a fragment or an encoded delimiter"
	pathControl       = "path has control characters or spaces"
	pathBadEscape     = "path has an invalid percent escape"
	pathDoubleEscape  = "path is encoded twice"
	pathNotASCII      = "path has unencoded bytes outside ASCII"
	pathBadUTF8       = "path is not valid UTF-8"
	pathLookalike     = "path has characters that some servers turn into ASCII"
	maxPath           = 8192 // bytes; longer paths are unclear
	pathTooLong       = "path is longer than 8192 bytes"
	maxReadableClones = 8 // 2^3: slash, parameter, merge
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
	simple := true
	for i := range len(raw) {
		if !plain[raw[i]] || (raw[i] == '/' || raw[i] == '.') && i > 0 && raw[i-1] == '/' {
			simple = false
			break
		}
	}
	if simple {
		return requestPath{text: raw}
	}
	return readOddPath(raw)
}

// readOddPath is readPath for paths with anything but plain bytes.
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
	readings := make([]string, 0, maxReadableClones)
	for variant := range maxReadableClones {
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
			s = mergeSlashes(s)
		}
		readings = append(readings, s)
	}
	return requestPath{unclear: unclear, readings: readings}
}

// encodedSlash stands for %2F in decoded text until a reading says what it is.
// It cannot come from the path itself: control bytes are refused.
const encodedSlash = 0x01

func decodePath(raw string) (decoded, unclear string) {
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		escaped := c == '%'
		if escaped {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return "", pathBadEscape
			}
			c = unhex(raw[i+1])<<4 | unhex(raw[i+2])
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
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' && isHex(b[i+1]) && isHex(b[i+2]) {
			return "", pathDoubleEscape
		}
	}
	decoded = string(b)
	if !utf8.ValidString(decoded) {
		return "", pathBadUTF8 // overlong forms as well
	}
	for _, r := range decoded {
		if r >= utf8.RuneSelf && lookalike(r) {
			return "", pathLookalike
		}
	}
	return decoded, ""
}

// lookalike reports whether a server that folds Unicode (compatibility
// normalisation, "best fit" code pages) could take r for ASCII, or drop it.
func lookalike(r rune) bool {
	switch r {
	case '\u2044', '\u2215', '\u29f8', '\u2216', '\u29f5', utf8.RuneError:
		return true
	}
	if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zs, unicode.Zl, unicode.Zp) {
		return true
	}
	for _, c := range norm.NFKC.String(string(r)) {
		if c < utf8.RuneSelf {
			return true
		}
	}
	return false
}

// hasDotSegment looks at segments between slashes of either kind.
func hasDotSegment(s string) bool {
	for seg := range strings.SplitSeq(s, "/") {
		if seg == "." || seg == ".." {
			return true
		}
	}
	return false
}

func stripParameters(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, ';')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		j := strings.IndexByte(s[i:], '/')
		if j < 0 {
			return b.String()
		}
		s = s[i+j:]
	}
}

func mergeSlashes(s string) string {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] == '/' && i > 0 && s[i-1] == '/' {
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}
