package vectors

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"jwtbouncer/authz/authztest"
)

// signer interprets the sign directive. It returns the signing function and the
// default header.
func signer(directive string, k keys) (sign func([]byte) []byte, header string, err error) {
	words := strings.Fields(directive)
	if len(words) == 0 {
		words = []string{"es"}
	}
	switch {
	case words[0] == "nothing":
		return func([]byte) []byte { return nil }, `{"alg":"none","typ":"JWT"}`, nil
	case words[0] == "hmac" && len(words) == 4 && k[words[2]] != nil:
		secret, err := publicBytes(k[words[2]], words[3])
		return func(in []byte) []byte { return authztest.HMAC(words[1], secret, in) },
			fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, words[1], words[2]), err
	}
	key := k[words[0]]
	if key != nil && len(words) == 3 && words[1] == "salt" {
		length, err := strconv.Atoi(words[2])
		return func(in []byte) []byte { return pss(key, in, length) }, fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, key.Alg, key.ID), err
	}
	if key == nil || (len(words) != 1 && (len(words) != 3 || words[1] != "as")) {
		return nil, "", fmt.Errorf("sign: unknown directive %q", directive)
	}
	alg := key.Alg
	if len(words) == 3 {
		alg = words[2]
	}
	h := map[string]string{"alg": alg, "typ": "JWT"}
	if key.ID != "" {
		h["kid"] = key.ID
	}
	b, err := json.Marshal(h)
	return func(in []byte) []byte { return key.Sign(alg, in) }, string(b), err
}

// pss signs as PS256 does, but with the given salt length.
func pss(k *authztest.Key, in []byte, salt int) []byte {
	sum := sha256.Sum256(in)
	sig, err := k.Private().Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256})
	if err != nil {
		panic(err)
	}
	return sig
}

// publicBytes encodes a public key in one of the forms that an attacker would
// use as an HMAC secret.
func publicBytes(k *authztest.Key, form string) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, err
	}
	switch form {
	case "der":
		return der, nil
	case "pem":
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
	case "jwk":
		return json.Marshal(k.JWK())
	case "modulus":
		return k.Public().(*rsa.PublicKey).N.Bytes(), nil
	case "point":
		return k.Public().(*ecdsa.PublicKey).Bytes()
	}
	return nil, fmt.Errorf("unknown form of a public key: %q", form)
}

// mutate changes a good signature.
func mutate(sig []byte, how string) ([]byte, error) {
	order := elliptic.P256().Params().N
	half := len(sig) / 2
	pair := func(r, s *big.Int) []byte {
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	}
	switch how {
	case "":
		return sig, nil
	case "flip":
		sig[len(sig)/3] ^= 1
	case "truncate":
		return sig[:len(sig)-1], nil
	case "extend":
		return append(sig, 0), nil
	case "leading zero":
		return append([]byte{0}, sig...), nil
	case "zero":
		clear(sig)
	case "r and s zero-padded to 33 bytes":
		return append(append([]byte{0}, sig[:half]...), append([]byte{0}, sig[half:]...)...), nil
	case "der":
		return derSignature(new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])), nil
	case "negated s": // as valid as the original: ECDSA is malleable
		s := new(big.Int).SetBytes(sig[half:])
		return pair(new(big.Int).SetBytes(sig[:half]), s.Sub(order, s)), nil
	case "r is order, s is order":
		return pair(order, order), nil
	case "r is one, s is zero":
		return pair(big.NewInt(1), new(big.Int)), nil
	case "swap r and s":
		return append(append([]byte{}, sig[half:]...), sig[:half]...), nil
	default:
		return nil, fmt.Errorf("unknown mutation %q", how)
	}
	return sig, nil
}

func derSignature(r, s *big.Int) []byte {
	integer := func(n *big.Int) []byte {
		b := n.Bytes()
		if b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return append([]byte{2, byte(len(b))}, b...)
	}
	body := append(integer(r), integer(s)...)
	return append([]byte{0x30, byte(len(body))}, body...)
}
