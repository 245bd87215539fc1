package policy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

const (
	// maxProof is the maximum length of a DPoP proof in bytes. A proof with an
	// RSA-4096 key, its signature and a long URL is shorter.
	maxProof = 8 << 10
	// maxProofID is the maximum length of a proof's jti in bytes.
	maxProofID = 512
	// maxClockSkew is the tolerated difference between the clocks of sidecars
	// that share a replay store.
	maxClockSkew = time.Minute
)

// checkProof checks the DPoP proof of the request (RFC 9449, section 4.3) for the
// access token raw, which is bound to the key with thumbprint jkt.
func (b *Binding) checkProof(ctx context.Context, req *authz.Request, raw, jkt string, now time.Time) *authz.Failure {
	bad := func(detail string) *authz.Failure {
		return &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: "DPoP: " + detail, Challenge: b.badProof}
	}
	text, n := req.Header("dpop")
	if n != 1 {
		return bad("exactly one DPoP header required")
	}
	p, why := b.readProof(text, jkt)
	if why != "" {
		return bad(why)
	}
	if p.htm != req.Method {
		return bad("htm differs from the method of the request")
	}
	if !b.sameURL(p.htu, req) {
		return bad("htu differs from the URL of the request")
	}
	oldest, newest := now.Add(-b.dpop.MaxAge-b.dpop.Leeway).Unix(), now.Add(b.dpop.Leeway).Unix()
	if p.iat < oldest || p.iat > newest {
		return bad("iat is too old or in the future")
	}
	sum := sha256.Sum256([]byte(raw))
	if subtle.ConstantTimeCompare([]byte(p.ath), []byte(base64url(sum[:]))) != 1 {
		return bad("ath is not the hash of the access token")
	}
	// Last, so that only the holder of the key can fill the store. A sidecar whose
	// clock is behind accepts the proof for longer than this one.
	ttl := time.Duration(p.iat-oldest+1)*time.Second + maxClockSkew
	seen, err := b.replay.Seen(ctx, "dpop:"+jkt+":"+p.jti, ttl)
	switch {
	case err != nil:
		return &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "DPoP: cannot determine whether the proof was used before: " + err.Error()}
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
// request, including its signature. why is "" if the proof is valid.
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
		return p, "the header of the proof is not a JSON object"
	}
	if name := jose.CriticalParameter(header); name != "" {
		return p, "the header of the proof contains " + name
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
	// Before the signature, so that a proof with another key costs no public-key
	// operation.
	if subtle.ConstantTimeCompare([]byte(key.thumbprint), []byte(jkt)) != 1 {
		return p, "the token is bound to another key"
	}
	if !jose.AlgorithmFits(alg, key.kty, key.crv) {
		return p, "alg does not fit the key of the proof"
	}
	if !jose.VerifySignature(alg, key.public, text[:strings.LastIndexByte(text, '.')], decoded[2]) {
		return p, "the signature of the proof is invalid"
	}
	claims, err := jose.ParseObject(string(decoded[1]))
	if err != nil {
		return p, "the payload of the proof is not a JSON object"
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

// sameURL reports whether htu is the URL of the request, ignoring query and
// fragment (RFC 9449, section 4.3). Scheme, host and escapes are normalised (RFC
// 3986, sections 6.2.2 and 6.2.3); dot segments are not.
func (b *Binding) sameURL(htu string, req *authz.Request) bool {
	origin, path, ok := readURL(htu)
	if !ok || path != escapePath(req.Path) {
		return false
	}
	if len(b.origins) == 0 {
		return origin == readOrigin(req.Scheme, req.Host)
	}
	// A request for one of the external hosts needs a proof for that host.
	host, _ := readHost(req.Host)
	named := func(o string) bool {
		_, authority, _ := strings.Cut(o, "://")
		h, _ := readHost(authority)
		return host != "" && h == host
	}
	if slices.ContainsFunc(b.origins, named) && !named(origin) {
		return false
	}
	return slices.Contains(b.origins, origin)
}

// readURL returns the normalised origin and path of an absolute http(s) URL.
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

// readOrigin returns the normalised origin; "" if scheme or authority is invalid.
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

// escapePath removes query and fragment and normalises escapes: it decodes those
// of letters, digits and -._~, and writes all others with upper-case hex.
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
		c, escaped := unescape(path[i:])
		if !escaped {
			b = append(b, path[i])
			continue
		}
		if s := string(rune(c)); c < 0x80 && url.PathEscape(s) == s && strings.IndexByte("$&+=:@", c) < 0 {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "%%%02X", c)
		}
		i += 2
	}
	return string(b)
}
