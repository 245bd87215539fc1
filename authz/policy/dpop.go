package policy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

const (
	// maxProof bounds the text of a DPoP proof, in bytes: an RSA-4096 key and
	// signature with a long URL take less.
	maxProof = 8 << 10
	// maxProofID bounds a proof's jti, in bytes.
	maxProofID = 512
)

// clockDifference is how far the clocks of sidecars that share the memory of
// used proofs may be apart, or one of them be stepped back.
const clockDifference = time.Minute

// checkProof checks the request's DPoP proof (RFC 9449, section 4.3) for the
// access token raw, which is bound to the key with thumbprint jkt.
func (b *Binding) checkProof(ctx context.Context, req *authz.Request, raw, jkt string, now time.Time) *authz.Failure {
	bad := func(detail string) *authz.Failure {
		return &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: "DPoP: " + detail, Challenge: b.badProof}
	}
	text, n := req.Header("dpop")
	if n != 1 {
		return bad("exactly one DPoP header is needed")
	}
	p, why := b.readProof(text, jkt)
	if why != "" {
		return bad(why)
	}
	if p.htm != req.Method {
		return bad("htm is not the request's method")
	}
	if !b.sameURL(p.htu, req) {
		return bad("htu is not the request's URL")
	}
	oldest, newest := now.Add(-b.dpop.MaxAge-b.dpop.Leeway).Unix(), now.Add(b.dpop.Leeway).Unix()
	if p.iat < oldest || p.iat > newest {
		return bad("iat is too old or in the future")
	}
	sum := sha256.Sum256([]byte(raw))
	if subtle.ConstantTimeCompare([]byte(p.ath), []byte(base64url(sum[:]))) != 1 {
		return bad("ath is not the access token's hash")
	}
	// Only now, so that nobody but the key's holder can fill the store. A sidecar
	// whose clock is behind takes the proof for longer than this one does.
	ttl := time.Duration(p.iat-oldest+1)*time.Second + clockDifference
	seen, err := b.replay.Seen(ctx, "dpop:"+jkt+":"+p.jti, ttl)
	switch {
	case err != nil:
		return &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "DPoP: whether the proof was used before could not be found out: " + err.Error()}
	case seen:
		return bad("the proof was used before")
	}
	return nil
}

// proof holds the claims of a DPoP proof (RFC 9449, section 4.2).
type proof struct {
	jti, htm, htu, ath string
	iat                int64
}

// readProof checks everything about the proof that does not depend on the
// request, its signature included. why is "" when it is sound.
func (b *Binding) readProof(text, jkt string) (p proof, why string) {
	if len(text) > maxProof {
		return p, "the proof is too long"
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return p, "the proof is not a JWT"
	}
	var decoded [3][]byte
	for i := range parts {
		var ok bool
		if decoded[i], ok = authz.DecodeSegment(parts[i]); !ok || len(decoded[i]) == 0 {
			return p, "the proof is not base64url"
		}
	}
	header, err := jose.ParseObject(string(decoded[0]))
	if err != nil {
		return p, "the proof's header is not a JSON object"
	}
	for _, name := range []string{"crit", "b64", "zip", "enc", "jku", "x5u", "x5c"} {
		if _, present := header[name]; present {
			return p, "the proof's header has " + name
		}
	}
	if typ, _ := header["typ"].(string); jose.MediaType(typ) != "dpop+jwt" {
		return p, "typ is not dpop+jwt"
	}
	alg, _ := header["alg"].(string)
	if !slices.Contains(b.dpop.Algorithms, alg) {
		return p, "alg is not accepted"
	}
	members, _ := header["jwk"].(map[string]any)
	key, why := readProofKey(members)
	if why != "" {
		return p, why
	}
	// Before the signature: a foreign key costs no public-key operation.
	if subtle.ConstantTimeCompare([]byte(key.thumbprint), []byte(jkt)) != 1 {
		return p, "the proof's key is not the one the token is bound to"
	}
	if !key.fits(alg) {
		return p, "alg does not fit the proof's key"
	}
	if !jose.Algorithms[alg].Verify(key.public, text[:strings.LastIndexByte(text, '.')], decoded[2]) {
		return p, "the proof's signature is wrong"
	}
	claims, err := jose.ParseObject(string(decoded[1]))
	if err != nil {
		return p, "the proof's payload is not a JSON object"
	}
	for name, into := range map[string]*string{"jti": &p.jti, "htm": &p.htm, "htu": &p.htu, "ath": &p.ath} {
		if *into, _ = claims[name].(string); *into == "" {
			return p, "the proof has no " + name
		}
	}
	if len(p.jti) > maxProofID {
		return p, "jti is too long"
	}
	iat, ok := claims["iat"].(json.Number)
	if !ok {
		return p, "the proof has no iat"
	}
	seconds, err := iat.Float64()
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return p, "iat is not a time"
	}
	p.iat = int64(seconds)
	return p, ""
}

// sameURL compares htu with the request's URL, ignoring query and fragment
// (RFC 9449, section 4.3), after RFC 3986's scheme, host and escape
// normalisation (sections 6.2.2 and 6.2.3). Dot segments are left as they are.
func (b *Binding) sameURL(htu string, req *authz.Request) bool {
	origin, path, ok := readURL(htu)
	if !ok || path != escapePath(req.Path) {
		return false
	}
	if len(b.origins) == 0 {
		return origin == readOrigin(req.Scheme, req.Host)
	}
	// A request that names one of several external hosts is for that one.
	host, _ := readHost(req.Host)
	named := func(o string) bool {
		_, authority, _ := strings.Cut(o, "://")
		h, _ := readHost(authority)
		return host != "" && h == host
	}
	if slices.ContainsFunc(b.origins, named) {
		return slices.Contains(b.origins, origin) && named(origin)
	}
	return slices.Contains(b.origins, origin)
}

// readURL splits an absolute http(s) URL into its normalised origin and path.
func readURL(s string) (origin, path string, ok bool) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found || len(s) > maxProof {
		return "", "", false
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	origin = readOrigin(scheme, authority)
	return origin, escapePath(path), origin != ""
}

// readOrigin normalises scheme and authority; "" when they are none.
func readOrigin(scheme, authority string) string {
	scheme = strings.ToLower(scheme)
	defaultPort := map[string]string{"http": "80", "https": "443"}[scheme]
	host, ok := readHost(authority)
	if !ok || defaultPort == "" {
		return ""
	}
	port := ""
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		port = authority[i+1:]
	}
	if port == "" || port == defaultPort {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// escapePath drops query and fragment and normalises escapes: letters, digits
// and -._~ stand for themselves, everything else has upper-case hex.
func escapePath(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if path == "" {
		return "/"
	}
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
			b = append(b, path[i])
			continue
		}
		c := unhex(path[i+1])<<4 | unhex(path[i+2])
		if s := string(rune(c)); c < 0x80 && url.PathEscape(s) == s && strings.IndexByte("$&+=:@", c) < 0 {
			b = append(b, c)
		} else {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		}
		i += 2
	}
	return string(b)
}
