// Package policytest runs a policy's unit tests: example requests, which the real
// Authorizer decides without network, signatures or keys. It serves no request.
package policytest

import (
	"cmp"
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

// Tests is a file of example requests with the decisions that they must get.
type Tests struct {
	Tests []Test `yaml:"tests" doc:"Example requests, each with the decision it must get."`
}

// Test is one example request.
type Test struct {
	Name       string   `yaml:"name" doc:"What the test shows."`
	Request    Request  `yaml:"request" doc:"The request."`
	Claims     Claims   `yaml:"claims" doc:"Claims of a token with a valid signature. Missing claims are filled in (iss, sub, aud, iat, exp, jti); null leaves one out. Absent: the request has no token."`
	Type       string   `yaml:"type" doc:"typ of the token. Empty: none."`
	Opaque     bool     `yaml:"opaque" doc:"true: the token is opaque, and claims are the response of introspection. false: it is a JWT."`
	Proof      []string `yaml:"proof" enum:"dpop,mtls" doc:"Proofs of possession that the request carries; they are assumed to be valid. Empty: none."`
	Revocation string   `yaml:"revocation" enum:"no,yes,unknown" doc:"Whether the token is revoked; unknown: no tier can prove it. Empty: no."`
	Expect     Decision `yaml:"expect" doc:"The decision."`
}

// Request is a request as Envoy would describe it.
type Request struct {
	Method            string            `yaml:"method" doc:"HTTP method. Empty: GET."`
	URL               string            `yaml:"url" doc:"https://host/path?query, or only /path?query; used as written, so that odd paths can be tested. $TOKEN stands for the token."`
	Headers           map[string]string `yaml:"headers" doc:"Headers, names in lower case. $TOKEN stands for the token; if neither headers nor url contain it, Authorization is set."`
	ContextExtensions map[string]string `yaml:"context_extensions" doc:"context_extensions of Envoy's route."`
	ServerName        string            `yaml:"server_name" doc:"Server name (SNI) of the client's TLS connection. Empty: none."`
	SourceAddress     string            `yaml:"source_address" doc:"IP address of the client."`
	SourcePrincipal   string            `yaml:"source_principal" doc:"Identity in the client's certificate."`
}

// Decision is the expected decision. Empty fields are not compared.
type Decision struct {
	Decision string `yaml:"decision" enum:"allow,deny" doc:"Required."`
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
		return fmt.Errorf("must be a mapping (key: value): %w", err)
	}
	*c = m
	return nil
}

// Validate reports every invalid value of the file.
func (p Tests) Validate(report authz.Report) {
	if len(p.Tests) == 0 {
		report("tests", "must contain at least one test")
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
			at("expect.decision", "%q must be allow or deny", t.Expect.Decision)
		}
		if t.Expect.Reason != "" && !slices.Contains(reasons, t.Expect.Reason) {
			at("expect.reason", "%q must be one of %s", t.Expect.Reason, strings.Join(reasons, ", "))
		}
		if !slices.Contains([]string{"", "no", "yes", "unknown"}, t.Revocation) {
			at("revocation", "%q must be no, yes or unknown", t.Revocation)
		}
		for j, proof := range t.Proof {
			if proof != "dpop" && proof != "mtls" {
				at(authz.ItemPath("proof", j), "%q must be dpop or mtls", proof)
			}
		}
		for name := range t.Request.Headers {
			if name != strings.ToLower(name) {
				at("request.headers."+name, "must be in lower case")
			}
		}
		if t.Claims == nil && (t.Opaque || t.Type != "" || t.Revocation != "" || len(t.Proof) > 0) {
			at("claims", "required by opaque, type, proof and revocation, which describe a token")
		}
	}
}

// Result is the outcome of one test.
type Result struct {
	Name   string
	Wrong  []string // unmet expectations; empty: passed
	Reason authz.Reason
	Route  string // empty: none matched
	Detail string
}

// Report is the outcome of a file.
type Report struct {
	Results []Result
	Failed  int
	Untried []string // routes that no test reached
}

// Options are the assumptions of the tests.
type Options struct {
	Issuers []issuer.Config // the configured issuers; the first is the default iss
	Clock   authz.Clock     // nil: SystemClock
}

// Run decides each test's request with p and the Authorizer that serves real
// requests. Signatures, introspection, proofs and revocation are as the test says.
func Run(ctx context.Context, p *policy.Policy, tests Tests, o Options) Report {
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	var report Report
	reached := map[string]bool{}
	for i, t := range tests.Tests {
		d := t.decide(ctx, p, o)
		r := Result{Name: cmp.Or(t.Name, fmt.Sprintf("test %d", i+1)), Reason: d.Reason, Route: d.Route, Detail: d.Detail}
		reached[d.Route] = true
		r.Wrong = t.Expect.compare(d)
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

func (e Decision) compare(d authz.Decision) (wrong []string) {
	got, route := "deny", cmp.Or(d.Route, "none")
	if d.Allowed() {
		got = "allow"
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
	known := givenToken{token}
	return authz.NewAuthorizer(known, nil, givenVerdict(t.Revocation), p.WithAssumptions(known, t.Proof), o.Clock).Authorize(ctx, t.request(token))
}

// token returns a token with the claims; nil if the test has none.
func (t *Test) token(o Options) (*authz.Token, error) {
	if t.Claims == nil {
		return nil, nil
	}
	now := o.Clock.Now().Unix()
	claims := map[string]any{
		"iss": "https://issuer.example", "sub": "user-1", "jti": "test", "iat": json.Number(fmt.Sprint(now)), "exp": json.Number(fmt.Sprint(now + 300)),
	}
	if len(o.Issuers) > 0 {
		claims["iss"] = o.Issuers[0].ExampleName()
	}
	if iss, ok := t.Claims["iss"].(string); ok {
		claims["iss"] = iss
	}
	config := issuer.Config{Audiences: []string{"*"}}
	for _, c := range o.Issuers {
		if iss, _ := claims["iss"].(string); c.Covers(iss) {
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
	// The text has the form of a token, for rules that read it.
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
		Method: cmp.Or(r.Method, "GET"), Scheme: "https", Host: "localhost", Path: r.URL, Protocol: "HTTP/2", ServerName: r.ServerName,
		Source: authz.Peer{Address: r.SourceAddress, Principal: r.SourcePrincipal}, ContextExtensions: authz.HeadersFrom(r.ContextExtensions),
	}
	if scheme, rest, ok := strings.Cut(r.URL, "://"); ok && (scheme == "http" || scheme == "https") {
		req.Scheme, req.Host, req.Path = scheme, rest, ""
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

// givenToken is a Verifier and Introspector that accepts one token.
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

func (givenToken) Expired(*authz.Token, int64) bool { return false }

func (g givenToken) Local(raw string) bool { return !strings.HasPrefix(raw, "opaque-") }

func (g givenToken) Introspect(_ context.Context, raw string, _ *authz.Token, _ string) (*authz.Token, error) {
	if g.token == nil || raw != g.token.Raw {
		return nil, &authz.Failure{Reason: authz.ReasonInactive, Detail: "not the token of the test"}
	}
	return g.token, nil
}

// givenVerdict is a Tier that returns the test's verdict.
type givenVerdict string

var _ authz.Tier = givenVerdict("")

func (givenVerdict) Name() string { return "given" }

func (g givenVerdict) LookupNow(*authz.Query) (authz.Verdict, bool) {
	v, err := g.Lookup(context.Background(), nil)
	return v, err == nil && v != authz.Unknown
}

func (g givenVerdict) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	switch g {
	case "", "no":
		return authz.NotRevoked, nil
	case "yes":
		return authz.Revoked, nil
	}
	return authz.Unknown, nil
}
