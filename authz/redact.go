package authz

import (
	"strings"
	"unicode/utf8"
)

// Redact returns a copy of at most n bytes of s for a log, whole characters
// only, with [token] in place of text that has the form of a JWT: clients put
// tokens into paths and request ids.
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

// RedactMiddle is Redact for a message, whose end often says most: of a longer one it
// keeps the beginning and the end.
func RedactMiddle(s string, n int) string {
	s = Redact(s, len(s)) // [token] is shorter than any token
	if len(s) <= n {
		return s
	}
	const gap = " … "
	tail := (n - len(gap)) / 2
	head := n - len(gap) - tail
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	from := len(s) - tail
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return s[:head] + gap + s[from:]
}

const (
	minJWTHeader = 16 // bytes; {"alg":"none"} takes 19
	minJWTRest   = 16 // bytes, with its dots
)

// HoldsToken reports whether s contains text with the form of a JWT.
func HoldsToken(s string) bool {
	at, end := findToken(s, len(s))
	return at < end
}

// findToken returns the start and the end of the first text with the form of a
// JWT that begins within the first limit bytes of s. Without one, both are
// limit or the end of s. It reads each byte a bounded number of times.
func findToken(s string, limit int) (at, end int) {
	limit = min(limit, len(s))
	for at < limit {
		e := strings.IndexAny(s[at:limit], "eICD") // how a JSON object begins in base64url, white space first or not
		if e < 0 {
			break
		}
		at += e
		const maxLeadingSpace = 64 // characters of base64url
		next, ok := objectStart(s[at:min(at+maxLeadingSpace, len(s))])
		if !ok || next != '"' && !isSpace(next) {
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
		at += header // any other object in these bytes would end where this one did
	}
	return limit, limit
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
