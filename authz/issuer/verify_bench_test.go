package issuer_test

import (
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

// realistic are claims of the size identity providers issue: about 770 bytes
// of token with RS256.
var realistic = map[string]any{
	"sub": "f:9d2f4b7e-5c1a-4e0b-9a53-1f0c2f8f7c11:jane.doe", "scope": "openid profile email orders:read orders:write",
	"azp": "storefront", "sid": "7b1f0a52-8a0f-4a35-9a0c-0f3a5a1f6d2e", "preferred_username": "jane.doe",
	"realm_access": map[string]any{"roles": []string{"offline_access", "uma_authorization", "customer"}},
	"email":        "jane.doe@example.com", "email_verified": true, "acr": "1",
}

// plain verifies as the JOSE library's documentation shows.
func plain(b *testing.B, iss *authztest.Issuer) func(raw string) error {
	b.Helper()
	set, err := jwk.Parse(iss.JWKS())
	require.NoError(b, err)
	return func(raw string) error {
		_, err := jwt.Parse([]byte(raw), jwt.WithKeySet(set), jwt.WithIssuer(iss.Name), jwt.WithAudience("api"))
		return err
	}
}

// BenchmarkVerifyCold is a token never seen before, against the library alone.
// The goal is at most 0.8 of it.
func BenchmarkVerifyCold(b *testing.B) {
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		iss := authztest.NewIssuer(authztest.Algorithms(alg))
		defer iss.Close()
		v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}, issuer.VerifierOptions{})
		require.NoError(b, err)
		defer v.Close()
		require.NoError(b, v.Refresh(b.Context()))
		raw := iss.Mint(realistic)
		library := plain(b, iss)
		b.Run(alg+"/product", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(alg+"/jwx", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := library(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCurrent is on the path of every request with a cached token.
func BenchmarkCurrent(b *testing.B) {
	iss := authztest.NewIssuer()
	defer iss.Close()
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}, issuer.VerifierOptions{})
	require.NoError(b, err)
	defer v.Close()
	token, err := v.Verify(b.Context(), iss.Mint(nil))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if !v.Current(token, token.IssuedAt) {
			b.Fatal("not current")
		}
	}
}

// BenchmarkVerifyForged measures a flood of forged tokens: the
// signature of a known kid has to be computed, anything else is cheaper.
func BenchmarkVerifyForged(b *testing.B) {
	iss := authztest.NewIssuer(authztest.Algorithms("RS256"))
	defer iss.Close()
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}, issuer.VerifierOptions{})
	require.NoError(b, err)
	defer v.Close()
	require.NoError(b, v.Refresh(b.Context()))
	for name, raw := range map[string]string{
		"bad signature": iss.Mint(realistic, authztest.Tampered()),
		"unknown kid":   iss.Mint(realistic, authztest.Header("kid", "unknown")),
		"alg none":      iss.Mint(realistic, authztest.Header("alg", "none")),
		"garbage":       "garbage",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), raw); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
