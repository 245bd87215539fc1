package issuer

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
)

func emptySet(context.Context) (fetch.Document, error) {
	return fetch.Document{Body: []byte(`{"keys":[]}`)}, nil
}

// The number of kids remembered as unknown is bounded.
func TestUnknownKeysTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, err := NewVerifier([]Config{{Issuer: "x", Audiences: []string{"api"}, JWKS: "/none"}}, VerifierOptions{Clock: fixedClock(1)})
		require.NoError(t, err)
		defer v.Close()
		r := v.rings[0]
		r.fetch = emptySet
		for i := range 3 * maxUnknownKIDs {
			r.nextRefresh = 0 // the cooldown is over
			<-r.refreshFor(fmt.Sprint(i)).done
			n := len(r.unknown)
			require.LessOrEqual(t, n, maxUnknownKIDs, "remembered")
			require.Falsef(t, n == 0 && i > 0, "%d remembered", n)
		}
	})
}

type ed25519Key struct{ ed25519.PrivateKey }

func newEd25519(t *testing.T) ed25519Key {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return ed25519Key{k}
}

func (k ed25519Key) token(header, claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	input := e([]byte(header)) + "." + e([]byte(claims))
	return input + "." + e(ed25519.Sign(k.PrivateKey, []byte(input)))
}

// A Token outlives the request whose buffer its text was in.
func TestTokenKeepsNothingOfTheRequest(t *testing.T) {
	t.Parallel()
	signer := newEd25519(t)
	public := base64.RawURLEncoding.EncodeToString(signer.Public().(ed25519.PublicKey))
	set, err := jose.ParseJWKS(fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, public), jose.SetRules{})
	require.NoError(t, err)
	v, err := NewVerifier([]Config{{Issuer: "x", Audiences: []string{"api"}, JWKS: "/none"}}, VerifierOptions{})
	require.NoError(t, err)
	defer v.Close()
	v.rings[0].install(set, [32]byte{})
	text := signer.token(`{"alg":"EdDSA","kid":"k"}`, fmt.Sprintf(`{"iss":"x","aud":"api","sub":"s","jti":"j","exp":%d}`, time.Now().Unix()+60))
	buffer := []byte(text)
	token, err := v.Verify(t.Context(), unsafe.String(&buffer[0], len(buffer)))
	require.NoError(t, err)
	for i := range buffer {
		buffer[i] = 'x'
	}
	require.Equalf(t, text, token.Raw, "the token changed with the buffer: %+v", token)
	require.Equalf(t, "s", token.Subject, "the token changed with the buffer: %+v", token)
	require.Equalf(t, "j", token.ID, "the token changed with the buffer: %+v", token)
	require.Equalf(t, "k", token.KeyID, "the token changed with the buffer: %+v", token)
	require.Equalf(t, "x", token.Claims["iss"], "the token changed with the buffer: %+v", token)
	require.Equalf(t, "api", token.Audience[0], "the token changed with the buffer: %+v", token)
}
