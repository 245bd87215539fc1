package issuer_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
)

// site serves documents by path; NAME in them stands for the issuer, which is the
// server's URL with the path.
func site(t *testing.T, path string, documents map[string]string) string {
	t.Helper()
	var name string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := documents[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, strings.ReplaceAll(text, "NAME", name))
	}))
	t.Cleanup(server.Close)
	name = server.URL + path
	return name
}

func discover(t *testing.T, name string) (*issuer.Metadata, error) {
	t.Helper()
	return issuer.Discover(t.Context(), issuer.Config{Issuer: name}, nil)
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	keys := string(authztest.KeySet(authztest.NewKey("ES256"), authztest.NewKey("EdDSA")))
	const document = `{"issuer":"NAME","jwks_uri":"NAME/keys","id_token_signing_alg_values_supported":["HS256","RS256","none"],"extra":true}`
	t.Run("OpenID Connect Discovery", func(t *testing.T) {
		t.Parallel()
		name := site(t, "/a", map[string]string{"/a/.well-known/openid-configuration": document, "/a/keys": keys})
		m, err := discover(t, name)
		require.NoError(t, err)
		require.True(t, m.OpenID)
		require.Equal(t, name+"/keys", m.JWKS)
		require.Equal(t, name+"/.well-known/openid-configuration", m.From)
		require.Equal(t, true, m.Members["extra"])
		require.Equal(t, []string{"RS256", "ES256", "EdDSA"}, m.Algorithms, "advertised or declared by a key, and acceptable")
	})
	t.Run("RFC 8414", func(t *testing.T) {
		t.Parallel()
		name := site(t, "/a/b", map[string]string{"/.well-known/oauth-authorization-server/a/b": `{"issuer":"NAME","jwks_uri":"NAME/keys"}`, "/a/b/keys": keys})
		m, err := discover(t, name)
		require.NoError(t, err)
		require.False(t, m.OpenID, "a sidecar finds the keys by jwks only")
		require.Equal(t, []string{"ES256", "EdDSA"}, m.Algorithms)
	})
	t.Run("RFC 8414, of another issuer", func(t *testing.T) {
		t.Parallel()
		_, err := discover(t, site(t, "/a", map[string]string{"/.well-known/oauth-authorization-server/a": `{"issuer":"https://other.example","jwks_uri":"NAME/keys"}`}))
		var mismatch *issuer.MismatchError
		require.ErrorAs(t, err, &mismatch)
		require.Equal(t, "https://other.example", mismatch.Claimed)
	})
	t.Run("neither", func(t *testing.T) {
		t.Parallel()
		_, err := discover(t, site(t, "/a", nil))
		require.ErrorIs(t, err, fetch.StatusError(404))
		require.ErrorContains(t, err, "/a/.well-known/openid-configuration", "the first address is the usual one")
	})
	t.Run("no usable key", func(t *testing.T) {
		t.Parallel()
		for text, want := range map[string]string{`{"keys":[]}`: "it is empty", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`: "keys[0] "} {
			_, err := discover(t, site(t, "", map[string]string{"/.well-known/openid-configuration": document, "/keys": text}))
			var none *issuer.NoKeysError
			require.ErrorAs(t, err, &none)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "c2VjcmV0")
		}
	})
	t.Run("not a key set", func(t *testing.T) {
		t.Parallel()
		_, err := discover(t, site(t, "", map[string]string{"/.well-known/openid-configuration": document, "/keys": "<html>"}))
		require.ErrorContains(t, err, "where a JWK set is needed")
	})
	t.Run("no URL", func(t *testing.T) {
		t.Parallel()
		_, err := discover(t, "issuer")
		require.ErrorContains(t, err, `the issuer "issuer" is not an http(s) URL`)
	})
}
