package authztest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	_ "crypto/sha256" // linked for crypto.Hash
	_ "crypto/sha512"
)

// Key is a private signing key with its kid and algorithm.
type Key struct {
	ID  string // "kid"; empty means none
	Alg string // "alg", such as ES256

	private crypto.Signer
	extra   map[string]any // members of the JWK to add or replace; nil values omit a member
}

// NewKey makes a key for alg with a random kid: RS/PS 256–512 (2048 bits),
// ES 256–512, or EdDSA (Ed25519). It panics on any other algorithm.
func NewKey(alg string) *Key {
	k := &Key{ID: randomID(), Alg: alg}
	var err error
	switch {
	case alg == "EdDSA":
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	case curveOf(alg) != nil:
		k.private, err = ecdsa.GenerateKey(curveOf(alg), rand.Reader)
	case strings.HasPrefix(alg, "RS"), strings.HasPrefix(alg, "PS"):
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		panic("authztest: no such algorithm: " + alg)
	}
	if err != nil {
		panic(fmt.Sprintf("authztest: make %s key: %v", alg, err))
	}
	return k
}

// KeyFrom wraps a private key, for example a weak one, or one on a curve that
// does not match alg.
func KeyFrom(alg, kid string, private crypto.Signer) *Key {
	return &Key{ID: kid, Alg: alg, private: private}
}

// Named returns a copy of the key with another kid.
func (k *Key) Named(kid string) *Key {
	c := *k
	c.ID = kid
	return &c
}

// With returns a copy of the key whose JWK has the member added or replaced; a
// nil value omits it.
func (k *Key) With(member string, value any) *Key {
	c := *k
	c.extra = map[string]any{member: value}
	for m, v := range k.extra {
		if m != member {
			c.extra[m] = v
		}
	}
	return &c
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.private.Public() }

// Private returns the private key, for signatures that Sign does not make.
func (k *Key) Private() crypto.Signer { return k.private }

// JWK returns the public key as a JWK (RFC 7517; RFC 7518, section 6; RFC 8037).
func (k *Key) JWK() map[string]any {
	m := map[string]any{"use": "sig", "alg": k.Alg}
	if k.ID != "" {
		m["kid"] = k.ID
	}
	switch pub := k.private.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		size := (pub.Curve.Params().BitSize + 7) / 8
		point, err := pub.Bytes()
		if err != nil {
			panic(fmt.Sprintf("authztest: encode point: %v", err))
		}
		m["kty"], m["crv"] = "EC", pub.Curve.Params().Name
		m["x"], m["y"] = b64(point[1:1+size]), b64(point[1+size:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(pub)
	}
	for member, v := range k.extra {
		if v == nil {
			delete(m, member)
		} else {
			m[member] = v
		}
	}
	return m
}

// Sign signs input with alg (RFC 7518, section 3; RFC 8037). alg may differ from
// the key's own, to produce mismatches.
func (k *Key) Sign(alg string, input []byte) []byte {
	sig, err := k.sign(alg, input)
	if err != nil {
		panic(fmt.Sprintf("authztest: sign %s: %v", alg, err))
	}
	return sig
}

func (k *Key) sign(alg string, input []byte) ([]byte, error) {
	hash := hashOf(alg)
	var digest []byte
	if hash != 0 {
		h := hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "PS") {
			return rsa.SignPSS(rand.Reader, private, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(rand.Reader, private, hash, digest)
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			return nil, err
		}
		size := (private.Curve.Params().BitSize + 7) / 8
		sig := make([]byte, 2*size)
		r.FillBytes(sig[:size])
		s.FillBytes(sig[size:])
		return sig, nil
	case ed25519.PrivateKey:
		return ed25519.Sign(private, input), nil
	default:
		return private.Sign(rand.Reader, digest, hash)
	}
}

// HMAC signs input with HS256, HS384 or HS512 and an arbitrary secret, as an
// attacker does who uses a public key as the secret.
func HMAC(alg string, secret, input []byte) []byte {
	h := hmac.New(hashOf(alg).New, secret)
	h.Write(input)
	return h.Sum(nil)
}

func hashOf(alg string) crypto.Hash {
	switch {
	case strings.HasSuffix(alg, "256"), strings.HasSuffix(alg, "256K"):
		return crypto.SHA256
	case strings.HasSuffix(alg, "384"):
		return crypto.SHA384
	case strings.HasSuffix(alg, "512"):
		return crypto.SHA512
	}
	return 0
}

func curveOf(alg string) elliptic.Curve {
	switch alg {
	case "ES256":
		return elliptic.P256()
	case "ES384":
		return elliptic.P384()
	case "ES512":
		return elliptic.P521()
	}
	return nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
