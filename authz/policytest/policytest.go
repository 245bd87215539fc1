package policytest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"jwtbouncer/authz"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/jose"
	"jwtbouncer/authz/policy"
)

// PolicyTests is a file of example requests with the decisions that the
// routes must come to: unit tests of a policy. They need no network, no
// signature and no key.
type Tests struct {
	Tests []Test `yaml:"tests" doc:"Example requests, each with the decision it must get."`
}

// PolicyTest is one example request.
type Test struct {
	Name       string   `yaml:"name" doc:"What the test shows."`
	Request    Request  `yaml:"request" doc:"The request."`
	Claims     Claims   `yaml:"claims" doc:"Claims of a token whose signature is good. Those left out are filled in (iss, sub, aud, iat, exp, jti), null leaves one out. Absent: the request has no token."`
	Type       string   `yaml:"type" doc:"typ of the token. Empty: none."`
	Opaque     bool     `yaml:"opaque" doc:"true: the token is no JWT, and claims are what introspection answers. false: it is a JWT."`
	Proof      []string `yaml:"proof" enum:"dpop,mtls" doc:"Proofs of possession that the request carries and that are taken as good. Empty: none."`
	Revocation string   `yaml:"revocation" enum:"no,yes,unknown" doc:"Whether the token is revoked, or whether nothing can tell. Empty: no."`
	Expect     Decision `yaml:"expect" doc:"The decision."`
}

// PolicyTestRequest is a request as Envoy would describe it.
type Request struct {
	Method            string            `yaml:"method" doc:"HTTP method. Empty: GET."`
	URL               string            `yaml:"url" doc:"https://host/path?query, or only /path?query; taken as it is, so that odd paths can be tried. $TOKEN stands for the token."`
	Headers           map[string]string `yaml:"headers" doc:"Headers, names in lower case. $TOKEN stands for the token; where neither they nor url hold it, Authorization is set."`
	ContextExtensions map[string]string `yaml:"context_extensions" doc:"What Envoy's route sends along."`
	SourceAddress     string            `yaml:"source_address" doc:"IP address of the client."`
	SourcePrincipal   string            `yaml:"source_principal" doc:"Identity in the client's certificate."`
}

// PolicyTestDecision is what must come out. Fields left out are not compared.
type Decision struct {
	Decision string `yaml:"decision" enum:"allow,deny" doc:"Needed."`
	Reason   string `yaml:"reason" doc:"Reason as metrics spell it, such as insufficient_scope. Empty: any."`
	Route    string `yaml:"route" doc:"Name of the route that decided; none: no route matched. Empty: any."`
}

// Claims is a JSON object written as YAML.
type Claims map[string]any

// UnmarshalYAML reads claims as a token's payload would be read.
func (c *Claims) UnmarshalYAML(text []byte) error {
	b, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	m, err := jose.ParseObject(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("claims are needed as key: value: %w", err)
	}
	*c = m
	return nil
}

// Validate reports every invalid value of the file.
func (p Tests) Validate(report authz.Report) {
	if len(p.Tests) == 0 {
		report("tests", "no test is in the file")
	}
	var reasons []string
	for _, r := range authz.Reasons() {
		if r != authz.ReasonUnset {
			reasons = append(reasons, r.String())
		}
	}
	for i, t := range p.Tests {
		at := func(path, format string, args ...any) { report(authz.ItemPath("tests", i)+"."+path, format, args...) }
		if t.Expect.Decision != "allow" && t.Expect.Decision != "deny" {
			at("expect.decision", "%q: allow or deny", t.Expect.Decision)
		}
		if t.Expect.Reason != "" && !slices.Contains(reasons, t.Expect.Reason) {
			at("expect.reason", "%q is none of %s", t.Expect.Reason, strings.Join(reasons, ", "))
		}
		if !slices.Contains([]string{"", "no", "yes", "unknown"}, t.Revocation) {
			at("revocation", "%q: no, yes or unknown", t.Revocation)
		}
		for j, proof := range t.Proof {
			if proof != "dpop" && proof != "mtls" {
				at(authz.ItemPath("proof", j), "%q: dpop or mtls", proof)
			}
		}
		for name := range t.Request.Headers {
			if name != strings.ToLower(name) {
				at("request.headers."+name, "names are written in lower case")
			}
		}
		if t.Claims == nil && (t.Opaque || t.Type != "" || t.Revocation != "" || len(t.Proof) > 0) {
			at("claims", "without claims there is no token to which opaque, type, proof or revocation could refer")
		}
	}
}

// PolicyTestResult is the outcome of one test.
type Result struct {
	Name   string
	Wrong  []string // what was not as expected; empty: passed
	Reason authz.Reason
	Route  string // empty: none matched
	Detail string
}

// PolicyTestReport is the outcome of a file.
type Report struct {
	Results []Result
	Failed  int
	Untried []string // routes that no test reached
}

// PolicyTestOptions is what the tests take for granted.
type Options struct {
	Issuers []issuer.Config // the configured ones; the first one's is the default iss
	Clock   authz.Clock     // nil: SystemClock
}

// RunPolicyTests asks p about each test through the same Authorizer that
// serves requests; only signatures, introspection, proofs and revocation are
// what the test says.
func Run(ctx context.Context, p *policy.Policy, tests Tests, o Options) Report {
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	var report Report
	reached := map[string]bool{}
	for i, t := range tests.Tests {
		d := t.decide(ctx, p, o)
		r := Result{Name: t.Name, Reason: d.Reason, Route: d.Route, Detail: d.Detail}
		if r.Name == "" {
			r.Name = fmt.Sprintf("test %d", i+1)
		}
		r.Route = d.Route
		reached[r.Route] = true
		r.Wrong = t.Expect.compare(d, r.Route)
		if len(r.Wrong) > 0 {
			report.Failed++
		}
		report.Results = append(report.Results, r)
	}
	for _, r := range p.Routes() {
		if !reached[r.Name] {
			report.Untried = append(report.Untried, r.Name)
		}
	}
	return report
}

func (e Decision) compare(d authz.Decision, route string) (wrong []string) {
	got := "deny"
	if d.Allowed() {
		got = "allow"
	}
	if route == "" {
		route = "none"
	}
	for _, c := range []struct{ what, want, got string }{{"decision", e.Decision, got}, {"reason", e.Reason, d.Reason.String()}, {"route", e.Route, route}} {
		if c.want != "" && c.want != c.got {
			wrong = append(wrong, fmt.Sprintf("%s is %s, expected %s", c.what, c.got, c.want))
		}
	}
	return wrong
}

func (t *Test) decide(ctx context.Context, p *policy.Policy, o Options) authz.Decision {
	token, err := t.token(o)
	if err != nil {
		return authz.Decision{Reason: authz.ReasonInternal, Detail: err.Error()}
	}
	known := givenToken{token: token}
	assumed := p.WithAssumptions(known, t.Proof)
	return authz.NewAuthorizer(known, nil, authz.NewChain(nil, givenVerdict(t.Revocation)), assumed, o.Clock).Authorize(ctx, t.request(token))
}

// token makes the token of the claims; nil when there are none.
func (t *Test) token(o Options) (*authz.Token, error) {
	if t.Claims == nil {
		return nil, nil
	}
	now := o.Clock.Now().Unix()
	claims := map[string]any{
		"iss": "https://issuer.example", "sub": "user-1", "jti": "test", "iat": json.Number(fmt.Sprint(now)), "exp": json.Number(fmt.Sprint(now + 300)),
	}
	if len(o.Issuers) > 0 {
		claims["iss"] = o.Issuers[0].Issuer
	}
	if iss, ok := t.Claims["iss"].(string); ok {
		claims["iss"] = iss
	}
	config := issuer.Config{Audiences: []string{"*"}}
	for _, c := range o.Issuers {
		if c.Issuer == claims["iss"] {
			config = c
		}
	}
	if len(config.Audiences) > 0 && config.Audiences[0] != "*" {
		claims["aud"] = config.Audiences[0]
	}
	maps.Copy(claims, t.Claims)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	// A text of the right form, for whatever looks at it.
	token := &authz.Token{Type: t.Type, Raw: "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(payload) + ".AAAA", Generation: 1}
	if t.Opaque {
		token.Raw = "opaque-" + base64.RawURLEncoding.EncodeToString(payload)
	}
	if fail := issuer.ReadClaims(token, claims, true); fail != nil {
		return nil, fail
	}
	token.Accepted = config.Accepts(token.Audience)
	token.SetKeys()
	return token, nil
}

func (t *Test) request(token *authz.Token) *authz.Request {
	r := t.Request
	raw := ""
	if token != nil {
		raw = token.Raw
	}
	req := &authz.Request{
		Method: r.Method, Scheme: "https", Host: "localhost", Path: r.URL, Protocol: "HTTP/2",
		Source: authz.Peer{Address: r.SourceAddress, Principal: r.SourcePrincipal}, ContextExtensions: authz.HeadersFrom(r.ContextExtensions),
	}
	if req.Method == "" {
		req.Method = "GET"
	}
	if scheme, rest, ok := strings.Cut(r.URL, "://"); ok && (scheme == "http" || scheme == "https") {
		req.Scheme, req.Path = scheme, ""
		req.Host = rest
		if i := strings.IndexAny(rest, "/?#*"); i >= 0 {
			req.Host, req.Path = rest[:i], rest[i:]
		}
	}
	placed := raw == "" || strings.Contains(req.Path, "$TOKEN")
	req.Path = strings.ReplaceAll(req.Path, "$TOKEN", url.QueryEscape(raw))
	for _, h := range authz.HeadersFrom(r.Headers) {
		placed = placed || strings.Contains(h.Value, "$TOKEN")
		h.Value = strings.ReplaceAll(h.Value, "$TOKEN", raw)
		req.Headers = append(req.Headers, h)
	}
	if !placed {
		scheme := "Bearer "
		if slices.Contains(t.Proof, "dpop") {
			scheme = "DPoP "
		}
		req.Headers = append(req.Headers, authz.Header{Name: "authorization", Value: scheme + raw})
	}
	return req
}

// givenToken is the Verifier and Introspector that knows one token.
type givenToken struct{ token *authz.Token }

var (
	_ authz.Verifier     = givenToken{}
	_ authz.Introspector = givenToken{}
)

func (g givenToken) Verify(_ context.Context, raw string) (*authz.Token, error) {
	if g.token == nil || raw != g.token.Raw || strings.HasPrefix(raw, "opaque-") {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "not the token of the test")
	}
	return g.token, nil
}

func (givenToken) Current(*authz.Token, int64) bool { return false }

func (g givenToken) Local(raw string) bool { return !strings.HasPrefix(raw, "opaque-") }

func (g givenToken) Introspect(_ context.Context, raw string) (*authz.Token, error) {
	if g.token == nil || raw != g.token.Raw {
		return nil, &authz.Failure{Reason: authz.ReasonInactive, Detail: "not the token of the test"}
	}
	return g.token, nil
}

// givenVerdict is the Tier that says what a test says.
type givenVerdict string

var _ authz.Tier = givenVerdict("")

func (givenVerdict) Name() string { return "given" }

func (g givenVerdict) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	switch g {
	case "", "no":
		return authz.NotRevoked, nil
	case "yes":
		return authz.Revoked, nil
	}
	return authz.Unknown, nil
}
