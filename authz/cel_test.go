package authz

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func celAnswer(t *testing.T, ctx context.Context, text string, req *Request, claims map[string]any) Reason { //nolint:revive // t comes first in tests
	t.Helper()
	e, err := compileExpression("allow[0]", text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if fail := e.admit(ctx, req, &Token{Claims: claims}); fail != nil {
		return fail.Reason
	}
	return ReasonAllowed
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	req := &Request{
		Method: "GET", Scheme: "https", Host: "API.example:443", Path: "/v1/caf%C3%A9?x=%2e#f", Protocol: "HTTP/2",
		Headers:           []Header{{"x-a", "1"}, {"x-b", "2"}, {"x-a", "3"}},
		ContextExtensions: []Header{{"policy", "admin"}}, Source: Peer{Address: "2001:db8::1", Principal: "spiffe://x"},
	}
	claims := map[string]any{
		"sub": "alice", "level": json.Number("3"), "share": json.Number("0.5"), "big": json.Number("9007199254740993"), "ok": true, "none": nil,
		"groups": []any{"dev", "ops"}, "org": map[string]any{"id": "7", "tags": []any{json.Number("1")}}, "email": "Alice@Example.com",
	}
	for text, want := range map[string]Reason{
		"true": ReasonAllowed, "false": ReasonPolicyDenied,
		"token.sub == 'alice'": ReasonAllowed,
		"token.level >= 3 && token.level < 4 && token.level == 3.0": ReasonAllowed,
		"token.share == 0.5":                                ReasonAllowed,
		"token.big == 9007199254740993":                     ReasonAllowed,
		"token.ok == true":                                  ReasonAllowed,
		"token.none == null":                                ReasonAllowed,
		"token.sub && true":                                 ReasonPolicyDenied, // a string where a bool is needed
		"'dev' in token.groups":                             ReasonAllowed,
		"token.groups.exists(g, g == 'root')":               ReasonPolicyDenied,
		"sets.contains(token.groups, ['dev'])":              ReasonAllowed,
		"token.org.id == '7' && token.org.tags[0] == 1":     ReasonAllowed,
		"token.email.lowerAscii().endsWith('@example.com')": ReasonAllowed,
		"has(token.missing)":                                ReasonPolicyDenied,
		"!has(token.missing)":                               ReasonAllowed,
		"token.missing == 'x'":                              ReasonPolicyDenied,
		"token.missing == 'x' || true":                      ReasonAllowed, // whatever the left side is
		"token.groups[9] == 'x'":                            ReasonPolicyDenied,
		"token.sub > 3":                                     ReasonPolicyDenied,
		"1 / (token.level - 3) > 0":                         ReasonPolicyDenied,
		"request.method == 'GET' && request.scheme == 'https' && request.protocol == 'HTTP/2'": ReasonAllowed,
		"request.host == 'api.example'":                                    ReasonAllowed,
		"request.path == '/v1/café'":                                       ReasonAllowed,
		"request.query == 'x=%2e#f'":                                       ReasonAllowed,
		"request.headers['x-a'] == '1,3' && request.headers['x-b'] == '2'": ReasonAllowed,
		"request.headers['x-c'] == ''":                                     ReasonPolicyDenied,
		"request.extensions.policy == 'admin'":                             ReasonAllowed,
		"source.principal == 'spiffe://x'":                                 ReasonAllowed,
		"cidr('2001:db8::/32').containsIP(source.address)":                 ReasonAllowed,
		"cidr('10.0.0.0/8').containsIP(source.address)":                    ReasonPolicyDenied,
		"token.sub.matches('^a.*e$')":                                      ReasonAllowed,
	} {
		if got := celAnswer(t, t.Context(), text, req, claims); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// An expression must not decide by one of several readings.
func TestExpressionsOnUnclearRequests(t *testing.T) {
	t.Parallel()
	for _, req := range []*Request{{Host: "a", Path: "/x/../admin"}, {Host: "a", Path: "/x//y"}, {Host: "", Path: "/x"}, {Host: "a@b", Path: "/x"}} {
		for _, text := range []string{"!request.path.startsWith('/admin') && request.host != 'b'", "request.path != '' && request.host != 'c'"} {
			if got := celAnswer(t, t.Context(), text, req, nil); got != ReasonPolicyDenied {
				t.Errorf("%+v: %s: %s", req, text, got)
			}
		}
		if got := celAnswer(t, t.Context(), "request.method == ''", req, nil); got != ReasonAllowed {
			t.Errorf("%+v: an expression without path and host: %s", req, got)
		}
	}
}

// Work is bounded by the expression's cost and by the check's time.
func TestExpressionsAreBounded(t *testing.T) {
	t.Parallel()
	list := make([]any, 2000)
	for i := range list {
		list[i] = json.Number("1")
	}
	claims := map[string]any{"l": list}
	const cubic = "token.l.all(a, token.l.all(b, token.l.all(c, a + b + c > 0)))"
	start := time.Now()
	if got := celAnswer(t, t.Context(), cubic, &Request{}, claims); got != ReasonPolicyDenied {
		t.Errorf("8 billion steps: %s", got)
	}
	if took := time.Since(start); took > 30*time.Second { // unbounded, it would take an hour
		t.Errorf("took %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := celAnswer(t, ctx, cubic, &Request{}, claims); got != ReasonOverloaded {
		t.Errorf("out of time: %s", got)
	}
	if _, err := compileExpression("allow[0]", "'"+strings.Repeat("x", 5000)+"' == ''"); err == nil {
		t.Error("an expression of 5000 characters was accepted")
	}
	if _, err := compileExpression("allow[0]", strings.Repeat("(", 1000)+"true"+strings.Repeat(")", 1000)); err == nil {
		t.Error("1000 parentheses were accepted")
	}
}

// What goes wrong with a claim is told without the claim running away with the log.
func TestExpressionErrorsAreBounded(t *testing.T) {
	t.Parallel()
	e, err := compileExpression("allow[0]", "int(token.sub) > 3")
	if err != nil {
		t.Fatal(err)
	}
	fail := e.admit(t.Context(), &Request{}, &Token{Claims: map[string]any{"sub": "x\n\x1b[31m" + strings.Repeat("y", 5000)}})
	if fail == nil || fail.Reason != ReasonPolicyDenied || len(fail.Detail) > 1000 || strings.ContainsAny(fail.Detail, "\n\x1b") {
		t.Errorf("%v", fail)
	}
}
