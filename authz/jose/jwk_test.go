package jose

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Anyone can forge a signature for a key of small order: R is the neutral point,
// S is zero, and some message fits. Every encoding of such a key is refused.
func TestSmallOrderKeysAreRefused(t *testing.T) {
	t.Parallel()
	e := base64.RawURLEncoding.EncodeToString
	signature := make([]byte, 64)
	signature[0] = 1
	for _, y := range smallOrders {
		for _, sign := range []byte{0, 0x80} {
			x, err := hex.DecodeString(y)
			require.NoErrorf(t, err, "%s", y)
			require.Lenf(t, x, 32, "%s: %v", y, err)
			x[31] |= sign
			set, err := ParseJWKS(fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, e(x)), SetRules{})
			require.NoError(t, err)
			assert.Zerof(t, set.Len(), "%x is usable", x)
			fits := false
			for i := range 500 {
				input := e([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + e(fmt.Append(nil, i))
				fits = fits || VerifySignature("EdDSA", ed25519.PublicKey(x), input, signature)
			}
			assert.Truef(t, fits, "no forged signature verifies for %x: the list is wrong", x)
		}
	}
}
