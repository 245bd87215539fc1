package vectors

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"jwtbouncer/authz/authztest"
)

// now is the time at which vectors are verified, in Unix seconds.
const now = 1893456000

const issuerName = "https://issuer.test"

// keys are the signing keys by the names that vectors use.
type keys map[string]*authztest.Key

func newKeys() keys {
	made := keys{}
	for name, alg := range map[string]string{
		"es": "ES256", "es2": "ES256", "es384": "ES384", "es512": "ES512", "rs": "RS256", "ps": "PS256", "ed": "EdDSA",
		"any": "RS256", "nokid": "ES384", "foreign": "ES256",
	} {
		made[name] = authztest.NewKey(alg).Named(name)
	}
	for _, name := range []string{"es", "es2", "rs"} {
		made[name] = made[name].With("x5t", name+"-x5t").With("x5t#S256", name+"-x5t-S256")
	}
	made["any"] = made["any"].With("alg", nil)
	made["nokid"] = made["nokid"].Named("")
	return made
}

// set returns the issuer's key set.
func (k keys) set() []byte {
	var list []*authztest.Key
	for _, name := range slices.Sorted(maps.Keys(k)) {
		if name != "foreign" {
			list = append(list, k[name])
		}
	}
	return authztest.KeySet(list...)
}

// tokenDirectives are the directives of build.
var tokenDirectives = []string{
	"header",           // text of the header; default {"alg":…,"kid":…,"typ":"JWT"} of sign's key
	"payload",          // text of the payload; default see defaults
	"without",          // names of default claims to leave out, space separated
	"with",             // members that replace default claims, as text: "exp": 0
	"sign",             // "KEY [as ALG]" (default es), "KEY salt LENGTH", "nothing", or "hmac ALG KEY der|pem|jwk|modulus"
	"encode-header",    // see encode; the signature covers the encoded segment
	"encode-payload",   //
	"encode-signature", //
	"signature",        // see mutate
	"token",            // how the segments are joined; default $H.$P.$S
}

// defaults are the claims of a valid token, in order.
var defaults = [][2]string{
	{"iss", `"` + issuerName + `"`}, {"sub", `"user-1"`}, {"aud", `"api"`}, {"jti", `"j-1"`},
	{"iat", "1893455900"}, {"exp", "1893456300"},
}

func payload(s stanza) (string, error) {
	if p, ok := s.fields["payload"]; ok {
		return expand(p), nil
	}
	drop := strings.Fields(s.fields["without"])
	with := expand(s.fields["with"])
	if with != "" {
		var name string
		if err := json.NewDecoder(strings.NewReader(with)).Decode(&name); err != nil {
			return "", fmt.Errorf("with: want a member's name first: %w", err)
		}
		drop = append(drop, name)
	}
	var members []string
	for _, d := range defaults {
		if !slices.Contains(drop, d[0]) {
			members = append(members, `"`+d[0]+`":`+d[1])
		}
	}
	if with != "" {
		members = append(members, with)
	}
	return "{" + strings.Join(members, ",") + "}", nil
}

// build makes the token that a stanza describes.
func build(s stanza, k keys) (string, error) { return buildAt(s, k, now) }

// nearNow are the times of the vectors around now, in seconds.
var nearNow = regexp.MustCompile(`\b1893[45][0-9]{5}\b|1\.8934563e9`)

// buildAt is build, with the times in the payload moved from now to at.
func buildAt(s stanza, k keys, at int64) (string, error) {
	body, err := payload(s)
	if err != nil {
		return "", err
	}
	body = nearNow.ReplaceAllStringFunc(body, func(n string) string {
		v, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return strconv.FormatFloat(float64(at+300), 'e', -1, 64) // the one with an exponent
		}
		return strconv.FormatInt(v-now+at, 10)
	})
	sign, header, err := signer(s.fields["sign"], k)
	if err != nil {
		return "", err
	}
	if h, ok := s.fields["header"]; ok {
		header = expand(h)
	}
	var segments [3]string
	for i, text := range []string{header, body} {
		which := []string{"encode-header", "encode-payload"}[i]
		if segments[i], err = encode([]byte(text), s.fields[which]); err != nil {
			return "", err
		}
	}
	sig, err := mutate(sign([]byte(segments[0]+"."+segments[1])), s.fields["signature"])
	if err != nil {
		return "", err
	}
	if segments[2], err = encode(sig, s.fields["encode-signature"]); err != nil {
		return "", err
	}
	form, ok := s.fields["token"]
	if !ok {
		form = "$H.$P.$S"
	}
	return expand(strings.NewReplacer("$H", segments[0], "$P", segments[1], "$S", segments[2]).Replace(form)), nil
}

// encode encodes a segment in base64url, or in one of the ways that RFC 7515,
// section 2, excludes.
func encode(b []byte, how string) (string, error) {
	if (how == "padded" || how == "unused bits") && len(b)%3 == 0 {
		b = append(b, ' ') // trailing white space changes only the length of JSON
	}
	plain := base64.RawURLEncoding.EncodeToString(b)
	half := len(plain) / 2
	switch how {
	case "":
		return plain, nil
	case "padded":
		return base64.URLEncoding.EncodeToString(b), nil
	case "padding":
		return plain + "=", nil
	case "standard alphabet":
		return base64.RawStdEncoding.EncodeToString(b), nil
	case "newline":
		return plain[:half] + "\n" + plain[half:], nil
	case "carriage return":
		return plain + "\r\n", nil
	case "space":
		return plain[:half] + " " + plain[half:], nil
	case "percent":
		return plain + "%3D", nil
	case "unused bits":
		return unusedBits(plain)
	case "odd length":
		return plain + strings.Repeat("A", (5-len(plain)%4)%4), nil
	case "not at all":
		return string(b), nil
	}
	return "", fmt.Errorf("unknown encoding %q", how)
}

// unusedBits sets the lowest bit of the last character, which carries no data.
func unusedBits(plain string) (string, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(plain)%4 == 0 {
		return "", fmt.Errorf("the segment has no unused bits; change its length")
	}
	last := len(plain) - 1
	return plain[:last] + string(alphabet[strings.IndexByte(alphabet, plain[last])|1]), nil
}
