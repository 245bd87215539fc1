package authz

import (
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxIdentifier bounds iss, sub, jti, sid and kid, and a revocation's reason,
// in bytes. Longer ones do not occur in practice and would bloat every index.
const MaxIdentifier = 1024

// ValidText reports whether s is valid UTF-8 without NUL, which databases refuse.
func ValidText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func isHexSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && s == strings.ToLower(s)
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

var (
	base64urlBytes = bytesIn(alphanumeric + "-_")
	token68Bytes   = bytesIn(alphanumeric + "-._~+/")
)

func bytesIn(characters string) (table [256]bool) {
	for _, c := range []byte(characters) {
		table[c] = true
	}
	return table
}

var strictBase64 = base64.RawURLEncoding.Strict()

// DecodeSegment decodes base64url as RFC 7515, section 2, defines it: no
// padding, no line breaks (which encoding/base64 skips), no other alphabet,
// and unused bits zero, so that each value has one text.
func DecodeSegment(s string) ([]byte, bool) {
	b, err := strictBase64.DecodeString(s)
	return b, err == nil && strings.IndexByte(s, '\n') < 0 && strings.IndexByte(s, '\r') < 0
}

// objectStart reports whether s is base64url of text that begins with "{",
// white space aside, and returns the byte after it; 0: there is none. It
// decodes no more of s than that, and allocates nothing.
func objectStart(s string) (next byte, ok bool) {
	var b [3]byte
	for s != "" {
		part := s[:min(4, len(s))]
		s = s[len(part):]
		n, err := base64.RawURLEncoding.Decode(b[:], []byte(part))
		if err != nil {
			return 0, false
		}
		for _, c := range b[:n] {
			switch {
			case ok:
				return c, true
			case c == '{':
				ok = true
			case !isSpace(c):
				return 0, false
			}
		}
	}
	return 0, ok
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// QuoteShort makes text that an attacker chose fit for a log: quoted, ASCII,
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

// Shorten makes a name that the caller chose fit for a response or a log: valid
// UTF-8 of limited length, and [token] in place of a token.
func Shorten(s string) string {
	const longest = 40 // characters
	s = Redact(strings.ToValidUTF8(s, "?"), len(s))
	if runes := []rune(s); len(runes) > longest {
		s = string(runes[:longest]) + "…"
	}
	return s
}

// IsToken68 reports whether s is a b64token of RFC 6750, section 2.1, which is
// RFC 9110's token68. It reads the whole token on every check: a table costs a
// tenth of comparisons, which a processor cannot predict.
func IsToken68(s string) bool {
	end := len(strings.TrimRight(s, "="))
	for i := range end {
		if !token68Bytes[s[i]] {
			return false
		}
	}
	return end > 0
}

// IsLabel reports whether s can name something in metrics, logs and paths:
// letters, digits, "-" and "_", at most 64.
func IsLabel(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, alphanumeric+"-_") == ""
}

// IsLoopback reports whether only this machine can reach host. Names other than
// localhost may resolve to any address.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// FormatTime returns Unix seconds as RFC 3339 text in UTC.
func FormatTime(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// CheckSecretURL reports a URL to which no token and no secret should be sent.
func CheckSecretURL(path, text string, report Report) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		report(path, "an absolute https URL is required")
	case u.User != nil || u.Fragment != "":
		report(path, "URL must not have a user name or a fragment")
	case u.Scheme == "http" && !IsLoopback(u.Hostname()):
		report(path, "http is for loopback addresses only: tokens and secrets are sent there")
	}
}
