package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RFC 7515, section 4.1.7
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"jwtbouncer/authz"
)

// Bounds on RSA keys. RFC 7518, section 3.3, requires 2048 bits; 8192 bits keep
// a verification below a millisecond. FIPS 186-5, section 5.4, requires an odd
// exponent above 2^16.
const (
	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 1<<16 + 1
)

// PublicKey is one usable key of an issuer. It is immutable.
type PublicKey struct {
	Kid string // empty: published without one
	// OtherKids are the other kids under which the set contains the same key,
	// sorted. Revoking any of them revokes the key.
	OtherKids []string
	// Issuer is the "issuer" member of the JWK, with which Microsoft Entra says
	// whose tokens the key signs; empty: absent.
	Issuer string

	alg    string // the only algorithm it is for; empty: every one that fits kty and crv
	kty    string
	crv    string // empty for RSA
	public crypto.PublicKey
	digest string // RFC 7638 thumbprint: identifies the key under any kid

	// Thumbprints of the key's certificate, as the members of these names or the
	// first certificate of x5c have them; nil: it has no certificate.
	x5t, x5tS256 []string
}

// Aliases returns the revocation keys of OtherKids.
func (k *PublicKey) Aliases(issuer string) []authz.Key {
	var keys []authz.Key
	for _, kid := range k.OtherKids {
		keys = append(keys, authz.RevocationKey(authz.KindKID, issuer, kid))
	}
	return keys
}

// Verify reports whether the key may verify c's algorithm and made its
// signature.
func (k *PublicKey) Verify(c *Compact) bool {
	return k.fits(c.Header.Alg) && VerifySignature(c.Header.Alg, k.public, c.input, c.signature)
}

// fits reports whether the key may verify signatures of alg (RFC 8725,
// section 3.1).
func (k *PublicKey) fits(alg string) bool {
	return (k.alg == "" || k.alg == alg) && AlgorithmFits(alg, k.kty, k.crv)
}

// parseJWK parses one member of a key set. uses are the values of "use" that it
// may have. The JOSE library decodes what the rules below accept. Errors say why
// the key is unusable and never contain key material.
func parseJWK(text string, uses []string) (_ *PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil { // the JOSE library panics on some malformed keys
			err = fmt.Errorf("cannot be decoded (%T)", p)
		}
	}()
	k := &PublicKey{}
	m, err := ParseObject(text)
	DropEmpty(m)
	if err == nil {
		err = k.readPurpose(m, uses)
	}
	if err == nil {
		err = checkCoordinates(k, m)
	}
	if err != nil {
		return nil, err
	}
	k.readThumbprints(m)
	material, err := json.Marshal(map[string]any{"kty": m["kty"], "crv": m["crv"], "n": m["n"], "e": m["e"], "x": m["x"], "y": m["y"]})
	if err != nil {
		return nil, errors.New("cannot be encoded")
	}
	parsed, err := jwk.ParseKey(material) // nothing else of the member reaches the library
	if err != nil {
		return nil, errors.New("not a JWK that can be decoded")
	}
	if err := parsed.Raw(&k.public); err != nil {
		return nil, errors.New("key material cannot be decoded")
	}
	if err := checkStrength(k); err != nil {
		return nil, err
	}
	sum, err := parsed.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, errors.New("thumbprint cannot be computed")
	}
	k.digest = string(sum)
	return k, nil
}

// PrivateMember returns the name of a member of a JWK that holds private or
// symmetric key material (RFC 7518, sections 6.2.2, 6.3.2 and 6.4); "" if there
// is none. The caller has applied DropEmpty.
func PrivateMember(m map[string]any) string {
	for _, name := range [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, present := m[name]; present {
			return name
		}
	}
	return ""
}

// readPurpose reads the key's identity and permitted use (RFC 7517, section 4).
func (k *PublicKey) readPurpose(m map[string]any, uses []string) error {
	if name := PrivateMember(m); name != "" {
		return fmt.Errorf("contains private or symmetric key material (%q): its owner should consider it disclosed", name)
	}
	if !optionalString(m, "kid", &k.Kid) || !optionalString(m, "alg", &k.alg) || !optionalString(m, "crv", &k.crv) {
		return errors.New("kid, alg or crv is not a string of 1 to 1024 bytes")
	}
	k.Issuer, _ = m["issuer"].(string)
	if k.kty, _ = m["kty"].(string); k.kty == "RSA" {
		k.crv = ""
	}
	if !slices.ContainsFunc(SupportedAlgorithms, k.fits) {
		return fmt.Errorf("kty %s with crv %s and alg %s is not supported", authz.QuoteShort(k.kty), authz.QuoteShort(k.crv), authz.QuoteShort(k.alg))
	}
	if v, present := m["use"]; present {
		use, _ := v.(string)
		if !slices.Contains(uses, use) {
			return fmt.Errorf("use %s is not %s", authz.QuoteShort(use), strings.Join(uses, " or "))
		}
	}
	if ops, present := m["key_ops"]; present {
		list, ok := StringList(ops)
		if !ok || !slices.Contains(list, "verify") {
			return errors.New("key_ops does not contain verify")
		}
		slices.Sort(list)
		if len(slices.Compact(list)) != len(list) {
			return errors.New("key_ops contains a duplicate value")
		}
	}
	return nil
}

// readThumbprints reads the thumbprints by which tokens may name the key instead
// of its kid (RFC 7517, sections 4.7 to 4.9). They only choose among the keys of
// the set, so nothing of the certificate is verified.
func (k *PublicKey) readThumbprints(m map[string]any) {
	add := func(list *[]string, text string) {
		if text != "" {
			*list = append(*list, text)
		}
	}
	add(&k.x5t, thumbprint(m, "x5t"))
	add(&k.x5tS256, thumbprint(m, "x5t#S256"))
	chain, _ := m["x5c"].([]any)
	if len(chain) == 0 {
		return
	}
	text, _ := chain[0].(string)
	if der, err := base64.StdEncoding.DecodeString(text); err == nil && len(der) > 0 {
		sum1, sum256 := sha1.Sum(der), sha256.Sum256(der) //nolint:gosec // RFC 7515, section 4.1.7: a name, not a proof
		add(&k.x5t, base64.RawURLEncoding.EncodeToString(sum1[:]))
		add(&k.x5tS256, base64.RawURLEncoding.EncodeToString(sum256[:]))
	}
}

// optionalString sets *into to the member called name. It reports false unless
// the member is absent or a string of 1 to authz.MaxIdentifier bytes.
func optionalString(m map[string]any, name string, into *string) bool {
	v, present := m[name]
	if !present {
		return true
	}
	s, ok := v.(string)
	*into = s
	return ok && s != "" && len(s) <= authz.MaxIdentifier && authz.ValidText(s)
}

// StringList returns the strings of v. It reports false, and the strings are
// meaningless, unless v is a []any of strings only.
func StringList(v any) ([]string, bool) {
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i := 0; ok && i < len(list); i++ {
		out[i], ok = list[i].(string)
	}
	return out, ok
}

// checkCoordinates checks the exact form of the encoded numbers (RFC 7518,
// sections 6.2.1.2 and 6.3.1; RFC 8037, section 2). The JOSE library accepts
// an Ed25519 key of any length and panics when it is used.
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
	switch pub := k.public.(type) {
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
			return errors.New("point of small order: anyone can forge its signatures")
		}
	default:
		return errors.New("not a public key for signatures")
	}
	return nil
}

// smallOrders are the y coordinates of the points of edwards25519 whose order
// divides 8, encoded as in keys, without the sign of x. p and p+1 are further
// encodings of 0 and 1 that crypto/ed25519 accepts.
var smallOrders = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// hasSmallOrder reports whether pub has small order. One signature for such a
// key fits at least an eighth of all messages, because k times the key has at
// most eight values (RFC 8032, section 5.1.7).
func hasSmallOrder(pub ed25519.PublicKey) bool {
	y := slices.Clone(pub)
	y[len(y)-1] &= 0x7f // without the sign of x
	return slices.Contains(smallOrders, hex.EncodeToString(y))
}

// rocaPrimes are the small primes for which the powers of 65537 are a proper
// subgroup. A modulus of the vulnerable generator is in all of these subgroups;
// a random one is with a probability below 2^-27.
var rocaPrimes = []int64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113,
	127, 131, 137, 139, 149, 151, 157, 163, 167,
}

func hasROCA(n *big.Int) bool {
	for _, p := range rocaPrimes {
		r := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		power := int64(1)
		for tries := p; power != r && tries > 0; tries-- { // at most p-1 different powers
			power = power * 65537 % p
		}
		if power != r {
			return false
		}
	}
	return true
}
