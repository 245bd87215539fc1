package policy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/policy"
)

// thumbprint computes RFC 7638 from a sorted map, independently of the product.
func thumbprint(k *authztest.Key) string {
	jwk, required := k.JWK(), map[string]any{}
	for _, m := range []string{"crv", "kty", "x", "y", "n", "e"} {
		if v, ok := jwk[m]; ok {
			required[m] = v
		}
	}
	text, _ := json.Marshal(required)
	sum := sha256.Sum256(text)
	return authztest.Base64URL(sum[:])
}

// publicJWK returns the jwk member of a proof's header.
func publicJWK(k *authztest.Key) map[string]any {
	jwk := k.JWK()
	for _, m := range []string{"use", "alg", "kid"} {
		delete(jwk, m)
	}
	return jwk
}

// proofText returns a signed DPoP proof. header replaces members of its header; a
// nil value removes one.
func proofText(k *authztest.Key, header, claims map[string]any) string {
	h := map[string]any{"typ": "dpop+jwt", "alg": k.Alg, "jwk": publicJWK(k)}
	for n, v := range header {
		h[n] = v
		if v == nil {
			delete(h, n)
		}
	}
	head, _ := json.Marshal(h)
	body, _ := json.Marshal(claims)
	input := authztest.Base64URL(head) + "." + authztest.Base64URL(body)
	alg, _ := h["alg"].(string)
	defer func() { _ = recover() }() // alg cannot sign: the result is ""
	return input + "." + authztest.Base64URL(k.Sign(alg, []byte(input)))
}

func signRaw(k *authztest.Key, head, body string) string {
	input := authztest.Base64URL([]byte(head)) + "." + authztest.Base64URL([]byte(body))
	return input + "." + authztest.Base64URL(k.Sign(k.Alg, []byte(input)))
}

func headText(k *authztest.Key) string {
	b, _ := json.Marshal(map[string]any{"typ": "dpop+jwt", "alg": k.Alg, "jwk": publicJWK(k)})
	return string(b)
}

func claimText(raw string) string {
	b, _ := json.Marshal(proofClaims(raw, nil))
	return string(b)
}

var proofTime = time.Unix(1_800_000_000, 0)

func proofClaims(raw string, change map[string]any) map[string]any {
	sum := sha256.Sum256([]byte(raw))
	c := map[string]any{
		"jti": "id-" + rand.Text(), "htm": "GET", "htu": "https://api.example/orders", "iat": proofTime.Unix(), "ath": authztest.Base64URL(sum[:]),
	}
	for n, v := range change {
		c[n] = v
		if v == nil {
			delete(c, n)
		}
	}
	return c
}

func newBinding(t testing.TB, change ...func(*policy.BindingConfig)) *policy.Binding {
	t.Helper()
	cfg := policy.DefaultBindingConfig()
	for _, f := range change {
		f(&cfg)
	}
	b, err := policy.NewBinding(cfg, policy.NewMemoryReplay(1000, authz.SystemClock{}))
	require.NoError(t, err)
	return b
}

func boundRoute(t testing.TB, b *policy.Binding, need string) *policy.Route {
	t.Helper()
	p, err := policy.Compile([]policy.RouteConfig{{Name: "r", Require: need}}, policy.Options{Binding: b})
	require.NoError(t, err)
	return p.Routes()[0]
}

func boundToken(raw string, cnf any) *authz.Token {
	t := &authz.Token{Raw: raw, Accepted: true, Claims: map[string]any{}}
	if cnf != nil {
		t.Claims["cnf"] = cnf
	}
	return t
}

func proofRequest(proofs ...string) *authz.Request {
	req := &authz.Request{Method: "GET", Scheme: "https", Host: "api.example", Path: "/orders?page=1"}
	for _, p := range proofs {
		req.Headers = append(req.Headers, authz.Header{Name: "dpop", Value: p})
	}
	return req
}

func reason(f *authz.Failure) authz.Reason {
	if f == nil {
		return authz.ReasonAllowed
	}
	return f.Reason
}

func TestDPoPAlgorithms(t *testing.T) {
	t.Parallel()
	all := []string{"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA", "RS512", "PS384"}
	b := newBinding(t, func(c *policy.BindingConfig) { c.DPoP.Algorithms = all })
	route := boundRoute(t, b, "dpop")
	for _, alg := range all {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			k := authztest.NewKey(alg)
			token := boundToken("a.b.c", map[string]any{"jkt": thumbprint(k)})
			cred := authz.Credential{Raw: "a.b.c", Scheme: "dpop"}
			p := proofText(k, nil, proofClaims("a.b.c", nil))
			require.Nil(t, route.Admit(t.Context(), proofRequest(p), cred, token, proofTime))
			again := route.Admit(t.Context(), proofRequest(p), cred, token, proofTime)
			require.Equal(t, authz.ReasonBindingMismatch, reason(again), "a proof used twice")
			require.Equal(t, "invalid_dpop_proof", again.Challenge.Error)
		})
	}
}

// RFC 9449, section 4.1: the example's proof, with its key's thumbprint from section 6.1.
func TestDPoPThumbprintOfRFCExample(t *testing.T) {
	t.Parallel()
	const jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	const proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik" +
		"VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR" +
		"nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE" +
		"QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIj" +
		"oiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0Z" +
		"WRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNF" +
		"c05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71E" +
		"OptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	const raw = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
	route := boundRoute(t, newBinding(t), "dpop")
	req := &authz.Request{Method: "GET", Scheme: "https", Host: "resource.example.org", Path: "/protectedresource", Headers: []authz.Header{{Name: "dpop", Value: proof}}}
	fail := route.Admit(t.Context(), req, authz.Credential{Raw: raw, Scheme: "dpop"}, boundToken(raw, map[string]any{"jkt": jkt}), time.Unix(1562262620, 0))
	require.Nil(t, fail, "%v", fail)
}

func TestDPoPRefusals(t *testing.T) {
	t.Parallel()
	const raw = "a.b.c"
	k, other := authztest.NewKey("ES256"), authztest.NewKey("ES256")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	d, err := private.Bytes()
	require.NoError(t, err)
	good := proofText(k, nil, proofClaims(raw, nil))
	edit := func(m string, v any) map[string]any {
		jwk := publicJWK(k)
		jwk[m] = v
		return map[string]any{"jwk": jwk}
	}
	claim := func(m string, v any) string {
		return proofText(k, nil, proofClaims(raw, map[string]any{m: v}))
	}
	proofs := map[string][]string{
		"no proof":              nil,
		"two proofs":            {proofText(k, nil, proofClaims(raw, nil)), good},
		"empty":                 {""},
		"list":                  {good + "," + good},
		"two segments":          {good[:strings.LastIndexByte(good, '.')]},
		"no signature":          {good[:strings.LastIndexByte(good, '.')+1]},
		"padding":               {good + "="},
		"too long":              {good + strings.Repeat("A", 9000)},
		"tampered":              {good[:len(good)-4] + "AAAA"},
		"typ jwt":               {proofText(k, map[string]any{"typ": "JWT"}, proofClaims(raw, nil))},
		"typ missing":           {proofText(k, map[string]any{"typ": nil}, proofClaims(raw, nil))},
		"alg none":              {authztest.Base64URL([]byte(`{"typ":"dpop+jwt","alg":"none","jwk":{}}`)) + "." + authztest.Base64URL([]byte("{}")) + ".AA"},
		"alg not configured":    {proofText(authztest.NewKey("ES384"), nil, proofClaims(raw, nil))},
		"alg of another key":    {proofText(k, map[string]any{"alg": "RS256"}, proofClaims(raw, nil))},
		"hmac":                  {authztest.Base64URL([]byte(`{"typ":"dpop+jwt","alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}`)) + "." + authztest.Base64URL([]byte("{}")) + ".AA"},
		"crit":                  {proofText(k, map[string]any{"crit": []string{"x"}}, proofClaims(raw, nil))},
		"enc":                   {proofText(k, map[string]any{"enc": "A128GCM"}, proofClaims(raw, nil))},
		"b64 false":             {proofText(k, map[string]any{"b64": false}, proofClaims(raw, nil))},
		"no jwk":                {proofText(k, map[string]any{"jwk": nil}, proofClaims(raw, nil))},
		"jwk a string":          {proofText(k, map[string]any{"jwk": "x"}, proofClaims(raw, nil))},
		"private jwk":           {proofText(k, edit("d", authztest.Base64URL(d)), proofClaims(raw, nil))},
		"symmetric member":      {proofText(k, edit("k", "AAAA"), proofClaims(raw, nil))},
		"point off the curve":   {proofText(k, edit("x", authztest.Base64URL(make([]byte, 32))), proofClaims(raw, nil))},
		"short coordinate":      {proofText(k, edit("x", authztest.Base64URL(make([]byte, 31))), proofClaims(raw, nil))},
		"unknown curve":         {proofText(k, edit("crv", "P-192"), proofClaims(raw, nil))},
		"weak RSA":              {proofText(authztest.KeyFrom("RS256", "", weak), nil, proofClaims(raw, nil))},
		"another's key":         {proofText(other, nil, proofClaims(raw, nil))},
		"another's signature":   {proofText(other, map[string]any{"jwk": publicJWK(k)}, proofClaims(raw, nil))},
		"no jti":                {claim("jti", nil)},
		"jti a number":          {claim("jti", 7)},
		"jti too long":          {claim("jti", strings.Repeat("x", 600))},
		"no htm":                {claim("htm", nil)},
		"other htm":             {claim("htm", "POST")},
		"htm in lower case":     {claim("htm", "get")},
		"no htu":                {claim("htu", nil)},
		"other path":            {claim("htu", "https://api.example/admin")},
		"other host":            {claim("htu", "https://evil.example/orders")},
		"other scheme":          {claim("htu", "http://api.example/orders")},
		"other port":            {claim("htu", "https://api.example:8443/orders")},
		"relative htu":          {claim("htu", "/orders")},
		"user in htu":           {claim("htu", "https://api.example@evil/orders")},
		"no iat":                {claim("iat", nil)},
		"iat a string":          {claim("iat", "1800000000")},
		"old":                   {claim("iat", proofTime.Add(-66*time.Second).Unix())},
		"future":                {claim("iat", proofTime.Add(6*time.Second).Unix())},
		"no ath":                {claim("ath", nil)},
		"ath of another token":  {proofText(k, nil, proofClaims("d.e.f", nil))},
		"duplicate member":      {signRaw(k, strings.Replace(headText(k), "{", `{"typ":"JWT",`, 1), claimText(raw))},
		"duplicate claim":       {signRaw(k, headText(k), strings.Replace(claimText(raw), "{", `{"htm":"POST",`, 1))},
		"claims an array":       {signRaw(k, headText(k), "["+claimText(raw)+"]")},
		"text after the claims": {signRaw(k, headText(k), claimText(raw)+"{}")},
	}
	route := boundRoute(t, newBinding(t), "")
	token := boundToken(raw, map[string]any{"jkt": thumbprint(k)})
	for name, list := range proofs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fail := route.Admit(t.Context(), proofRequest(list...), authz.Credential{Raw: raw, Scheme: "dpop"}, token, proofTime)
			require.Equal(t, authz.ReasonBindingMismatch, reason(fail), "%v", fail)
			require.Equal(t, "dpop", fail.Challenge.Scheme)
			require.Equal(t, "invalid_dpop_proof", fail.Challenge.Error)
			require.NotContains(t, fail.Detail, good)
		})
	}
}

func TestDPoPAcceptsEquivalents(t *testing.T) {
	t.Parallel()
	const raw = "a.b.c"
	k := authztest.NewKey("EdDSA")
	token := boundToken(raw, map[string]any{"jkt": thumbprint(k)})
	route := boundRoute(t, newBinding(t), "any")
	for _, tt := range []struct {
		change map[string]any
		path   string
	}{
		{map[string]any{"htu": "HTTPS://API.example:443/orders"}, "/orders"},
		{map[string]any{"htu": "https://api.example/orders?a=b#c"}, "/orders?x"},
		{map[string]any{"htu": "https://api.example"}, "/"},
		{map[string]any{"htu": "https://api.example/%6frders/%c3%a9"}, "/orders/%C3%A9"},
		{map[string]any{"iat": proofTime.Add(-64 * time.Second).Unix()}, "/orders"},
		{map[string]any{"iat": proofTime.Add(5 * time.Second).Unix()}, "/orders"},
		{map[string]any{"iat": 1_800_000_000.5}, "/orders"},
	} {
		req := proofRequest(proofText(k, nil, proofClaims(raw, tt.change)))
		req.Path = tt.path
		fail := route.Admit(t.Context(), req, authz.Credential{Raw: raw, Scheme: "dpop"}, token, proofTime)
		require.Nil(t, fail, "%v: %v", tt.change, fail)
	}
}

// Parameters of the header that have no meaning here are ignored, and so are
// members of its jwk that are null or empty (RFC 7515, section 4).
func TestDPoPIgnoresWhatSaysNothing(t *testing.T) {
	t.Parallel()
	const raw = "a.b.c"
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		k := authztest.NewKey(alg)
		jwk := publicJWK(k)
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "use", "key_ops", "alg", "kid"} {
			jwk[name] = nil
		}
		jwk["oth"], jwk["x5c"], jwk["x5t"] = []any{}, []any{}, ""
		proof := proofText(k, map[string]any{"jwk": jwk, "zip": "NONE", "jku": "https://evil", "x5u": "https://evil", "x5c": []string{"MIIB"}, "kid": ""}, proofClaims(raw, nil))
		route := boundRoute(t, newBinding(t, func(c *policy.BindingConfig) { c.DPoP.Algorithms = []string{alg} }), "any")
		fail := route.Admit(t.Context(), proofRequest(proof), authz.Credential{Raw: raw, Scheme: "dpop"}, boundToken(raw, map[string]any{"jkt": thumbprint(k)}), proofTime)
		require.Nil(t, fail, "%s: %v", alg, fail)
	}
}

func TestDPoPExternalURLs(t *testing.T) {
	t.Parallel()
	const raw = "a.b.c"
	k := authztest.NewKey("ES256")
	token := boundToken(raw, map[string]any{"jkt": thumbprint(k)})
	route := boundRoute(t, newBinding(t, func(c *policy.BindingConfig) {
		c.DPoP.ExternalURLs = []string{"https://api.example", "https://www.example:8443"}
	}), "")
	for _, tt := range []struct {
		host, htu string
		want      authz.Reason
	}{
		{"internal:8080", "https://api.example/orders", authz.ReasonAllowed},
		{"internal:8080", "https://www.example:8443/orders", authz.ReasonAllowed},
		{"internal:8080", "https://internal:8080/orders", authz.ReasonBindingMismatch},
		{"api.example", "https://api.example/orders", authz.ReasonAllowed},
		{"api.example", "https://www.example:8443/orders", authz.ReasonBindingMismatch},
	} {
		req := proofRequest(proofText(k, nil, proofClaims(raw, map[string]any{"htu": tt.htu})))
		req.Host, req.Scheme = tt.host, "http"
		fail := route.Admit(t.Context(), req, authz.Credential{Raw: raw, Scheme: "dpop"}, token, proofTime)
		require.Equal(t, tt.want, reason(fail), "%+v: %v", tt, fail)
	}
}

func TestBindingRules(t *testing.T) {
	t.Parallel()
	const raw = "a.b.c"
	k := authztest.NewKey("ES256")
	jkt := map[string]any{"jkt": thumbprint(k)}
	x5t := map[string]any{"x5t#S256": strings.Repeat("A", 43)}
	for name, tt := range map[string]struct {
		require, scheme string
		cnf             any
		want            authz.Reason
		challenge       bool
	}{
		"plain":                            {"", "bearer", nil, authz.ReasonAllowed, false},
		"bound by DPoP as bearer":          {"", "bearer", jkt, authz.ReasonBindingMismatch, true},
		"bound by DPoP with DPoP":          {"", "dpop", jkt, authz.ReasonAllowed, false},
		"unbound with DPoP":                {"", "dpop", nil, authz.ReasonBindingMismatch, false},
		"bound to certificate with DPoP":   {"", "dpop", x5t, authz.ReasonBindingMismatch, false},
		"bound to certificate, none there": {"", "bearer", x5t, authz.ReasonBindingMismatch, false},
		"cnf unknown":                      {"", "bearer", map[string]any{"kid": "x"}, authz.ReasonBindingMismatch, false},
		"cnf empty":                        {"", "bearer", map[string]any{}, authz.ReasonBindingMismatch, false},
		"cnf null":                         {"", "bearer", json.RawMessage(nil), authz.ReasonBindingMismatch, false},
		"cnf a string":                     {"", "bearer", "x", authz.ReasonBindingMismatch, false},
		"jkt short":                        {"", "dpop", map[string]any{"jkt": "x"}, authz.ReasonBindingMismatch, false},
		"jkt a number":                     {"", "dpop", map[string]any{"jkt": 7}, authz.ReasonBindingMismatch, false},
		"require any, unbound":             {"any", "bearer", nil, authz.ReasonBindingMismatch, false},
		"require any, DPoP":                {"any", "dpop", jkt, authz.ReasonAllowed, false},
		"require dpop, unbound":            {"dpop", "bearer", nil, authz.ReasonBindingMismatch, true},
		"require dpop, certificate":        {"dpop", "bearer", x5t, authz.ReasonBindingMismatch, true},
		"require mtls, DPoP":               {"mtls", "dpop", jkt, authz.ReasonBindingMismatch, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			route := boundRoute(t, newBinding(t), tt.require)
			req := proofRequest(proofText(k, nil, proofClaims(raw, nil)))
			fail := route.Admit(t.Context(), req, authz.Credential{Raw: raw, Scheme: tt.scheme}, boundToken(raw, tt.cnf), proofTime)
			require.Equal(t, tt.want, reason(fail), "%v", fail)
			require.Equal(t, tt.challenge, fail != nil && fail.Challenge != nil)
		})
	}
}

type brokenReplay struct{}

func (brokenReplay) Seen(context.Context, string, time.Duration) (bool, error) {
	return false, errors.New("store unavailable")
}

func TestReplayStoreUnavailable(t *testing.T) {
	t.Parallel()
	b, err := policy.NewBinding(policy.DefaultBindingConfig(), brokenReplay{})
	require.NoError(t, err)
	k := authztest.NewKey("ES256")
	route := boundRoute(t, b, "")
	fail := route.Admit(t.Context(), proofRequest(proofText(k, nil, proofClaims("a.b.c", nil))),
		authz.Credential{Raw: "a.b.c", Scheme: "dpop"}, boundToken("a.b.c", map[string]any{"jkt": thumbprint(k)}), proofTime)
	require.Equal(t, authz.ReasonRevocationUnknown, reason(fail))
}

func TestRouteRequiringDPoPChallenges(t *testing.T) {
	t.Parallel()
	_, fail := boundRoute(t, newBinding(t), "dpop").Find(&authz.Request{})
	require.Equal(t, authz.ReasonNoCredential, reason(fail))
	require.Equal(t, "dpop", fail.Challenge.Scheme)
	require.Empty(t, fail.Challenge.Error)
	_, fail = boundRoute(t, newBinding(t), "any").Find(&authz.Request{})
	require.Nil(t, fail.Challenge)
}

// stepClock shows the time that a test sets.
type stepClock struct{ boot time.Duration }

func (c *stepClock) Now() time.Time      { return proofTime.Add(c.boot) }
func (c *stepClock) Boot() time.Duration { return c.boot }

func TestMemoryReplay(t *testing.T) {
	t.Parallel()
	clock := &stepClock{}
	m := policy.NewMemoryReplay(3, clock)
	seen := func(key string, ttl time.Duration) string {
		s, err := m.Seen(t.Context(), key, ttl)
		if err != nil {
			return "full"
		}
		return fmt.Sprint(s)
	}
	require.Equal(t, "false", seen("a", 10*time.Second))
	require.Equal(t, "true", seen("a", 10*time.Second))
	require.Equal(t, "false", seen("b", 2*time.Second))
	require.Equal(t, "false", seen("c", 20*time.Second))
	require.Equal(t, "full", seen("d", time.Second))
	clock.boot = 2 * time.Second
	require.Equal(t, "false", seen("d", time.Second))
	require.Equal(t, "true", seen("a", time.Second))
	clock.boot = time.Minute
	require.Equal(t, "false", seen("a", time.Second))
}

func TestInvalidBinding(t *testing.T) {
	t.Parallel()
	cfg := policy.BindingConfig{DPoP: policy.DPoPConfig{Algorithms: []string{"HS256", "none"}, MaxAge: time.Hour, Leeway: -1, ReplayEntries: 1, ExternalURLs: []string{"api.example", "https://a/b", "ftp://a"}}}
	var got []string
	cfg.Validate(func(path, _ string, _ ...any) { got = append(got, path) })
	require.Equal(t, []string{"dpop.algorithms[0]", "dpop.algorithms[1]", "dpop.max_age", "dpop.leeway", "dpop.replay_entries",
		"dpop.external_urls[0]", "dpop.external_urls[1]", "dpop.external_urls[2]"}, got)
	policy.DefaultBindingConfig().Validate(func(path, format string, args ...any) { t.Errorf(path+": "+format, args...) })
	_, err := policy.NewBinding(cfg, brokenReplay{})
	require.Error(t, err)
	_, err = policy.NewBinding(policy.DefaultBindingConfig(), nil)
	require.Error(t, err)
}

// No change of a valid proof may pass.
func FuzzProof(f *testing.F) {
	k := authztest.NewKey("EdDSA")
	good := proofText(k, nil, proofClaims("a.b.c", nil))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add("a.b.c")
	f.Add(proofText(authztest.NewKey("ES256"), nil, proofClaims("a.b.c", nil)))
	b, err := policy.NewBinding(policy.DefaultBindingConfig(), policy.NewMemoryReplay(1<<20, authz.SystemClock{}))
	require.NoError(f, err)
	p, err := policy.Compile(nil, policy.Options{Binding: b})
	require.NoError(f, err)
	token := boundToken("a.b.c", map[string]any{"jkt": thumbprint(k)})
	f.Fuzz(func(t *testing.T, text string) {
		fail := p.Routes()[0].Admit(context.Background(), proofRequest(text), authz.Credential{Raw: "a.b.c", Scheme: "dpop"}, token, proofTime)
		if fail == nil {
			require.Equal(t, good, text, "accepted")
		}
	})
}

// Sidecars share the replay store. Once it has dropped a record, the proof has
// expired even by the clock of the sidecar that is furthest behind.
func TestProofReplayedToALaggingSidecar(t *testing.T) {
	t.Parallel()
	clock := &stepClock{}
	b, err := policy.NewBinding(policy.DefaultBindingConfig(), policy.NewMemoryReplay(1000, clock))
	require.NoError(t, err)
	k := authztest.NewKey("ES256")
	route, token := boundRoute(t, b, "dpop"), boundToken("the-token", map[string]any{"jkt": thumbprint(k)})
	req := proofRequest(proofText(k, nil, proofClaims("the-token", nil)))
	cred := authz.Credential{Raw: "the-token", Scheme: "dpop", Source: "authorization"}
	require.Nil(t, route.Admit(t.Context(), req, cred, token, clock.Now()))
	for after := time.Duration(0); after < 3*time.Minute; after += time.Second {
		clock.boot = after
		for _, behind := range []time.Duration{0, 3 * time.Second, time.Minute} {
			require.NotNil(t, route.Admit(t.Context(), req, cred, token, clock.Now().Add(-behind)), "replayed after %s to a clock that is %s behind", after, behind)
		}
	}
}
