package authztest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"jwtbouncer/authz/authztest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The standard library verifies a signature of every algorithm.
func TestMintedSignaturesVerify(t *testing.T) {
	t.Parallel()
	algs := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	iss := authztest.NewIssuer(authztest.Offline(), authztest.Named("https://issuer.test"), authztest.Algorithms(algs...))
	for _, alg := range algs {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			parts := strings.Split(iss.Mint(nil, authztest.Alg(alg)), ".")
			require.Len(t, parts, 3)
			sig, err := base64.RawURLEncoding.DecodeString(parts[2])
			require.NoError(t, err)
			input := []byte(parts[0] + "." + parts[1])
			hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:min(len(alg), 5)]]
			var digest []byte
			if hash != 0 {
				h := hash.New()
				h.Write(input)
				digest = h.Sum(nil)
			}
			switch pub := iss.Key(alg).Public().(type) {
			case *rsa.PublicKey:
				if alg[0] == 'P' {
					require.NoError(t, rsa.VerifyPSS(pub, hash, digest, sig, nil))
				} else {
					require.NoError(t, rsa.VerifyPKCS1v15(pub, hash, digest, sig))
				}
			case *ecdsa.PublicKey:
				n := len(sig) / 2
				require.True(t, ecdsa.Verify(pub, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])))
			case ed25519.PublicKey:
				require.True(t, ed25519.Verify(pub, input, sig))
			}
		})
	}
}

func TestIssuerServesAndRotates(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer()
	defer iss.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		resp, err := client.Get(iss.URL + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	_, meta := get("/.well-known/openid-configuration")
	var m struct {
		Issuer string `json:"issuer"`
		URI    string `json:"jwks_uri"`
	}
	require.NoError(t, json.Unmarshal([]byte(meta), &m))
	require.Equal(t, iss.URL, m.Issuer)
	require.Equal(t, iss.JWKSURL(), m.URI)

	first := iss.Key("")
	second := iss.Rotate("ES256")
	_, set := get("/jwks.json")
	require.Contains(t, set, first.ID)
	require.Contains(t, set, second.ID)
	require.Same(t, second, iss.Key("ES256"))
	iss.Withdraw(first.ID)
	_, set = get("/jwks.json")
	require.NotContains(t, set, first.ID)
	require.EqualValues(t, 2, iss.Fetches())

	iss.FailJWKS(&authztest.Fault{Status: http.StatusInternalServerError, Body: "no"})
	status, body := get("/jwks.json")
	require.Equal(t, http.StatusInternalServerError, status)
	require.Equal(t, "no", body)
	iss.FailJWKS(nil)
	status, _ = get("/jwks.json")
	require.Equal(t, http.StatusOK, status)
}
