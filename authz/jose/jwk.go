package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"jwtbouncer/authz"
)

// Bounds on RSA keys: 2048 bits at least (RFC 7518, section 3.3), and small
// enough that a verification stays below a millisecond; the exponent above
// 2^16 and odd (FIPS 186-5, section 5.4).
const (
	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 1<<16 + 1
)

// publicKey is one usable key of an issuer.
type PublicKey struct {
	Kid    string // empty: published without
	alg    string // the only algorithm it is for; empty: all that fit kty and crv
	kty    string
	crv    string
	Key    crypto.PublicKey
	digest string // RFC 7638 thumbprint: which key it is, whatever it is called
	// others are the further kids under which the set holds the same key,
	// sorted: whoever revokes one of them means the key.
	Others []string
}

// aliases are the revocation keys of others.
func (k *PublicKey) Aliases(issuer string) []authz.Key {
	var keys []authz.Key
	for _, kid := range k.Others {
		keys = append(keys, authz.RevocationKey(authz.KindKID, issuer, kid))
	}
	return keys
}

// fits reports whether the key may verify alg's signatures: RFC 8725,
// section 3.1, no algorithm but the key's own.
func (k *PublicKey) fits(alg string) bool {
	a, ok := Algorithms[alg]
	return ok && a.Kty == k.kty && a.Crv == k.crv && (k.alg == "" || k.alg == alg)
}

// parseJWK turns one member of a key set into a key, or says why it is unfit.
// What the rules below let pass is decoded by the JOSE library.
func parseJWK(text string) (_ *PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil { // the library's panics are the key's fault
			err = fmt.Errorf("cannot be decoded (%T)", p)
		}
	}()
	m, err := ParseObject(text)
	if err != nil {
		return nil, err
	}
	k := &PublicKey{}
	if err := k.readPurpose(m); err != nil {
		return nil, err
	}
	if err := checkCoordinates(k, m); err != nil {
		return nil, err
	}
	parsed, err := jwk.ParseKey([]byte(text))
	if err != nil {
		return nil, errors.New("not a JWK that can be decoded")
	}
	if err := parsed.Raw(&k.Key); err != nil {
		return nil, errors.New("key material cannot be decoded")
	}
	if err := checkStrength(k); err != nil {
		return nil, err
	}
	sum, err := parsed.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, errors.New("no thumbprint can be made")
	}
	k.digest = string(sum)
	return k, nil
}

// readPurpose takes over who the key is and what it is for (RFC 7517, section 4).
func (k *PublicKey) readPurpose(m map[string]any) error {
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, present := m[name]; present {
			return fmt.Errorf("holds private or symmetric key material (%q): its owner should consider it disclosed", name)
		}
	}
	if !optionalString(m, "kid", &k.Kid) || !optionalString(m, "alg", &k.alg) || !optionalString(m, "crv", &k.crv) {
		return errors.New("kid, alg or crv is not a string of 1 to 1024 bytes")
	}
	k.kty, _ = m["kty"].(string)
	switch {
	case k.kty == "RSA":
		k.crv = ""
	case k.kty == "EC" && slices.Contains([]string{"P-256", "P-384", "P-521"}, k.crv):
	case k.kty == "OKP" && k.crv == "Ed25519":
	default:
		return fmt.Errorf("kty %s with crv %s is not supported", authz.QuoteShort(k.kty), authz.QuoteShort(k.crv))
	}
	if use, present := m["use"]; present && use != "sig" {
		return errors.New("use is not sig")
	}
	if ops, present := m["key_ops"]; present {
		list, ok := StringList(ops)
		if !ok || !slices.Contains(list, "verify") {
			return errors.New("key_ops does not hold verify")
		}
		slices.Sort(list)
		if len(slices.Compact(list)) != len(list) {
			return errors.New("key_ops holds a value twice")
		}
	}
	if k.alg != "" && !k.fits(k.alg) {
		return fmt.Errorf("alg %s is not supported for kty %s %s", authz.QuoteShort(k.alg), k.kty, k.crv)
	}
	return nil
}

func optionalString(m map[string]any, name string, into *string) bool {
	v, present := m[name]
	if !present {
		return true
	}
	s, ok := v.(string)
	*into = s
	return ok && s != "" && len(s) <= authz.MaxIdentifier && authz.ValidText(s)
}

func StringList(v any) ([]string, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, len(list))
	for i := range list {
		if out[i], ok = list[i].(string); !ok {
			return nil, false
		}
	}
	return out, true
}

// checkCoordinates holds the encoded numbers to their exact form: RFC 7518,
// sections 6.2.1.2 and 6.3.1, and RFC 8037, section 2. The library takes an
// Ed25519 key of any length and panics when it is used.
func checkCoordinates(k *PublicKey, m map[string]any) error {
	size := map[string]int{"P-256": 32, "P-384": 48, "P-521": 66, "Ed25519": ed25519.PublicKeySize}[k.crv]
	names := map[string][]string{"RSA": {"n", "e"}, "EC": {"x", "y"}, "OKP": {"x"}}[k.kty]
	for _, name := range names {
		text, _ := m[name].(string)
		b, ok := authz.DecodeSegment(text)
		switch {
		case !ok || len(b) == 0:
			return fmt.Errorf("%s is missing or not base64url", name)
		case size != 0 && len(b) != size:
			return fmt.Errorf("%s has %d bytes instead of %d", name, len(b), size)
		case len(b) > maxRSABits/8+1:
			return fmt.Errorf("%s is too long", name)
		}
	}
	return nil
}

func checkStrength(k *PublicKey) error {
	switch pub := k.Key.(type) {
	case *rsa.PublicKey:
		switch bits := pub.N.BitLen(); {
		case bits < minRSABits || bits > maxRSABits:
			return fmt.Errorf("RSA key of %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
		case pub.E < minRSAExponent || pub.E&1 == 0 || pub.E > 1<<31-1:
			return errors.New("RSA exponent is out of range")
		case pub.N.Bit(0) == 0:
			return errors.New("RSA modulus is even")
		case hasROCA(pub.N):
			return errors.New("RSA modulus has the form of a weak generator (CVE-2017-15361)")
		}
	case *ecdsa.PublicKey:
		if _, err := pub.ECDH(); err != nil { // fails unless the point is on the curve
			return errors.New("point is not on the curve")
		}
	case ed25519.PublicKey:
		if len(pub) != ed25519.PublicKeySize {
			return errors.New("wrong length")
		}
		if hasSmallOrder(pub) {
			return errors.New("point of small order: anybody can sign for it")
		}
	default:
		return errors.New("not a public key for signatures")
	}
	return nil
}

// smallOrders are the y coordinates of the points of edwards25519 whose order
// divides 8, as keys encode them without the sign of x; 0 and 1 also as p and
// p+1, which crypto/ed25519 takes as well.
var smallOrders = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// hasSmallOrder reports whether one signature fits an eighth of all messages or
// more (RFC 8032, section 5.1.7: k times such a key has eight values at most).
func hasSmallOrder(pub ed25519.PublicKey) bool {
	y := slices.Clone(pub)
	y[len(y)-1] &= 0x7f // without the sign of x
	return slices.Contains(smallOrders, hex.EncodeToString(y))
}

// rocaPrimes are the small primes for which the powers of 65537 are a proper
// subgroup; a modulus of the vulnerable generator lies in all of them. An
// honest one does with a probability below 2^-27.
var rocaPrimes = []int64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113,
	127, 131, 137, 139, 149, 151, 157, 163, 167,
}

func hasROCA(n *big.Int) bool {
	for _, p := range rocaPrimes {
		r := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		member, power := false, int64(1)
		for range p { // at most p-1 different powers
			if power == r {
				member = true
				break
			}
			power = power * 65537 % p
		}
		if !member {
			return false
		}
	}
	return true
}
