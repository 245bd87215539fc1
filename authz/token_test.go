package authz

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

func TestPartyNames(t *testing.T) {
	t.Parallel()
	act := func(sub any, more map[string]any) map[string]any { return map[string]any{"sub": sub, "act": more} }
	for name, c := range map[string]struct {
		claims map[string]any
		want   []KeyName
	}{
		"neither":                 {nil, nil},
		"client_id before azp":    {map[string]any{"client_id": "a", "azp": "b"}, []KeyName{{KindClient, "a"}}},
		"azp":                     {map[string]any{"client_id": "", "azp": "b"}, []KeyName{{KindClient, "b"}}},
		"a number":                {map[string]any{"client_id": json.Number("7")}, []KeyName{{KindClient, "7"}}},
		"no scalar":               {map[string]any{"client_id": []any{"a"}, "act": "x"}, nil},
		"every actor of a chain":  {map[string]any{"act": act("a", act("b", act("a", nil)))}, []KeyName{{KindActor, "a"}, {KindActor, "b"}}},
		"an actor without a name": {map[string]any{"act": map[string]any{"act": act("b", nil)}}, []KeyName{{KindActor, "b"}}},
		"may_act says who could":  {map[string]any{"may_act": act("a", nil)}, nil},
	} {
		assert.Equal(t, c.want, PartyNames(c.claims), name)
	}
}

func TestClaimNames(t *testing.T) {
	t.Parallel()
	revocable := []string{"tenant", "n", "b"}
	got, fail := ClaimNames(map[string]any{"tenant": "acme", "n": json.Number("1e3"), "b": true, "other": []any{}}, revocable)
	require.Nil(t, fail)
	assert.Equal(t, []KeyName{{KindClaim, "tenant=acme"}, {KindClaim, "n=1e3"}, {KindClaim, "b=true"}}, got)
	got, fail = ClaimNames(map[string]any{"tenant": nil, "n": ""}, revocable)
	require.Nil(t, fail)
	assert.Empty(t, got)
	for name, v := range map[string]any{"array": []any{"acme"}, "object": map[string]any{}, "long": strings.Repeat("a", MaxIdentifier), "NUL": "a\x00"} {
		_, fail := ClaimNames(map[string]any{"tenant": v}, revocable)
		require.NotNil(t, fail, name)
		assert.Equal(t, ReasonBadClaim, fail.Reason, name)
	}
}

// Every kind that a token can be revoked by is among its keys, and the key of one
// is no other's.
func TestTokenKeys(t *testing.T) {
	t.Parallel()
	token := &Token{Raw: "a.b", Issuer: "i", Subject: "x", ID: "x", Session: "x", KeyID: "x", Claims: map[string]any{"azp": "x", "act": map[string]any{"sub": "x"}}}
	token.SetKeys(KeysOf("i", []KeyName{{KindClaim, "t=x"}})...)
	var want []Key
	for kind := KindJTI; kind <= KindAll; kind++ {
		issuer, value := "i", "x"
		switch kind {
		case KindIss:
			value = ""
		case KindToken:
			value = TokenValue("a.b")
		case KindClaim:
			value = "t=x"
		case KindAll:
			issuer, value = "", ""
		}
		want = append(want, RevocationKey(kind, issuer, value))
	}
	assert.ElementsMatch(t, want, token.Keys)
	assert.Equal(t, RevocationKey(KindToken, "i", TokenValue("a.b")), token.Query().TokenKey)
}

func TestSignedPartAllocatesNothing(t *testing.T) {
	raw := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(" ", 100)+`{"alg":"ES256","kid":"k"}`)) + ".e30.AAAA"
	n := testing.AllocsPerRun(100, func() { SignedPart(raw) })
	assert.Zero(t, n, "allocations")
}
