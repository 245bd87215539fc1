package authz

import (
	"encoding/base64"
	"strings"
)

// Redact returns a copy of at most n bytes of s for a log, whole characters
// only. In place of what has the form of a JWT it says [token]: clients put
// tokens where none belongs, in the path or the request id.
func Redact(s string, n int) string {
	var b strings.Builder
	for b.Len() < n {
		at, end := findToken(s, n-b.Len())
		b.WriteString(s[:at])
		if at == end {
			break
		}
		b.WriteString("[token]")
		s = s[end:]
	}
	text := b.String()
	return strings.ToValidUTF8(text[:min(n, len(text))], "\uFFFD")
}

const (
	minJWTHeader = 16 // bytes; {"alg":"none"} takes 19
	minJWTRest   = 16 // bytes, with its dots
)

// HoldsToken reports whether there is text with the form of a JWT in s.
func HoldsToken(s string) bool {
	at, end := findToken(s, len(s))
	return at < end
}

// findToken returns where the first text with the form of a JWT begins within the
// first limit bytes of s, and its end beyond them. Where there is none, both
// are limit or the end of s. It looks at each byte a bounded number of times.
func findToken(s string, limit int) (at, end int) {
	limit = min(limit, len(s))
	for at < limit {
		e := strings.IndexAny(s[at:limit], "eICD")
		if e < 0 {
			break
		}
		at += e
		if !beginsObject(s[at:]) {
			at++
			continue
		}
		end = at
		for end < len(s) && base64urlBytes[s[end]] {
			end++
		}
		header := end - at
		for end < len(s) && header >= minJWTHeader {
			n := dotLen(s[end:])
			if n == 0 && end-at > header && (base64urlBytes[s[end]] || s[end] == '~') { // ~: disclosures of an SD-JWT
				n = 1
			}
			if n == 0 {
				break
			}
			end += n
		}
		if end-at-header >= minJWTRest {
			return at, end
		}
		at += header // whatever else begins in these bytes goes on as this did
	}
	return limit, limit
}

// maxLeadingSpace is how much white space before a JSON object is looked
// through, in characters of base64url.
const maxLeadingSpace = 64

// beginsObject reports whether s begins as a JSON object does in base64url:
// with { and a quote or white space, behind white space or none. Its first
// character is e, I, C or D then.
func beginsObject(s string) bool {
	var b [3]byte
	open := false
	for s = s[:min(len(s), maxLeadingSpace)]; len(s) >= 4; s = s[4:] {
		if _, err := base64.RawURLEncoding.Decode(b[:], []byte(s[:4])); err != nil {
			return false
		}
		for _, c := range b {
			space := c == ' ' || c == '\t' || c == '\r' || c == '\n'
			switch {
			case open:
				return c == '"' || space
			case c == '{':
				open = true
			case !space:
				return false
			}
		}
	}
	return false
}

// dotLen returns the length of a dot at the beginning of s, percent-encoded any
// number of times; 0: there is none.
func dotLen(s string) int {
	if s[0] == '.' {
		return 1
	}
	rest, ok := strings.CutPrefix(s, "%")
	for ok && strings.HasPrefix(rest, "25") {
		rest = rest[2:]
	}
	if !ok || !strings.HasPrefix(rest, "2E") && !strings.HasPrefix(rest, "2e") {
		return 0
	}
	return len(s) - len(rest) + 2
}
