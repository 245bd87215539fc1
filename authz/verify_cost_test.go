package authz_test

import (
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
)

// A verification must stay cheaper than the library alone, which checks less.
// Both are timed in turns and the quickest round of each counts, so that a
// busy machine slows down both or none. Not parallel for the same reason.
func TestVerifyCostsLessThanTheLibrary(t *testing.T) { //nolint:paralleltest // see above
	// The elliptic curves' own arithmetic is most of the time on both sides.
	for alg, most := range map[string]float64{"RS256": 0.8, "ES256": 0.9, "EdDSA": 0.9} {
		iss := newIssuer(t, authztest.Algorithms(alg))
		v := newVerifier(t, iss)
		raw := iss.Mint(realistic)
		set, err := jwk.Parse(iss.JWKS())
		require.NoError(t, err)
		product := func() error { _, err := v.Verify(t.Context(), raw); return err }
		library := func() error {
			_, err := jwt.Parse([]byte(raw), jwt.WithKeySet(set), jwt.WithIssuer(iss.Name), jwt.WithAudience("api"))
			return err
		}
		mine, theirs := time.Hour, time.Hour
		for range 200 {
			mine, theirs = min(mine, timed(t, product)), min(theirs, timed(t, library))
		}
		ratio := float64(mine) / float64(theirs)
		t.Logf("%s: %s against %s, ratio %.2f", alg, mine, theirs, ratio)
		require.LessOrEqual(t, ratio, most, alg)
	}
}

func timed(t *testing.T, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	err := f()
	took := time.Since(start)
	require.NoError(t, err)
	return took
}

func TestVerifyAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun
	iss := newIssuer(t, authztest.Algorithms("RS256"))
	v := newVerifier(t, iss)
	raw := iss.Mint(realistic)
	token, err := v.Verify(t.Context(), raw)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { v.Current(token, token.IssuedAt) }))
	cold := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), raw) })
	require.LessOrEqual(t, cold, 75.0)
	require.Equal(t, authz.ReasonMalformedToken, reasonOf(func() error { _, err := v.Verify(t.Context(), "x"); return err }()))
}
