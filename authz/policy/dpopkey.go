package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// proofKey is the public key in the header of a DPoP proof. Anybody can send one
// with any request, so it is decoded with the standard library only.
type proofKey struct {
	kty, crv   string
	public     crypto.PublicKey
	thumbprint string // RFC 7638, SHA-256, base64url
}

const (
	minProofRSABits = 2048
	maxProofRSABits = 4096
)

// readProofKey decodes a JWK (RFC 7517), which must be an asymmetric public key.
// why is "" if it is one.
func readProofKey(m map[string]any) (k proofKey, why string) {
	if m == nil {
		return k, "the header of the proof has no jwk"
	}
	jose.DropEmpty(m)
	if jose.PrivateMember(m) != "" {
		return k, "jwk contains a private or symmetric key"
	}
	number := func(name string, size int) []byte {
		text, _ := m[name].(string)
		b, ok := authz.DecodeSegment(text)
		if !ok || len(b) == 0 || size > 0 && len(b) != size {
			why = "jwk has no valid " + name
		}
		return b
	}
	k.kty, _ = m["kty"].(string)
	k.crv, _ = m["crv"].(string)
	switch k.kty {
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.crv]
		if curve == nil {
			return k, "the curve of jwk is not supported"
		}
		size := (curve.Params().BitSize + 7) / 8
		x, y := number("x", size), number("y", size)
		if why != "" {
			return k, why
		}
		pub, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
		if err != nil {
			return k, "the point of jwk is not on its curve"
		}
		k.public = pub
		k.setThumbprint(`{"crv":"` + k.crv + `","kty":"EC","x":"` + base64url(x) + `","y":"` + base64url(y) + `"}`)
	case "OKP":
		if k.crv != "Ed25519" {
			return k, "the curve of jwk is not supported"
		}
		x := number("x", ed25519.PublicKeySize)
		if why != "" {
			return k, why
		}
		k.public = ed25519.PublicKey(x)
		k.setThumbprint(`{"crv":"Ed25519","kty":"OKP","x":"` + base64url(x) + `"}`)
	case "RSA":
		k.crv = ""
		n, e := number("n", 0), number("e", 0)
		if why != "" {
			return k, why
		}
		modulus := new(big.Int).SetBytes(n)
		exponent := new(big.Int).SetBytes(e)
		if n[0] == 0 || e[0] == 0 || modulus.BitLen() < minProofRSABits || modulus.BitLen() > maxProofRSABits || modulus.Bit(0) == 0 ||
			exponent.BitLen() > 31 || exponent.Bit(0) == 0 || exponent.Int64() < 3 {
			return k, "the RSA key in jwk is too short, too long or malformed"
		}
		k.public = &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
		k.setThumbprint(`{"e":"` + base64url(e) + `","kty":"RSA","n":"` + base64url(n) + `"}`)
	default:
		return k, "the kty of jwk is not supported"
	}
	return k, ""
}

// setThumbprint hashes the required members, which canonical holds in the order
// and form of RFC 7638, section 3.
func (k *proofKey) setThumbprint(canonical string) {
	sum := sha256.Sum256([]byte(canonical))
	k.thumbprint = base64url(sum[:])
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
