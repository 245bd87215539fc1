package issuer_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

// Every limit can be raised, and each applies at its value.
func TestLimits(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	groups := make([]string, 3000)
	many := iss.Mint(map[string]any{"groups": groups})
	long := iss.Mint(map[string]any{"note": strings.Repeat("x", 20_000)})
	iss.Publish(authztest.KeySet(append([]*authztest.Key{authztest.NewKey("ES256"), authztest.NewKey("ES256")}, iss.Key(""))...))
	plain := iss.Mint(nil)
	for name, tt := range map[string]struct {
		limits issuer.LimitsConfig
		raw    string
		want   authz.Reason
	}{
		"long":               {issuer.LimitsConfig{}, long, authz.ReasonMalformedToken},
		"long, raised":       {issuer.LimitsConfig{TokenBytes: 32 << 10}, long, authz.ReasonAllowed},
		"exactly":            {issuer.LimitsConfig{TokenBytes: len(long)}, long, authz.ReasonAllowed},
		"one byte too long":  {issuer.LimitsConfig{TokenBytes: len(long) - 1}, long, authz.ReasonMalformedToken},
		"values":             {issuer.LimitsConfig{}, many, authz.ReasonMalformedToken},
		"values, raised":     {issuer.LimitsConfig{TokenValues: 4000}, many, authz.ReasonAllowed},
		"nothing unexpected": {issuer.LimitsConfig{}, plain, authz.ReasonAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}, issuer.VerifierOptions{Limits: tt.limits})
			require.NoError(t, err)
			defer v.Close()
			require.NoError(t, v.Refresh(t.Context()))
			_, err = v.Verify(t.Context(), tt.raw)
			if tt.want == authz.ReasonAllowed {
				require.NoError(t, err)
				return
			}
			require.Equal(t, tt.want, authztest.ReasonOf(err), "%v", err)
		})
	}
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}, issuer.VerifierOptions{Limits: issuer.LimitsConfig{SetKeys: 2, SetBytes: 16 << 10}})
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Refresh(t.Context()))
	require.Equal(t, 2, v.Status()[0].Keys)
	require.Equal(t, []string{"keys[2] beyond the first 2 members"}, v.Status()[0].Why)
	iss.FailJWKS(&authztest.Fault{Genuine: true, Flood: 16 << 10})
	require.ErrorContains(t, v.Refresh(t.Context()), "larger than 16384 bytes")

	// A token of the longest length can be revoked by its text.
	longest := iss.Mint(map[string]any{"note": strings.Repeat("x", 44_000)})
	require.Greater(t, len(longest), 58_000)
	_, err = (&authz.RevocationRequest{Token: &longest}).Normalize(authz.Issuers{Verified: []string{iss.Name}}, authz.SystemClock{}.Now())
	require.NoError(t, err)

	for _, c := range []issuer.LimitsConfig{
		{TokenBytes: 1}, {TokenBytes: 60<<10 + 1}, {TokenValues: -1}, {TokenValues: 20_001}, {SetKeys: -1}, {SetKeys: 1025}, {SetBytes: 1}, {SetBytes: 16<<20 + 1},
	} {
		_, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}}}, issuer.VerifierOptions{Limits: c})
		require.ErrorContains(t, err, "is out of range", "%+v", c)
	}
}
