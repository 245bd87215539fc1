package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
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
	case "/other":
		token.Claims = map[string]any{"groups": []any{"a", "b"}, "sub": "zoë"}
	case "/public":
		allow.Reason, allow.Token = authz.ReasonAllowedAnonymous, nil
	case "/cookie":
		allow.Credential.Source = "cookie:session"
	case "/query":
		allow.Credential.Source = "query:access_token"
	case "/header":
		allow.Credential.Source = "header:x-goog-iap-jwt-assertion"
	case "/header-removed":
		allow.Credential.Source, allow.Credential.Remove = "header:x-goog-iap-jwt-assertion", true
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

func serveByPath(t *testing.T, address string, forward bool) string {
	t.Helper()
	return serve(t, byPath{}, address, forward)
}

func serve(t *testing.T, a envoy.Authorizer, address string, forward bool) string {
	t.Helper()
	cfg := envoy.DefaultConfig()
	cfg.Listen.GRPC = address
	cfg.Headers.Claims = map[string]string{"x-jwt-sub": "sub", "x-jwt-groups": "groups", "x-jwt-none": "none"}
	cfg.Headers.ForwardAuthorization = forward
	s, err := envoy.NewServer(a, cfg, envoy.Options{})
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

// An identity header that a client sends never reaches the upstream: on any
// allowed path, in any spelling, and in either way in which Envoy passes headers.
func TestSpoofedIdentityHeaders(t *testing.T) {
	t.Parallel()
	upstream := harness.Upstream(t)
	for name, extra := range map[string]string{"joined headers": "", "raw headers": "encode_raw_headers: true, validate_mutations: true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			front := harness.NewFront(t, serveByPath(t, "127.0.0.1:0", false), upstream.Addr, harness.FrontOptions{Extra: extra})
			spoof := []string{
				"Authorization", "Bearer x",
				"X-Jwt-Sub", "root", "X-Jwt-Sub", "admin", "x-jwt-groups", "root", "X-JWT-NONE", "root",
				"x_jwt_sub", "root", "x-jwt_sub", "root", "x_jwt_none", "root", "X-Other", "kept",
			}
			for path, want := range map[string]http.Header{
				"/token":  {"X-Jwt-Sub": {"alice"}},
				"/other":  {"X-Jwt-Sub": {"zoë"}, "X-Jwt-Groups": {`["a","b"]`}},
				"/public": {},
				"/cookie": {"X-Jwt-Sub": {"alice"}},
				"/query":  {"X-Jwt-Sub": {"alice"}},
			} {
				for range 2 { // the second answer may be the one encoded with the token
					r, err := front.Do(t.Context(), "GET", path, spoof...)
					require.NoError(t, err)
					require.NotNilf(t, r.Upstream, "%s: %d %s", path, r.Status, r.Body)
					for name, values := range r.Upstream.Header {
						if like := strings.ReplaceAll(strings.ToLower(name), "_", "-"); !strings.HasPrefix(like, "x-jwt-") {
							continue
						}
						assert.Truef(t, slices.Equal(values, want[name]), "%s: the upstream received %s: %q, want %q", path, name, values, want[name])
					}
					for name := range want {
						assert.NotEmptyf(t, r.Upstream.Header[name], "%s: the upstream did not receive %s", path, name)
					}
					assert.Equalf(t, "kept", r.Upstream.Header.Get("X-Other"), "%s: the client's header X-Other did not reach the upstream", path)
					assert.Emptyf(t, r.Upstream.Header.Get("Authorization"), "%s: Authorization reached the upstream", path)
				}
			}
		})
	}
}

func TestCredentialsAreRemoved(t *testing.T) {
	t.Parallel()
	front := harness.NewFront(t, serveByPath(t, "127.0.0.1:0", true), harness.Upstream(t).Addr)
	r, err := front.Do(t.Context(), "GET", "/cookie", "Cookie", "a=1; session=secret; b=2")
	require.NoErrorf(t, err, "%v %v", r, err)
	require.NotNilf(t, r.Upstream, "%v %v", r, err)
	assert.Equal(t, []string{"a=1; b=2"}, r.Upstream.Header["Cookie"], "cookies")
	r, err = front.Do(t.Context(), "GET", "/cookie", "Cookie", "session=secret")
	require.NoErrorf(t, err, "%v %v", r, err)
	require.NotNilf(t, r.Upstream, "%v %v", r, err)
	assert.Nil(t, r.Upstream.Header["Cookie"], "cookies")
	r, err = front.Do(t.Context(), "GET", "/query?a=1&access_token=secret&b=2&access%5Ftoken=secret")
	require.NoErrorf(t, err, "%v %v", r, err)
	require.NotNilf(t, r.Upstream, "%v %v", r, err)
	assert.NotContains(t, r.Upstream.Path, "secret", "path")
	assert.Contains(t, r.Upstream.Path, "a=1", "path")
	assert.Contains(t, r.Upstream.Path, "b=2", "path")
	r, err = front.Do(t.Context(), "GET", "/token", "Authorization", "Bearer x")
	require.NoErrorf(t, err, "%v %v", r, err)
	require.NotNilf(t, r.Upstream, "%v %v", r, err)
	assert.Equal(t, "Bearer x", r.Upstream.Header.Get("Authorization"), "Authorization")
	for path, want := range map[string]string{"/header": "a.b.c", "/header-removed": ""} {
		r, err = front.Do(t.Context(), "GET", path, "X-Goog-IAP-JWT-Assertion", "a.b.c")
		require.NoErrorf(t, err, "%v %v", r, err)
		require.NotNilf(t, r.Upstream, "%v %v", r, err)
		assert.Equal(t, want, r.Upstream.Header.Get("X-Goog-IAP-JWT-Assertion"), path)
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
		serveByPath(t, "127.0.0.1:0", true),
		serveByPath(t, "unix://"+filepath.Join(harness.Dir(t), "authz.sock"), true),
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

// noVerifier fails the test when it is called: a request with two credentials is
// denied before either is verified.
type noVerifier struct{ t *testing.T }

var _ authz.Verifier = noVerifier{}

func (v noVerifier) Verify(context.Context, string) (*authz.Token, error) {
	v.t.Error("a token was verified")
	return nil, &authz.Failure{Reason: authz.ReasonInternal}
}

func (noVerifier) Current(*authz.Token, int64) bool { return false }

func TestTwoAuthorizationHeadersThroughEnvoy(t *testing.T) {
	t.Parallel()
	policy, err := policy.Compile(nil, policy.Options{})
	require.NoError(t, err)
	service := serve(t, authz.NewAuthorizer(noVerifier{t}, nil, authz.NewChain(nil), policy, authz.SystemClock{}), "127.0.0.1:0", true)
	upstream := harness.Upstream(t)
	for name, extra := range map[string]string{"joined headers": "", "raw headers": "encode_raw_headers: true"} {
		front := harness.NewFront(t, service, upstream.Addr, harness.FrontOptions{Extra: extra, FailureModeAllow: true})
		for _, values := range [][]string{
			{"Bearer a.b.c", "Bearer d.e.f"}, {"Bearer a.b.c", "Bearer a.b.c"}, {"Bearer a.b.c,Bearer d.e.f"}, {"Basic eA==, Bearer d.e.f"},
		} {
			var header []string
			for _, v := range values {
				header = append(header, "Authorization", v)
			}
			r := front.Get(t, header...)
			if assert.Equalf(t, 400, r.Status, "%s: %q: %q", name, values, r.Header) {
				if assert.Nilf(t, r.Upstream, "%s: %q: %d %q", name, values, r.Status, r.Header) {
					assert.Containsf(t, r.Header.Get("Www-Authenticate"), `error="invalid_request"`, "%s: %q: %d %q", name, values, r.Status, r.Header)
				}
			}
		}
	}
}
