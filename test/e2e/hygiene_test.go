package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/envoy"
	"jwtbouncer/test/harness"
)

// byPath decides by the path, so that these tests cover only Envoy and the envoy
// package.
type byPath struct{}

var _ envoy.Authorizer = byPath{}

func (byPath) Authorize(_ context.Context, req *authz.Request) authz.Decision {
	token := &authz.Token{Claims: map[string]any{"sub": "alice", "bad": "a\r\nx-admin: true"}}
	allow := authz.Decision{Reason: authz.ReasonAllowed, Token: token, Credential: authz.Credential{Source: "authorization"}}
	path, _, _ := strings.Cut(req.Path, "?")
	switch path {
	case "/token":
	case "/bad":
		token.Claims["sub"] = token.Claims["bad"]
	case "/revocation_unknown":
		allow = authz.Decision{Reason: authz.ReasonRevocationUnknown}
	case "/none":
		allow = authz.Decision{Reason: authz.ReasonNoCredential}
	case "/panic":
		panic("defect")
	default:
		allow = authz.Decision{}
	}
	return allow
}

func serveByPath(t *testing.T, address string) string {
	t.Helper()
	cfg := envoy.DefaultConfig()
	cfg.Listen.GRPC = address
	cfg.Headers.Claims = map[string]string{"x-jwt-sub": "sub"}
	s, err := envoy.NewServer(byPath{}, cfg, envoy.Options{})
	require.NoError(t, err)
	l, err := envoy.Listen(cfg.Listen)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		assert.NoError(t, s.Drain(context.Background()))
		assert.NoError(t, <-served)
	})
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		// Envoy may run as another user than these tests.
		require.NoError(t, os.Chmod(path, 0o666))
		return address
	}
	return l.Addr().String()
}

const hygieneConfig = `
routes:
  - {name: public, public: true, match: {paths: [{prefix: /public}]}}
  - {name: cookie, match: {paths: [{prefix: /cookie}]}, credentials: {cookies: [session]}}
  - {name: query, match: {paths: [{prefix: /query}]}, credentials: {queries: [access_token]}}
  - {name: removed, match: {paths: [{prefix: /header-removed}]}, credentials: {headers: [X-Goog-IAP-JWT-Assertion], remove_headers: on}}
  - {name: header, match: {paths: [{prefix: /header}]}, credentials: {headers: [X-Goog-IAP-JWT-Assertion]}}
  - {name: rest}
headers: {claims: {x-jwt-sub: sub, x-jwt-groups: groups, x-jwt-none: none}, forward_authorization: %t}
`

// An identity header that a client sends never reaches the upstream: on any
// allowed path, in any spelling, and in either way in which Envoy passes headers.
func TestSpoofedIdentityHeaders(t *testing.T) {
	t.Parallel()
	throughDoors(t, testSpoofedIdentityHeaders)
}

func testSpoofedIdentityHeaders(t *testing.T, module bool) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: fmt.Sprintf(hygieneConfig, false)})
	passes := map[string]string{"joined headers": "", "raw headers": "encode_raw_headers: true, validate_mutations: true"}
	if module {
		passes = map[string]string{"in process": ""}
	}
	alice, zoë := r.Token(map[string]any{"sub": "alice"}), r.Token(map[string]any{"sub": "zoë", "groups": []any{"a", "b"}})
	for name, extra := range passes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			front := r.Door(t, module, r.Upstream.Addr, harness.FrontOptions{Extra: extra})
			front.AwaitStatus(t, alice, 200, 20*time.Second)
			spoof := []string{
				"X-Jwt-Sub", "root", "X-Jwt-Sub", "admin", "x-jwt-groups", "root", "X-JWT-NONE", "root",
				"x_jwt_sub", "root", "x-jwt_sub", "root", "x_jwt_none", "root", "X-Other", "kept",
			}
			for _, c := range []struct {
				path   string
				header []string
				want   http.Header
			}{
				{"/token", []string{"Authorization", "Bearer " + alice}, http.Header{"X-Jwt-Sub": {"alice"}}},
				{"/other", []string{"Authorization", "Bearer " + zoë}, http.Header{"X-Jwt-Sub": {"zoë"}, "X-Jwt-Groups": {`["a","b"]`}}},
				{"/public", []string{"Authorization", "Bearer x"}, http.Header{}},
				{"/cookie", []string{"Cookie", "session=" + alice}, http.Header{"X-Jwt-Sub": {"alice"}}},
				{"/query?access_token=" + alice, nil, http.Header{"X-Jwt-Sub": {"alice"}}},
			} {
				for range 2 { // the second answer may be the one encoded with the token
					r, err := front.Do(t.Context(), "GET", c.path, append(c.header, spoof...)...)
					require.NoError(t, err)
					require.NotNilf(t, r.Upstream, "%s: %d %s", c.path, r.Status, r.Body)
					for name, values := range r.Upstream.Header {
						if like := strings.ReplaceAll(strings.ToLower(name), "_", "-"); !strings.HasPrefix(like, "x-jwt-") {
							continue
						}
						assert.Truef(t, slices.Equal(values, c.want[name]), "%s: the upstream received %s: %q, want %q", c.path, name, values, c.want[name])
					}
					for name := range c.want {
						assert.NotEmptyf(t, r.Upstream.Header[name], "%s: the upstream did not receive %s", c.path, name)
					}
					assert.Equalf(t, "kept", r.Upstream.Header.Get("X-Other"), "%s: the client's header X-Other did not reach the upstream", c.path)
					assert.Emptyf(t, r.Upstream.Header.Get("Authorization"), "%s: Authorization reached the upstream", c.path)
				}
			}
		})
	}
}

func TestCredentialsAreRemoved(t *testing.T) {
	t.Parallel()
	throughDoors(t, testCredentialsAreRemoved)
}

func testCredentialsAreRemoved(t *testing.T, module bool) {
	t.Helper()
	rig := harness.NewRig(t, harness.RigOptions{Module: module, Config: fmt.Sprintf(hygieneConfig, true)})
	token := rig.Token(nil)
	get := func(path string, header ...string) *harness.Seen {
		t.Helper()
		r, err := rig.Front.Do(t.Context(), "GET", path, header...)
		require.NoError(t, err)
		require.NotNilf(t, r.Upstream, "%s: %d %s", path, r.Status, r.Body)
		return r.Upstream
	}
	assert.Equal(t, []string{"a=1; b=2"}, get("/cookie", "Cookie", "a=1; session="+token+"; b=2").Header["Cookie"])
	assert.Nil(t, get("/cookie", "Cookie", "session="+token).Header["Cookie"])
	path := get("/query?a=1&access_token=" + token + "&b=2").Path
	assert.NotContains(t, path, token)
	assert.Contains(t, path, "a=1")
	assert.Contains(t, path, "b=2")
	path = get("/query?a=1&b=2&access%5Ftoken=" + token).Path
	assert.NotContains(t, path, token, "however the parameter is spelled")
	assert.Equal(t, "Bearer "+token, get("/token", "Authorization", "Bearer "+token).Header.Get("Authorization"))
	for path, want := range map[string]string{"/header": token, "/header-removed": ""} {
		assert.Equal(t, want, get(path, "X-Goog-IAP-JWT-Assertion", token).Header.Get("X-Goog-IAP-JWT-Assertion"), path)
	}
}

// A token in a header of its own, as Identity-Aware Proxy and Cloudflare Access send
// it, through Envoy and the sidecar.
func TestTokenInHeader(t *testing.T) {
	t.Parallel()
	throughDoors(t, testTokenInHeader)
}

func testTokenInHeader(t *testing.T, module bool) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{Module: module, Config: "routes: [{name: iap, credentials: {headers: [Cf-Access-Jwt-Assertion], remove_headers: on}}]\n"})
	token := r.Token(nil)
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"token":                {[]string{"Cf-Access-Jwt-Assertion", token}, 200},
		"in Authorization":     {[]string{"Authorization", "Bearer " + token}, 200},
		"none":                 {nil, 401},
		"another header":       {[]string{"X-Jwt", token}, 401},
		"two values":           {[]string{"Cf-Access-Jwt-Assertion", token, "Cf-Access-Jwt-Assertion", token}, 400},
		"with Authorization":   {[]string{"Cf-Access-Jwt-Assertion", token, "Authorization", "Bearer " + token}, 400},
		"forged":               {[]string{"Cf-Access-Jwt-Assertion", token + "x"}, 401},
		"Basic is not a token": {[]string{"Cf-Access-Jwt-Assertion", token, "Authorization", "Basic dTpw"}, 200},
	} {
		got, err := r.Front.Do(t.Context(), "GET", "/x", c.headers...)
		require.NoError(t, err, name)
		assert.Equal(t, c.status, got.Status, name)
		if c.status == 200 {
			require.NotNil(t, got.Upstream, name)
			assert.Empty(t, got.Upstream.Header.Get("Cf-Access-Jwt-Assertion"), name)
		}
	}
}

// With the recommended configuration and failure_mode_allow, denials stay
// denials and state a reason, over TCP and over a Unix socket.
func TestDenialsThroughSampleConfig(t *testing.T) {
	t.Parallel()
	upstream := harness.Upstream(t)
	for _, service := range []string{
		serveByPath(t, "127.0.0.1:0"),
		serveByPath(t, "unix://"+filepath.Join(harness.Dir(t), "authz.sock")),
	} {
		text, err := envoy.SampleConfig(envoy.Sample{Listen: "127.0.0.1:0", Service: service, Upstream: upstream.Addr, FailureModeAllow: true, Extensions: map[string]string{"route": "api"}})
		require.NoError(t, err)
		front := harness.FrontOf(t, harness.Envoy(t, text), "ingress")
		for path, want := range map[string]struct {
			status    int
			challenge string
		}{
			"/none":               {401, `Bearer realm="jwt-bouncer"`},
			"/bad":                {401, `Bearer realm="jwt-bouncer", error="invalid_token", error_description="The access token holds a claim that cannot be used."`},
			"/revocation_unknown": {503, ""},
			"/panic":              {503, ""},
			"/zero":               {403, ""},
		} {
			r, err := front.Do(t.Context(), "GET", path)
			require.NoError(t, err)
			if assert.Equalf(t, want.status, r.Status, "%s: %q", path, r.Header) {
				if assert.Nilf(t, r.Upstream, "%s: %d %q", path, r.Status, r.Header) {
					assert.Equalf(t, want.challenge, r.Header.Get("Www-Authenticate"), "%s: %d %q", path, r.Status, r.Header)
				}
			}
			got := r.Header.Get("Content-Type")
			assert.Equalf(t, "application/problem+json", got, "%s: content type %q", path, got)
			assert.Equalf(t, want.status == 503, r.Header.Get("Retry-After") != "", "%s: Retry-After %q", path, r.Header.Get("Retry-After"))
			r, err = front.Do(t.Context(), "POST", path, "Content-Type", "application/grpc")
			require.NoError(t, err)
			code := map[int]string{401: "16", 403: "7", 503: "14"}[want.status]
			assert.Falsef(t, r.Status != 200 || r.Header.Get("Grpc-Status") != code || r.Header.Get("Grpc-Message") == "" || strings.Contains(r.Header.Get("Grpc-Message"), "{"), "%s for gRPC: %d %q", path, r.Status, r.Header)
		}
		r, err := front.Do(t.Context(), "GET", "/token")
		if assert.NoErrorf(t, err, "%v %v", r, err) {
			assert.NotNilf(t, r.Upstream, "%v %v", r, err)
		}
		r, err = front.Do(t.Context(), "GET", "/token", "x_jwt_sub", "root")
		if assert.NoErrorf(t, err, "%v %v", r, err) {
			assert.Equalf(t, 400, r.Status, "%v %v", r, err)
		}
		for name, n := range front.Stats(t, "ext_authz") {
			assert.Falsef(t, strings.HasSuffix(name, "ext_authz.error") && n != 0, "%s: %d errors", name, n)
		}
	}
}

func TestTwoAuthorizationHeadersThroughEnvoy(t *testing.T) {
	t.Parallel()
	throughDoors(t, testTwoAuthorizationHeadersThroughEnvoy)
}

// Of two credentials neither is taken, even if each would be allowed.
func testTwoAuthorizationHeadersThroughEnvoy(t *testing.T, module bool) {
	t.Helper()
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true})
	passes := map[string]string{"joined headers": "", "raw headers": "encode_raw_headers: true"}
	if module {
		passes = map[string]string{"in process": ""}
	}
	one, other := "Bearer "+rig.Token(nil), "Bearer "+rig.Token(nil)
	for name, extra := range passes {
		front := rig.Door(t, module, rig.Upstream.Addr, harness.FrontOptions{Extra: extra, FailureModeAllow: true, Timeout: 5 * time.Second})
		front.AwaitStatus(t, strings.TrimPrefix(one, "Bearer "), 200, 20*time.Second)
		for _, values := range [][]string{
			{one, other}, {one, one}, {one + "," + other}, {"Basic eA==, " + other}, {"Basic eA==", other},
		} {
			var header []string
			for _, v := range values {
				header = append(header, "Authorization", v)
			}
			r := front.Get(t, header...)
			assert.Equalf(t, 400, r.Status, "%s: %q: %q", name, values, r.Header)
			assert.Nilf(t, r.Upstream, "%s: %q: %d %q", name, values, r.Status, r.Header)
			assert.Containsf(t, r.Header.Get("Www-Authenticate"), `error="invalid_request"`, "%s: %q: %d %q", name, values, r.Status, r.Header)
		}
	}
}
