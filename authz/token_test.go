package authz

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Callers may compute the value themselves (docs/api.md).
func TestTokenValue(t *testing.T) {
	t.Parallel()
	const head, body = "eyJhbGciOiJFUzI1NiJ9", "e30"
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, tt := range map[string]struct{ raw, hashed string }{
		"JWT":                       {head + "." + body + ".AAAA", head + "." + body},
		"JWT, another signature":    {head + "." + body + ".BBBB", head + "." + body},
		"JWT, no signature":         {head + "." + body + ".", head + "." + body},
		"JWT, signature with =":     {head + "." + body + ".AAA=", head + "." + body},
		"header not beginning ey":   {encode("{\n\"alg\":\"ES256\"}") + "." + body + ".AAAA", encode("{\n\"alg\":\"ES256\"}") + "." + body},
		"header behind white space": {encode(" \t\r\n  {\"alg\":\"ES256\"}") + "." + body + ".A", encode(" \t\r\n  {\"alg\":\"ES256\"}") + "." + body},
		"empty payload":             {head + "..AAAA", head + "."},
		"opaque":                    {"2YotnFZFEjr1zCsicMWpAA", ""},
		"opaque, one dot":           {"ya29.a0AfH6SMBx", ""},
		"opaque, two dots":          {"1.2.3", ""},
		"opaque, no base64url":      {"eyJ~.b.c", ""},
		"opaque, one letter more":   {"eyJhb.b.c", ""},
		"opaque, an array":          {encode(`["a"]`) + ".b.c", ""},
		"opaque, white space":       {encode("   ") + ".b.c", ""},
		"JWE":                       {head + ".a.b.c.d", ""},
		"four segments":             {head + ".a.b.c", ""},
		"two segments":              {head + ".a", ""},
		"empty":                     {"", ""},
		"dots":                      {"..", ""},
		"long":                      {strings.Repeat("e30.", 5000), ""},
	} {
		if tt.hashed == "" {
			tt.hashed = tt.raw
		}
		sum := sha256.Sum256([]byte(tt.hashed))
		assert.Equalf(t, hex.EncodeToString(sum[:]), TokenValue(tt.raw), "%s: not the hash of %q", name, tt.hashed)
	}
}

// No two opaque tokens share a verdict or a revocation.
func TestOpaqueTokensHaveDistinctKeys(t *testing.T) {
	t.Parallel()
	query := func(raw string) Query {
		token := &Token{Raw: raw, Issuer: "https://i"}
		token.SetKeys()
		return token.Query()
	}
	assert.NotEqual(t, query("ya29.mallory").TokenKey, query("ya29.alice").TokenKey, "two opaque tokens have one identity")
}

func TestSignedPartAllocatesNothing(t *testing.T) {
	raw := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(" ", 100)+`{"alg":"ES256","kid":"k"}`)) + ".e30.AAAA"
	n := testing.AllocsPerRun(100, func() { SignedPart(raw) })
	assert.Zero(t, n, "allocations")
}
