package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	_ "crypto/sha256" // linked for crypto.Hash
	_ "crypto/sha512"
)

// algorithm is what an "alg" demands of key and signature.
type algorithm struct {
	Kty  string
	Crv  string // empty for RSA
	hash crypto.Hash
	pss  bool
}

var Algorithms = map[string]algorithm{
	"RS256": {Kty: "RSA", hash: crypto.SHA256},
	"RS384": {Kty: "RSA", hash: crypto.SHA384},
	"RS512": {Kty: "RSA", hash: crypto.SHA512},
	"PS256": {Kty: "RSA", hash: crypto.SHA256, pss: true},
	"PS384": {Kty: "RSA", hash: crypto.SHA384, pss: true},
	"PS512": {Kty: "RSA", hash: crypto.SHA512, pss: true},
	"ES256": {Kty: "EC", Crv: "P-256", hash: crypto.SHA256},
	"ES384": {Kty: "EC", Crv: "P-384", hash: crypto.SHA384},
	"ES512": {Kty: "EC", Crv: "P-521", hash: crypto.SHA512},
	"EdDSA": {Kty: "OKP", Crv: "Ed25519"},
}

// verify reports whether signature is alg's over input, made with key. The
// caller has checked that the key is for alg. It calls the standard library on
// the raw key rather than a JOSE library's verifier: those leave the PSS salt
// length open, where RFC 7518, section 3.5, fixes it to that of the hash, and
// convert the key anew for each token.
func (a algorithm) Verify(key crypto.PublicKey, input string, signature []byte) bool {
	if pub, ok := key.(ed25519.PublicKey); ok {
		return a.Kty == "OKP" && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, []byte(input), signature)
	}
	if !a.hash.Available() {
		return false
	}
	h := a.hash.New()
	_, _ = h.Write([]byte(input)) // a hash never fails
	digest := h.Sum(make([]byte, 0, 64))
	switch pub := key.(type) {
	case *rsa.PublicKey:
		switch {
		case a.Kty != "RSA":
			return false
		case a.pss:
			return rsa.VerifyPSS(pub, a.hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		default:
			return rsa.VerifyPKCS1v15(pub, a.hash, digest, signature) == nil
		}
	case *ecdsa.PublicKey:
		size := (pub.Curve.Params().BitSize + 7) / 8
		if a.Kty != "EC" || len(signature) != 2*size { // RFC 7518, section 3.4: exact octets
			return false
		}
		return ecdsa.Verify(pub, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
	return false
}

// supportedAlgorithms are the values of "alg" that can be accepted (RFC 7518,
// section 3.1; RFC 8037): never "none", never HMAC.
var SupportedAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
