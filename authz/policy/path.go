package policy

import (
	"cmp"
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
	// parts describe all readings of an unclear path; nil if they cannot be
	// described (dot segments, control bytes, invalid escapes …).
	parts []pathPart
	// reshaped tells that readings may differ in their segments, and not only in
	// characters: a public route takes no such path.
	reshaped bool
}

// pathPart is a part of a path with the texts that servers may read in its place.
// The first part of a path has one text, which begins with the path's slash.
type pathPart []string

// Marks in the texts of a part. They cannot occur in the path itself, in which
// control bytes are invalid.
const (
	markOther      = '\x01' // a character that no pattern contains
	markAny        = '\x02' // one character, whichever
	markEnd        = '\x03' // the path ends before it
	markParameters = '\x04' // the rest of the segment is dropped
)

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
	maxPath  = 8192 // bytes
	maxParts = 256  // of an unclear path; an ordinary one has a handful
	maxTexts = 16   // of a part
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
	var p requestPath
	note := func(why string, reshapes bool) {
		p.unclear = cmp.Or(p.unclear, why)
		p.reshaped = p.reshaped || reshapes
	}
	from := 0 // where plain text begins that is no part yet
	for i := 0; i < len(decoded); {
		c, size := utf8.DecodeRuneInString(decoded[i:])
		var texts pathPart
		odd := true
		switch {
		case c == encodedSlash:
			note(pathEncodedSlash, true)
			texts = asRead('/')
		case c == '\\':
			note(pathBackslash, true)
			texts = asRead(c)
		case c == ';':
			note(pathParameter, true)
			texts = asRead(c)
		case c == '#' || c == '?':
			note(pathFragment, strings.IndexByte(raw, '#') >= 0)
			texts = asRead(c)
		case c == '%' && isEscape(decoded[i:]):
			note(pathDoubleEscape, true)
			twice, _ := unescape(decoded[i:])
			texts, size = decodedTwice(twice), 3
		case c == '%' && mayBecomeEscape(decoded[i+1:]):
			return requestPath{unclear: pathDoubleEscape}
		case c >= utf8.RuneSelf && lookalike(c):
			note(pathLookalike, false)
			texts = folded(c)
		default:
			odd = false
		}
		if odd {
			if texts == nil || len(p.parts) >= maxParts {
				return requestPath{unclear: p.unclear}
			}
			if from < i {
				p.parts = append(p.parts, pathPart{decoded[from:i]})
			}
			p.parts = append(p.parts, texts)
			from = i + size
		}
		i += size
	}
	if from < len(decoded) {
		p.parts = append(p.parts, pathPart{decoded[from:]})
	}
	if strings.Contains(decoded, "//") {
		note(pathEmptySegment, true)
	}
	switch {
	case hasDotSegment(p.parts):
		return requestPath{unclear: pathDotSegment}
	case p.unclear == "":
		return requestPath{text: decoded}
	}
	return p
}

// encodedSlash replaces %2F in decoded text. It cannot occur in the path itself.
const encodedSlash = 0x01

// decodePath decodes raw once. unclear is not empty if the path is not one that a
// server should accept.
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
		case c < ' ' || c == 0x7f || c == ' ' && !escaped:
			return "", pathControl
		case c >= utf8.RuneSelf && !escaped:
			return "", pathNotASCII
		case c == '/' && escaped:
			c = encodedSlash
		}
		b = append(b, c)
	}
	if !utf8.Valid(b) {
		return "", pathBadUTF8 // includes overlong forms
	}
	return string(b), ""
}

// decodedTwice returns the readings of an escape of the byte c that is left after a
// path was decoded once; nil: they cannot be described.
func decodedTwice(c byte) pathPart {
	if c < ' ' || c == 0x7f || c >= utf8.RuneSelf || c == '%' {
		return nil
	}
	return append(pathPart{string(markOther)}, asRead(rune(c))...)
}

// folded returns the readings of a lookalike: itself, nothing, one character of
// ASCII, or its compatibility decomposition; nil: they cannot be described.
func folded(c rune) pathPart {
	whole := pathPart{""}
	for _, d := range norm.NFKC.String(string(c)) {
		if d == '%' {
			return nil // it may begin an escape
		}
		var longer pathPart
		for _, s := range whole {
			for _, t := range asRead(d) {
				longer = append(longer, s+t)
			}
		}
		if whole = longer; len(whole) > maxTexts {
			return nil
		}
	}
	return append(whole, string(markOther), string(markAny), "")
}

// asRead returns the readings of a character that a server reads after it has
// decoded the path.
func asRead(c rune) []string {
	switch c {
	case '/', '\\', '\u2044', '\u2215', '\u29f8', '\u2216', '\u29f5':
		return []string{string(markOther), "/"}
	case '#', '?':
		return []string{string(markOther), string(markEnd)}
	case ';':
		return []string{string(markOther), string(markParameters)}
	}
	return []string{string(c)}
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

// hasDotSegment reports whether some reading has a segment "." or "..".
func hasDotSegment(parts []pathPart) bool {
	// How a segment begins. A part has several readings, so there is a set of them.
	const (
		empty = 1 << iota
		oneDot
		twoDots
		text
	)
	begins := empty
	for _, part := range parts {
		after := 0
		for _, s := range part {
			set := begins
			for i := 0; i < len(s) && set != 0; i++ {
				switch c := s[i]; c {
				case '/', markEnd, markParameters:
					if set&(oneDot|twoDots) != 0 {
						return true
					}
					set = empty
					if c == markEnd {
						set = 0
					} else if c == markParameters {
						set = text
					}
				case '.':
					next := set & (empty | oneDot) << 1 // one dot more
					if set&(twoDots|text) != 0 {
						next |= text
					}
					set = next
				default:
					set = text
				}
			}
			after |= set
		}
		begins = after
	}
	return begins&(oneDot|twoDots) != 0
}

// isEscape reports whether s begins with a percent escape.
func isEscape(s string) bool { _, ok := unescape(s); return ok }

// mayBecomeEscape reports whether the text after a percent sign may become two
// hexadecimal digits when a server drops or decodes characters.
func mayBecomeEscape(s string) bool {
	for _, c := range s {
		switch {
		case c == '%' || c >= utf8.RuneSelf && lookalike(c):
			return true
		case !strings.ContainsRune("0123456789abcdefABCDEF", c):
			return false
		}
	}
	return false
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
