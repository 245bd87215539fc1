package vectors

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// stopped is a clock that stands so many seconds after the vectors' time.
type stopped int64

func (c stopped) Now() time.Time    { return time.Unix(now+int64(c), 0) }
func (stopped) Boot() time.Duration { return time.Hour }

// newVerifier returns a verifier with four issuers. The vectors try to confuse the
// second and third with the first. The last one's ID tokens are accepted.
func newVerifier(t *testing.T, k keys, clock authz.Clock) *issuer.Verifier {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, set []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, set, 0o600))
		return path
	}
	v, err := issuer.NewVerifier([]issuer.Config{
		{Issuer: issuerName, Audiences: []string{"api"}, JWKS: file("main.json", k.set())},
		{Issuer: "https://other.test", Audiences: []string{"api"}, JWKS: file("other.json", authztest.KeySet(authztest.NewKey("ES256")))},
		{Issuer: "https://only-ed.test", Audiences: []string{"api"}, JWKS: file("main.json", k.set()), Algorithms: []string{"EdDSA"}},
		{Issuer: "https://id.test", Audiences: []string{"api"}, JWKS: file("main.json", k.set()), AcceptIDTokens: true},
	}, issuer.VerifierOptions{Clock: clock, Leeway: 30 * time.Second})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	require.NoError(t, v.Refresh(t.Context()))
	return v
}

// clean is a tier that proves every token not revoked, so that only verification
// denies.
type clean struct{ authz.AlwaysWaits }

func (clean) Name() string { return "clean" }
func (clean) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	return authz.NotRevoked, nil
}

func TestTokens(t *testing.T) {
	t.Parallel()
	list, err := load("testdata/tokens/*.txt", tokenDirectives...)
	require.NoError(t, err)
	k := newKeys()
	v := newVerifier(t, k, stopped(0))
	whole := authz.NewAuthorizer(v, nil, authz.NewChain(nil, clean{}), policy.New(), stopped(0))
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			raw, err := build(s, k)
			require.NoError(t, err, "%s:%d", s.file, s.line)
			got, detail := judge(t, v, raw, now)
			require.Equal(t, s.expect, got, "%s:%d: %s", s.file, s.line, detail)

			d := whole.Authorize(t.Context(), &authz.Request{Method: "GET", Path: "/",
				Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}})
			require.Equal(t, s.expect == "allowed", d.Allowed(), "%s:%d: %v", s.file, s.line, d.Reason)
		})
	}
}

// judge verifies raw at a time, in Unix seconds, and names the outcome as the decision would.
func judge(t *testing.T, v authz.Verifier, raw string, at int64) (outcome, detail string) {
	t.Helper()
	token, err := authztest.Verify(t, v, raw)
	if err != nil {
		require.Nil(t, token, "a token together with an error")
		var f *authz.Failure
		require.True(t, errors.As(err, &f), "%v", err)
		return f.Reason.String(), f.Detail
	}
	require.True(t, v.Current(token, at))
	if !token.Accepted {
		return authz.ReasonWrongAudience.String(), ""
	}
	return authz.ReasonAllowed.String(), ""
}

// The runner rejects malformed vectors.
func TestRunnerRefusesBadVectors(t *testing.T) {
	t.Parallel()
	_, err := load("testdata/none/*.txt")
	require.ErrorContains(t, err, "no vector found")
	for name, text := range map[string]string{
		"unknown directive": "name: a\nexpect: allowed\nheadre: x\n",
		"directive twice":   "name: a\nexpect: allowed\nexpect: expired\n",
		"no expect":         "name: a\n",
		"no name":           "expect: allowed\n",
		"name twice":        "name: a\nexpect: allowed\n\nname: a\nexpect: allowed\n",
	} {
		path := filepath.Join(t.TempDir(), "v.txt")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := load(path, tokenDirectives...)
		require.Error(t, err, name)
	}
	k := newKeys()
	for _, fields := range []map[string]string{
		{"sign": "nobody"}, {"sign": "es with ES256"}, {"encode-header": "rot13"}, {"signature": "burnt"}, {"with": "exp: 0"},
	} {
		_, err := build(stanza{fields: fields}, k)
		require.Error(t, err, "%v", fields)
	}
}
