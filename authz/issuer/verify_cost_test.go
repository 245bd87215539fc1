package issuer_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/jose"
)

// A verification costs less than with the library alone, which checks less.
// Both are timed in turns, and the fastest round of each counts, so that a busy
// machine affects both. The test is not parallel for the same reason.
func TestVerifyCostsLessThanTheLibrary(t *testing.T) { //nolint:paralleltest // see above
	// The arithmetic of elliptic curves dominates both.
	for alg, most := range map[string]float64{"RS256": 0.8, "ES256": 0.9, "EdDSA": 0.9} {
		iss := authztest.StartIssuer(t, authztest.Algorithms(alg))
		v := authztest.NewVerifier(t, iss)
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

// The sender of a forged token chooses its content, but not how much is allocated
// for it.
func TestForgedTokensBuildNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun
	iss := authztest.StartIssuer(t, authztest.Algorithms("RS256"))
	v := authztest.NewVerifier(t, iss)
	genuine := iss.Mint(realistic)
	good := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), genuine) })
	list := func(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	header := func(more string) string { return fmt.Sprintf(`{"alg":"RS256","kid":%q%s}`, iss.Key("").ID, more) }
	signature := strings.Repeat("A", 342)
	for name, tt := range map[string]struct{ header, payload string }{
		"objects":         {header(""), `"x":[` + list("{}", 1990) + `]`},
		"objects in each": {header(""), `"x":[` + list(`{"a":{}}`, 900) + `]`},
		"arrays":          {header(""), `"x":[` + list("[]", 1990) + `]`},
		"strings":         {header(""), `"x":[` + list(`"\n"`, 1900) + `]`},
		"numbers":         {header(""), `"x":[` + list("1e9", 1990) + `]`},
		"names":           {header(""), list(`"\n":0`, 1500)},
		"many in header":  {header(`,"x":[` + list("{}", 1990) + `]`), `"x":0`},
		"some in header":  {header(`,"x":[` + list("{}", 60) + `]`), `"x":0`},
	} {
		for _, claims := range []string{fmt.Sprintf(`{"iss":%q,%s}`, iss.Name, tt.payload), "{" + tt.payload + "}"} {
			raw := authztest.Base64URL([]byte(tt.header)) + "." + authztest.Base64URL([]byte(claims)) + "." + signature
			require.LessOrEqual(t, len(raw), jose.DefaultMaxTokenBytes, name)
			_, err := v.Verify(t.Context(), raw)
			require.Error(t, err, name)
			forged := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), raw) })
			t.Logf("%s: %.0f allocations, %.0f of a good token: %v", name, forged, good, err)
			require.Less(t, forged, 3*good, name)
		}
	}
}

func TestVerifyAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun
	iss := authztest.StartIssuer(t, authztest.Algorithms("RS256"))
	v := authztest.NewVerifier(t, iss)
	raw := iss.Mint(realistic)
	token, err := v.Verify(t.Context(), raw)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { v.Current(token, token.IssuedAt) }))
	cold := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), raw) })
	require.LessOrEqual(t, cold, 75.0)
	require.Equal(t, authz.ReasonMalformedToken, authztest.ReasonOf(func() error { _, err := v.Verify(t.Context(), "x"); return err }()))
}
