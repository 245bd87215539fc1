package policytest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/explain"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/policytest"
)

// policyFile is a configuration as far as routes are concerned.
type policyFile struct {
	Routes []policy.RouteConfig `yaml:"routes"`
}

func parsePolicy(t testing.TB, text string) []policy.RouteConfig {
	t.Helper()
	var f policyFile
	require.NoError(t, config.Parse("routes.yaml", []byte(text), &f).Err())
	return f.Routes
}

func parseTests(t testing.TB, text string) policytest.Tests {
	t.Helper()
	var tests policytest.Tests
	f := config.Parse("tests.yaml", []byte(text), &tests)
	tests.Validate(f.At(""))
	require.NoError(t, f.Err())
	return tests
}

func testIssuers() []issuer.Config {
	return []issuer.Config{
		{Issuer: "https://issuer.example", Audiences: []string{"api"}},
		{Issuer: "https://partner.example", Audiences: []string{"partner-api"}},
	}
}

func examplePolicy(t testing.TB, text string) *policy.Policy {
	t.Helper()
	binding, err := policy.NewBinding(policy.DefaultBindingConfig(), policy.Unrecorded{})
	require.NoError(t, err)
	p, err := policy.Compile(parsePolicy(t, text), policy.Options{
		Issuers: []string{"https://issuer.example", "https://partner.example"}, Binding: binding,
		Introspectors: introspect.ValidateAll([]introspect.Config{{Name: "login"}}, 0, func(string, string, ...any) {}),
	})
	require.NoError(t, err)
	return p
}

func report(r policytest.Report) string {
	var b strings.Builder
	for _, x := range r.Results {
		if len(x.Wrong) > 0 {
			fmt.Fprintf(&b, "%s: %s (%s)\n", x.Name, strings.Join(x.Wrong, "; "), x.Detail)
		}
	}
	return b.String()
}

// The routes and tests in the documentation.
func TestDocumentedPolicy(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	require.NoError(t, err)
	routes, tests := yamlBlock(string(text), "routes:"), yamlBlock(string(text), "tests:")
	p := examplePolicy(t, strings.Join(routes, "\n"))
	require.NotEmpty(t, tests)
	r := policytest.Run(t.Context(), p, parseTests(t, tests[0]), policytest.Options{Issuers: testIssuers()})
	require.Zero(t, r.Failed, report(r))
	require.Empty(t, r.Untried, "routes that no documented test reaches")
	require.Greater(t, len(r.Results), 20)
}

// yamlBlock returns the fenced YAML blocks that begin with first.
func yamlBlock(text, first string) []string {
	var blocks []string
	for i, part := range strings.Split(text, "```") {
		if body, ok := strings.CutPrefix(part, "yaml\n"); ok && i%2 == 1 && strings.HasPrefix(body, first) {
			blocks = append(blocks, body)
		}
	}
	return blocks
}

func TestRun(t *testing.T) {
	t.Parallel()
	p := examplePolicy(t, `
routes:
  - {name: open, public: true, match: {paths: [{prefix: /public}]}}
  - {name: never, match: {paths: [{prefix: /never}]}}
  - {name: rest}
`)
	tests := parseTests(t, `
tests:
  - {name: right, request: {url: /public/x}, expect: {decision: allow, reason: allowed_anonymous, route: open}}
  - {name: wrong decision, request: {url: /x}, expect: {decision: allow}}
  - {request: {url: /x}, claims: {}, expect: {decision: allow, reason: revoked, route: open}}
`)
	r := policytest.Run(t.Context(), p, tests, policytest.Options{Issuers: testIssuers()})
	require.Equal(t, 2, r.Failed)
	require.Empty(t, r.Results[0].Wrong)
	require.Equal(t, []string{"decision is deny, expected allow"}, r.Results[1].Wrong)
	require.Equal(t, "test 3", r.Results[2].Name)
	require.Equal(t, []string{"reason is allowed, expected revoked", "route is rest, expected open"}, r.Results[2].Wrong)
	require.Equal(t, []string{"never"}, r.Untried)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"tests: []": "at least one test",
		"tests: [{request: {url: /}, expect: {decision: maybe}}]":                                  "allow or deny",
		"tests: [{request: {url: /}, expect: {}}]":                                                 "allow or deny",
		"tests: [{request: {url: /}, expect: {decision: allow, reason: okay}}]":                    "must be one of",
		"tests: [{request: {url: /, header: {}}, expect: {decision: allow}}]":                      "unknown key",
		"tests: [{request: {url: /, headers: {X-A: b}}, expect: {decision: allow}}]":               "lower case",
		"tests: [{request: {url: /}, revocation: yes, expect: {decision: allow}}]":                 "required by opaque",
		"tests: [{request: {url: /}, claims: {}, revocation: perhaps, expect: {decision: allow}}]": "no, yes or unknown",
		"tests: [{request: {url: /}, claims: {}, proof: [word], expect: {decision: allow}}]":       "dpop or mtls",
		"tests: [{request: {url: /}, claims: [a], expect: {decision: allow}}]":                     "claims: must be a mapping",
	} {
		var tests policytest.Tests
		f := config.Parse("tests.yaml", []byte(text), &tests)
		tests.Validate(f.At(""))
		require.ErrorContains(t, f.Err(), want, text)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	p, err := policy.Compile([]policy.RouteConfig{
		{Name: "open", Public: true, Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/public"}}}},
		{Name: "admin", Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/admin"}}}, Scopes: []string{"admin"}, Allow: []string{"token.sub == 'root'"}},
		{Name: "api", Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/api"}}}},
	}, policy.Options{})
	require.NoError(t, err)
	outcome := func(e explain.Explainer, path, raw string) string {
		req := &authz.Request{Method: "GET", Host: "h", Path: path}
		if raw != "" {
			req.Headers = []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}
		}
		var out []string
		for _, s := range e.Explain(t.Context(), req).Steps {
			word := s.Rule + " " + string(s.Outcome)
			if s.Outcome == authz.Refused {
				word += " " + s.Reason.String()
			}
			out = append(out, word)
			if raw != "" {
				require.NotContains(t, s.Detail, raw)
			}
		}
		return strings.Join(out, ", ")
	}
	const head = "route passed, credential passed, form passed, issuer passed, header passed, "
	good := iss.Mint(nil)
	explainer := func(tier authz.Tier) explain.Explainer { return authztest.NewExplainer(p, v, tier) }
	none := explainer(authztest.KeyTier{})
	require.Equal(t, "route passed", outcome(none, "/public", good))
	require.Equal(t, "route refused no_route", outcome(none, "/", good))
	require.Equal(t, "route refused malformed_request", outcome(none, "/public/../admin", good))
	require.Equal(t, "route passed, credential refused no_credential", outcome(none, "/api", ""))
	require.Equal(t, "route passed, credential passed, form refused malformed_token", outcome(none, "/api", "x"))
	require.Equal(t, "route passed, credential passed, form passed, issuer refused unknown_issuer", outcome(none, "/api", iss.Mint(map[string]any{"iss": "https://x"})))
	require.Equal(t, head+"signature passed, times passed, audience passed, revocation passed", outcome(none, "/api", good))
	require.Equal(t, head+"signature passed, times passed, audience passed, revocation skipped", outcome(explain.Explainer{Authorizer: none.Authorizer, Offline: true}, "/api", good))
	require.Equal(t, head+"signature passed, times passed, audience passed, scopes refused insufficient_scope, allow[0] refused policy_denied, revocation passed", outcome(none, "/admin", good))
	require.Equal(t, head+"signature passed, times passed, audience refused wrong_audience, revocation passed", outcome(none, "/api", iss.Mint(map[string]any{"aud": "x"})))
	require.Equal(t, head+"signature passed, times passed, audience passed, revocation refused revocation_unknown", outcome(explainer(authztest.FixedTier{}), "/api", good))
	require.Equal(t, head+"signature passed, times passed, audience passed, revocation refused revoked", outcome(explainer(authztest.FixedTier{Verdict: authz.Revoked, Err: nil}), "/api", good))
	require.Equal(t, head+"signature passed, times passed, audience passed, binding refused binding_mismatch, revocation passed", outcome(none, "/api", iss.Mint(map[string]any{"cnf": map[string]any{"jkt": strings.Repeat("A", 43)}})))
	last := good[:len(good)-8]
	require.Equal(t, head+"signature refused bad_signature, times passed, audience passed, revocation passed", outcome(none, "/api", last+strings.Repeat("A", 8)))
	require.Equal(t, head+"signature passed, times refused expired, audience passed, revocation passed", outcome(none, "/api", iss.Mint(map[string]any{"exp": 1000, "iat": 900})))
	require.Equal(t, head+"signature passed, claims refused unsupported_token", outcome(none, "/api", iss.Mint(map[string]any{"events": map[string]any{}})))
	require.Equal(t, "route passed, credential passed, form passed, issuer passed, header refused unsupported_token, signature skipped, times passed, audience passed, revocation passed",
		outcome(none, "/api", iss.Mint(nil, authztest.Header("typ", "logout+jwt"))))
	require.Equal(t, head+"signature passed, claims refused bad_claim", outcome(none, "/api", iss.Mint(map[string]any{"exp": "x"})))
	// The first refusal is the decision.
	a := authz.NewAuthorizer(v, nil, authz.NewChain(nil, authztest.KeyTier{}), p, authz.SystemClock{})
	for _, raw := range []string{good, "x", iss.Mint(map[string]any{"aud": "x"}), iss.Mint(map[string]any{"exp": 1000, "iat": 900}), iss.Mint(map[string]any{"sub": "root", "scope": "admin"})} {
		for _, path := range []string{"/admin", "/api", "/x"} {
			req := &authz.Request{Method: "GET", Path: path, Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}}
			x := none.Explain(t.Context(), req)
			want := authz.ReasonAllowed
			if i := slices.IndexFunc(x.Steps, func(s authz.Step) bool { return s.Outcome == authz.Refused }); i >= 0 {
				want = x.Steps[i].Reason
			}
			require.Equal(t, a.Authorize(t.Context(), req).Reason, want, "%s", path)
			require.Equal(t, want, x.Decision.Reason, "%s", path)
		}
	}
}

func TestExplainNeedsNoNetwork(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	p, err := policy.Compile(nil, policy.Options{})
	require.NoError(t, err)
	req := &authz.Request{Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + iss.Mint(nil)}}}
	find := func(network bool) (o authz.Outcome, allowed bool) {
		e := authztest.NewExplainer(p, v, authztest.KeyTier{})
		e.Offline = !network
		x := e.Explain(t.Context(), req)
		for _, s := range x.Steps {
			if s.Rule == "signature" {
				o = s.Outcome
			}
		}
		return o, x.Decision.Allowed()
	}
	outcome, allowed := find(false)
	require.Equal(t, authz.Skipped, outcome)
	require.False(t, allowed, "a trace with a skipped step allows nothing")
	require.Zero(t, iss.Fetches())
	// A check waits for the fetch for a moment only.
	require.Eventually(t, func() bool {
		outcome, allowed = find(true)
		return outcome == authz.Passed && allowed
	}, time.Minute, time.Millisecond)
	// Keys in a file are at hand.
	file := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(file, iss.JWKS(), 0o600))
	v, err = issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: file}}, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	outcome, _ = find(false)
	require.Equal(t, authz.Passed, outcome)
}

func TestResourceMetadata(t *testing.T) {
	t.Parallel()
	p := examplePolicy(t, `
routes:
  - {name: open, public: true, match: {paths: [{prefix: /public}]}}
  - {name: q, match: {paths: [{prefix: /q}]}, credentials: {queries: [access_token]}, scopes: [read, write]}
  - {name: m, require: mtls, any_scopes: [read, admin]}
`)
	doc, err := policy.ResourceMetadata(policy.ResourceConfig{Resource: "https://api.example/v1", Name: "Orders"}, p, []string{"https://issuer.example"})
	require.NoError(t, err)
	require.JSONEq(t, `{"resource":"https://api.example/v1","resource_name":"Orders","authorization_servers":["https://issuer.example"],
		"scopes_supported":["read","write","admin"],"bearer_methods_supported":["header","query"],
		"tls_client_certificate_bound_access_tokens":true,"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256","RS256"]}`, string(doc))
	doc, err = policy.ResourceMetadata(policy.ResourceConfig{Resource: "https://api.example", ScopesSupported: []string{"a"}, AuthorizationServers: []string{"https://x"}},
		examplePolicy(t, "routes: [{name: d, require: dpop}]"), nil)
	require.NoError(t, err)
	require.JSONEq(t, `{"resource":"https://api.example","authorization_servers":["https://x"],"scopes_supported":["a"],"bearer_methods_supported":["header"],
		"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256","RS256"],"dpop_bound_access_tokens_required":true}`, string(doc))
	// Only https issuers have metadata (RFC 8414, section 2), and only those whose
	// tokens a route accepts issue tokens for the resource.
	for routes, want := range map[string]string{
		"{name: rest}": `["https://issuer.example","https://partner.example"]`,
		"{name: rest, issuers: [https://partner.example]}": `["https://partner.example"]`,
	} {
		doc, err = policy.ResourceMetadata(policy.ResourceConfig{Resource: "https://api.example"},
			examplePolicy(t, "routes:\n  - {name: open, public: true, match: {paths: [{prefix: /public}]}}\n  - "+routes),
			[]string{"https://issuer.example", "http://plain.example", "spiffe.example", "https://partner.example", "https://x.example/#y"})
		require.NoError(t, err)
		require.JSONEq(t, `{"resource":"https://api.example","authorization_servers":`+want+`,"bearer_methods_supported":["header"],
			"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256","RS256"]}`, string(doc))
	}
	doc, err = policy.ResourceMetadata(policy.ResourceConfig{}, p, nil)
	require.NoError(t, err)
	require.Nil(t, doc)
	for resource, want := range map[string]string{
		"":                        "",
		"https://api.example":     "https://api.example/.well-known/oauth-protected-resource",
		"https://api.example/":    "https://api.example/.well-known/oauth-protected-resource",
		"https://api.example/v1/": "https://api.example/.well-known/oauth-protected-resource/v1/",
	} {
		require.Equal(t, want, policy.ResourceMetadataURL(policy.ResourceConfig{Resource: resource}))
	}
	var got []string
	policy.ResourceConfig{Resource: "http://api.example/?x", AuthorizationServers: []string{"x", "http://issuer.example"}, ScopesSupported: []string{"a b"}, Documentation: "d", Policy: "p", TermsOfService: "t"}.
		Validate(func(path, _ string, _ ...any) { got = append(got, path) })
	require.Equal(t, []string{"resource", "authorization_servers[0]", "authorization_servers[1]", "scopes_supported[0]", "documentation", "policy", "terms_of_service"}, got)
	got = nil
	policy.ResourceConfig{Name: "x"}.Validate(func(path, _ string, _ ...any) { got = append(got, path) })
	require.Equal(t, []string{"resource"}, got)
}
