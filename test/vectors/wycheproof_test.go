package vectors

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/jose"
)

// wycheproof is the used part of a Wycheproof JOSE file.
type wycheproof struct {
	NumberOfTests int `json:"numberOfTests"`
	TestGroups    []struct {
		Comment string          `json:"comment"`
		Private json.RawMessage `json:"private"`
		Public  json.RawMessage `json:"public"`
		Tests   []struct {
			ID      int             `json:"tcId"`
			Comment string          `json:"comment"`
			JWS     json.RawMessage `json:"jws"`
			JWE     json.RawMessage `json:"jwe"` // all of them must be rejected
			Result  string          `json:"result"`
		} `json:"tests"`
	} `json:"testGroups"`
}

// stricter lists cases that Wycheproof calls valid and this product rejects on
// purpose, besides all with a symmetric key.
var stricter = map[string]string{
	"json_web_signature_test.json/346": "RFC 7520's PS384 token under a JWK for PS256",
	"json_web_signature_test.json/350": "RFC 7520's PS384 token under a JWK for PS256",
	"json_web_signature_test.json/347": "the JWK's alg is ES521, which does not exist",
	"json_web_signature_test.json/351": "the JWK's alg is ES521, which does not exist",
}

// TestWycheproof runs Wycheproof's JWS and JWK cases, which are not part of the
// repository. JWT_BOUNCER_WYCHEPROOF names their directory; if it is not set and
// the directory is not beside the repository, the test is skipped.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	dir, named := os.LookupEnv("JWT_BOUNCER_WYCHEPROOF")
	if !named {
		dir = filepath.Join("..", "..", "..", "shared", "wycheproof")
	}
	if _, err := os.Stat(dir); err != nil {
		require.Falsef(t, named, "no Wycheproof vectors in JWT_BOUNCER_WYCHEPROOF: %v", err)
		t.Skipf("no Wycheproof vectors: %v; set JWT_BOUNCER_WYCHEPROOF to the directory of json_web_*_test.json to run them", err)
	}
	// The number of cases of each outcome, so that a suite that has lost cases
	// fails.
	for file, want := range map[string]struct{ tests, accepted, refused int }{
		"json_web_signature_test.json": {401, 32, 369},
		"json_web_key_test.json":       {26, 1, 25},
		"json_web_crypto_test.json":    {83, 2, 81},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(filepath.Join(dir, file))
			require.NoError(t, err)
			var w wycheproof
			require.NoError(t, json.Unmarshal(b, &w))
			require.Equal(t, want.tests, w.NumberOfTests)
			accepted, refused := 0, 0
			for _, g := range w.TestGroups {
				public := len(g.Public) > 0
				set, err := jose.ParseJWKS(asSet(t, g.Public, g.Private), jose.SetRules{})
				require.NoError(t, err, g.Comment)
				for _, c := range g.Tests {
					id := fmt.Sprintf("%s/%d", file, c.ID)
					text := append(c.JWS, c.JWE...)
					var raw string
					if json.Unmarshal(text, &raw) != nil {
						raw = string(text) // JSON serialization
					}
					_, err := verifyJWS(set, raw)
					if err == nil {
						accepted++
						require.Equal(t, "valid", c.Result, "%s accepted: %s %s", id, g.Comment, c.Comment)
						continue
					}
					refused++
					if c.Result == "valid" && public {
						require.NotEmpty(t, stricter[id], "%s refused: %s %s: %v", id, g.Comment, c.Comment, err)
					}
				}
			}
			require.Equal(t, want.accepted, accepted, "accepted")
			require.Equal(t, want.refused, refused, "refused")
		})
	}
}

// asSet returns a group's JWK set. A group has a set or one key.
func asSet(t *testing.T, public, private json.RawMessage) []byte {
	t.Helper()
	key := public
	if len(key) == 0 {
		key = private // a symmetric key, which must be rejected
	}
	var shape map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(key, &shape))
	if _, ok := shape["keys"]; ok {
		return key
	}
	return fmt.Appendf(nil, `{"keys":[%s]}`, key)
}
