package authz

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

func ValidText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func isHexSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
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
func DecodeSegment(s string) ([]byte, bool) {
	for i := range len(s) {
		if !base64urlBytes[s[i]] {
			return nil, false
		}
	}
	b, err := strictBase64.DecodeString(s)
	return b, err == nil
}

// quoteShort makes text an attacker chose fit for a log: quoted, ASCII,
// at most 64 bytes of it.
func QuoteShort(s string) string {
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

// maxIdentifier bounds iss, sub, jti, sid and kid, in bytes: what is longer
// could not be named in a revocation (Revocation.Normalize).
const MaxIdentifier = 1024

// isToken68 is RFC 6750's b64token (section 2.1), which is RFC 9110's token68.
// It runs over the whole token on every check: looking bytes up costs a tenth
// of comparing them, since a token's bytes cannot be foreseen by a processor.
func IsToken68(s string) bool {
	end := len(strings.TrimRight(s, "="))
	var bad byte
	for i := range end {
		bad |= notToken68[s[i]]
	}
	return end > 0 && bad == 0
}

var notToken68 = func() (table [256]byte) {
	for c := range table {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/", rune(c)) {
			table[c] = 1
		}
	}
	return table
}()

func FormatTime(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
