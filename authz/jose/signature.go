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

// SupportedAlgorithms are the values of "alg" that can be accepted (RFC 7518,
// section 3.1; RFC 8037, Ed25519 only): never "none", never HMAC.
var SupportedAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// algorithm is what a value of "alg" requires of key and signature.
type algorithm struct {
	kty  string
	crv  string // empty for RSA
	hash crypto.Hash
	pss  bool
}

var algorithms = map[string]algorithm{
	"RS256": {kty: "RSA", hash: crypto.SHA256},
	"RS384": {kty: "RSA", hash: crypto.SHA384},
	"RS512": {kty: "RSA", hash: crypto.SHA512},
	"PS256": {kty: "RSA", hash: crypto.SHA256, pss: true},
	"PS384": {kty: "RSA", hash: crypto.SHA384, pss: true},
	"PS512": {kty: "RSA", hash: crypto.SHA512, pss: true},
	"ES256": {kty: "EC", crv: "P-256", hash: crypto.SHA256},
	"ES384": {kty: "EC", crv: "P-384", hash: crypto.SHA384},
	"ES512": {kty: "EC", crv: "P-521", hash: crypto.SHA512},
	"EdDSA": {kty: "OKP", crv: "Ed25519"},
}

// AlgorithmFits reports whether alg signs with keys of the type kty on the
// curve crv, which is empty for RSA.
func AlgorithmFits(alg, kty, crv string) bool {
	a, ok := algorithms[alg]
	return ok && a.kty == kty && a.crv == crv
}

// VerifySignature reports whether key made the signature of input with alg. The
// caller has checked with AlgorithmFits that the key is for alg.
//
// It calls the standard library on the raw key. The verifiers of JOSE libraries
// leave the PSS salt length open, where RFC 7518, section 3.5, fixes it to that
// of the hash, and convert the key anew for each token.
func VerifySignature(alg string, key crypto.PublicKey, input string, signature []byte) bool {
	a := algorithms[alg]
	if pub, ok := key.(ed25519.PublicKey); ok {
		return a.kty == "OKP" && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, []byte(input), signature)
	}
	if !a.hash.Available() {
		return false
	}
	h := a.hash.New()
	_, _ = h.Write([]byte(input)) // a hash never fails
	digest := h.Sum(make([]byte, 0, 64))
	switch pub := key.(type) {
	case *rsa.PublicKey:
		if a.pss {
			return rsa.VerifyPSS(pub, a.hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return a.kty == "RSA" && rsa.VerifyPKCS1v15(pub, a.hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		size := (pub.Curve.Params().BitSize + 7) / 8
		if a.kty != "EC" || len(signature) != 2*size { // RFC 7518, section 3.4: exact octets
			return false
		}
		return ecdsa.Verify(pub, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
	return false
}
