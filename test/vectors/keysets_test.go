package vectors

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/jose"
)

func TestKeySets(t *testing.T) {
	t.Parallel()
	list, err := load("testdata/keysets/*.txt", "set", "verifies", "fails")
	require.NoError(t, err)
	k := newKeys()
	for _, bits := range []int{1024, 2047} {
		name := fmt.Sprint("rsa", bits)
		weak, err := rsa.GenerateKey(rand.Reader, bits)
		require.NoError(t, err)
		k[name] = authztest.KeyFrom("RS256", name, weak)
	}
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			text := fillIn(t, s.fields["set"], k)
			set, err := jose.ParseJWKS([]byte(text), jose.SetRules{})
			if s.expect == "error" {
				require.Error(t, err, "%s:%d", s.file, s.line)
				require.Nil(t, set)
				return
			}
			require.NoError(t, err, "%s:%d", s.file, s.line)
			require.Equal(t, s.expect, fmt.Sprintf("usable %d refused %d", set.Len(), len(set.Refused())),
				"%s:%d: %v", s.file, s.line, set.Refused())
			for _, name := range strings.Fields(s.fields["verifies"]) {
				c, err := verifyJWS(set, signed(k[name]))
				require.NoError(t, err, name)
				require.Equal(t, "{}", c.Payload)
			}
			for _, name := range strings.Fields(s.fields["fails"]) {
				_, err := verifyJWS(set, signed(k[name]))
				require.Error(t, err, name)
			}
		})
	}
}

// verifyJWS verifies a JWS of any payload as issuer.Verifier does.
func verifyJWS(set *jose.KeySet, raw string) (*jose.Compact, error) {
	c, fail := jose.ParseCompact(raw, jose.DefaultMaxTokenBytes)
	if fail != nil {
		return nil, fail
	}
	key, _ := set.Find(c.Header)
	if key == nil || !key.Verify(c) {
		return nil, errors.New("no key of the set made the signature")
	}
	return c, nil
}

func signed(k *authztest.Key) string {
	iss := authztest.NewIssuer(authztest.Offline(), authztest.Algorithms())
	return iss.Mint(nil, authztest.With(k), authztest.RawPayload([]byte("{}")))
}

var (
	nullMacro = regexp.MustCompile(`@null\((\w+),([^()]*)\)`)
	keyMacro  = regexp.MustCompile(`@(\w+)(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})?`)
)

// fillIn replaces @KEY and @KEY{members} by JWKs, and @null(KEY,names) by a JWK
// whose named members are null, after @repeat and @byte.
func fillIn(t *testing.T, text string, k keys) string {
	t.Helper()
	text = nullMacro.ReplaceAllStringFunc(expand(text), func(m string) string {
		g := nullMacro.FindStringSubmatch(m)
		require.NotNil(t, k[g[1]], "no key is named %q", g[1])
		members := k[g[1]].JWK()
		for _, name := range strings.Fields(g[2]) {
			members[name] = nil
		}
		b, err := json.Marshal(members)
		require.NoError(t, err)
		return string(b)
	})
	return keyMacro.ReplaceAllStringFunc(text, func(m string) string {
		g := keyMacro.FindStringSubmatch(m)
		key := k[g[1]]
		require.NotNil(t, key, "no key is named %q", g[1])
		members := key.JWK()
		if g[2] != "" {
			var change map[string]any
			require.NoError(t, json.Unmarshal([]byte(g[2]), &change), g[2])
			maps.Copy(members, change)
			maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
		}
		b, err := json.Marshal(members)
		require.NoError(t, err)
		return string(b)
	})
}
