package vectors

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"
)

// TestPlainJWXFailsTheVectors tests the vectors: it replaces the verifier by the
// JOSE library alone, used as its documentation shows. The vectors that the
// library accepts are why the strict parser exists. testdata/plainjwx.txt lists
// them; UPDATE=1 rewrites it.
func TestPlainJWXFailsTheVectors(t *testing.T) {
	t.Parallel()
	list, err := load("testdata/tokens/*.txt", tokenDirectives...)
	require.NoError(t, err)
	k := newKeys()
	set, err := jwk.Parse(k.set())
	require.NoError(t, err)
	var through []string
	for _, s := range list {
		raw, err := build(s, k)
		require.NoError(t, err)
		accepted := plainJWX(raw, set)
		switch {
		case s.expect == "allowed" && !accepted:
			t.Logf("rejected by the library alone: %s", s.name)
		case s.expect != "allowed" && accepted:
			through = append(through, fmt.Sprintf("%s: %s", s.expect, s.name))
		}
	}
	const golden = "testdata/plainjwx.txt"
	text := strings.Join(through, "\n") + "\n"
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(golden, []byte(text), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
	require.Greater(t, len(through), 60, "the vectors no longer tell the product from the library")
}

func plainJWX(raw string, set jwk.Set) (accepted bool) {
	defer func() {
		if recover() != nil {
			accepted = false
		}
	}()
	_, err := jwt.Parse([]byte(raw), jwt.WithKeySet(set), jwt.WithIssuer(issuerName), jwt.WithAudience("api"),
		jwt.WithClock(jwt.ClockFunc(func() time.Time { return time.Unix(now, 0) })), jwt.WithAcceptableSkew(30*time.Second))
	return err == nil
}

// The JOSE library alone reads many key sets differently.
func TestPlainJWXReadsKeySetsOtherwise(t *testing.T) {
	t.Parallel()
	list, err := load("testdata/keysets/*.txt", "set", "verifies", "fails")
	require.NoError(t, err)
	k := newKeys()
	k["rsa1024"], k["rsa2047"] = k["rs"], k["rs"]
	differ := 0
	for _, s := range list {
		set, err := jwk.Parse([]byte(fillIn(t, s.fields["set"], k)))
		got := "error"
		if err == nil {
			got = fmt.Sprintf("usable %d refused 0", set.Len())
		}
		if got != s.expect {
			differ++
		}
	}
	require.Greater(t, differ, 40)
}
