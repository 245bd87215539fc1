package authz_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
)

func unsignedJWT(claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc([]byte(claims)) + "." + enc([]byte("signature"))
}

// Reading claims without verification never panics and accepts only text with
// the form of a JWT.
func FuzzUnverifiedClaims(f *testing.F) {
	for _, seed := range []string{"", "..", "a.b.c", unsignedJWT(`{"iss":"x"}`), unsignedJWT(`[]`), unsignedJWT(`{"iss":7}`), unsignedJWT(`{"iss":"x"}`) + "="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		_, ok := authz.ReadUnverifiedClaims(raw)
		assert.Falsef(t, ok && (strings.Count(raw, ".") != 2 || strings.ContainsAny(raw, "= \r\n")), "taken for a JWT: %q", raw)
	})
}
