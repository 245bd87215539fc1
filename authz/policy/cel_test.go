package policy

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func celAnswer(t *testing.T, ctx context.Context, text string, req *authz.Request, claims map[string]any) authz.Reason { //nolint:revive // t comes first in tests
	t.Helper()
	e, err := compileExpression("allow[0]", text)
	require.NoErrorf(t, err, "%s", text)
	if fail := e.admit(ctx, req, &authz.Token{Claims: claims}); fail != nil {
		return fail.Reason
	}
	return authz.ReasonAllowed
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	req := &authz.Request{
		Method: "GET", Scheme: "https", Host: "API.example:443", Path: "/v1/caf%C3%A9?x=%2e#f", Protocol: "HTTP/2",
		Headers:           []authz.Header{{Name: "x-a", Value: "1"}, {Name: "x-b", Value: "2"}, {Name: "x-a", Value: "3"}},
		ContextExtensions: []authz.Header{{Name: "policy", Value: "admin"}}, Source: authz.Peer{Address: "2001:db8::1", Principal: "spiffe://x"},
	}
	claims := map[string]any{
		"sub": "alice", "level": json.Number("3"), "share": json.Number("0.5"), "big": json.Number("9007199254740993"), "ok": true, "none": nil,
		"groups": []any{"dev", "ops"}, "org": map[string]any{"id": "7", "tags": []any{json.Number("1")}}, "email": "Alice@Example.com",
	}
	for text, want := range map[string]authz.Reason{
		"true": authz.ReasonAllowed, "false": authz.ReasonPolicyDenied,
		"token.sub == 'alice'": authz.ReasonAllowed,
		"token.level >= 3 && token.level < 4 && token.level == 3.0": authz.ReasonAllowed,
		"token.share == 0.5":                                authz.ReasonAllowed,
		"token.big == 9007199254740993":                     authz.ReasonAllowed,
		"token.ok == true":                                  authz.ReasonAllowed,
		"token.none == null":                                authz.ReasonAllowed,
		"token.sub && true":                                 authz.ReasonPolicyDenied, // a string instead of a bool
		"'dev' in token.groups":                             authz.ReasonAllowed,
		"token.groups.exists(g, g == 'root')":               authz.ReasonPolicyDenied,
		"sets.contains(token.groups, ['dev'])":              authz.ReasonAllowed,
		"token.org.id == '7' && token.org.tags[0] == 1":     authz.ReasonAllowed,
		"token.email.lowerAscii().endsWith('@example.com')": authz.ReasonAllowed,
		"has(token.missing)":                                authz.ReasonPolicyDenied,
		"!has(token.missing)":                               authz.ReasonAllowed,
		"token.missing == 'x'":                              authz.ReasonPolicyDenied,
		"token.missing == 'x' || true":                      authz.ReasonAllowed, // the error on the left does not matter
		"token.groups[9] == 'x'":                            authz.ReasonPolicyDenied,
		"token.sub > 3":                                     authz.ReasonPolicyDenied,
		"1 / (token.level - 3) > 0":                         authz.ReasonPolicyDenied,
		"request.method == 'GET' && request.scheme == 'https' && request.protocol == 'HTTP/2'": authz.ReasonAllowed,
		"request.host == 'api.example'":                                    authz.ReasonAllowed,
		"request.path == '/v1/café'":                                       authz.ReasonAllowed,
		"request.query == 'x=%2e#f'":                                       authz.ReasonAllowed,
		"request.headers['x-a'] == '1,3' && request.headers['x-b'] == '2'": authz.ReasonAllowed,
		"request.headers['x-c'] == ''":                                     authz.ReasonPolicyDenied,
		"request.extensions.policy == 'admin'":                             authz.ReasonAllowed,
		"source.principal == 'spiffe://x'":                                 authz.ReasonAllowed,
		"cidr('2001:db8::/32').containsIP(source.address)":                 authz.ReasonAllowed,
		"cidr('10.0.0.0/8').containsIP(source.address)":                    authz.ReasonPolicyDenied,
		"token.sub.matches('^a.*e$')":                                      authz.ReasonAllowed,
	} {
		assert.Equalf(t, want, celAnswer(t, t.Context(), text, req, claims), "%s", text)
	}
}

// An expression must not decide by one of several readings of the request.
func TestExpressionsOnUnclearRequests(t *testing.T) {
	t.Parallel()
	for _, req := range []*authz.Request{{Host: "a", Path: "/x/../admin"}, {Host: "a", Path: "/x//y"}, {Host: "", Path: "/x"}, {Host: "a@b", Path: "/x"}} {
		for _, text := range []string{"!request.path.startsWith('/admin') && request.host != 'b'", "request.path != '' && request.host != 'c'"} {
			assert.Equalf(t, authz.ReasonPolicyDenied, celAnswer(t, t.Context(), text, req, nil), "%+v: %s", req, text)
		}
		assert.Equalf(t, authz.ReasonAllowed, celAnswer(t, t.Context(), "request.method == ''", req, nil), "%+v: an expression without path and host", req)
	}
}

// The cost limit and the deadline of the check limit the work.
func TestExpressionsAreBounded(t *testing.T) {
	t.Parallel()
	list := make([]any, 2000)
	for i := range list {
		list[i] = json.Number("1")
	}
	claims := map[string]any{"l": list}
	const cubic = "token.l.all(a, token.l.all(b, token.l.all(c, a + b + c > 0)))"
	start := time.Now()
	assert.Equal(t, authz.ReasonPolicyDenied, celAnswer(t, t.Context(), cubic, &authz.Request{}, claims), "8 billion steps")
	// unbounded, it would take an hour
	assert.LessOrEqual(t, time.Since(start), 30*time.Second, "took")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, authz.ReasonOverloaded, celAnswer(t, ctx, cubic, &authz.Request{}, claims), "out of time")
	_, err := compileExpression("allow[0]", "'"+strings.Repeat("x", 5000)+"' == ''")
	assert.Error(t, err, "an expression of 5000 characters was accepted")
	_, err = compileExpression("allow[0]", strings.Repeat("(", 1000)+"true"+strings.Repeat(")", 1000))
	assert.Error(t, err, "1000 parentheses were accepted")
}

// The detail is logged, so it contains no evaluated value.
func TestExpressionErrorsContainNoValues(t *testing.T) {
	t.Parallel()
	req := &authz.Request{Host: "a b", Path: "/SECRET/../x", Headers: []authz.Header{{Name: "authorization", Value: "Bearer SECRET"}}}
	claims := map[string]any{
		"sub": "SECRET(\n\x1b[31m" + strings.Repeat("y", 5000), "n": json.Number("4711.5"), "list": []any{"SECRET"}, "ip": "10.0.0.1%SECRET", "many": slices.Repeat([]any{true}, 1000),
	}
	for text, want := range map[string]string{
		"token.missing == 1":                                         "no such key",
		"{'a': true}[token.sub]":                                     "no such key",
		"{'a': true}[request.headers['authorization']]":              "no such key",
		"token.sub > 1":                                              "no such overload",
		"1 / (int(token.n) - 4711) > 0":                              "division by zero",
		"token.sub.charAt(9000) == 'x'":                              "index out of range",
		"token.list[token.n] == 'x'":                                 "invalid value",
		"token.list[token.sub] == 'x'":                               "invalid value",
		"int(token.sub) > 3":                                         "type conversion error",
		"duration(token.sub) > duration('1s')":                       "type conversion error",
		"timestamp(token.sub) > timestamp('2020-01-01T00:00:00Z')":   "invalid value",
		"timestamp('2020-01-01T00:00:00Z').getHours(token.sub) > 1":  "invalid value",
		"timestamp('2020-01-01T00:00:00Z').getHours('-4711:00') > 1": "invalid value",
		"cidr(token.sub).prefixLength() > 1":                         "invalid value",
		"ip(token.ip).family() == 4":                                 "invalid value",
		"'a'.matches(token.sub)":                                     "error parsing regexp",
		"[token.sub, token.n].join(',') == ''":                       "invalid value",
		"token.list.all(a, [1, 2, 3].all(b, 10 / (b - 2) > -99))":    "division by zero",
		"9223372036854775807 + int(token.n) > 0":                     "integer overflow",
		"token.many.all(a, token.many.all(b, a == b))":               "operation cancelled: actual cost limit exceeded",
		"token.list[9] == 'x'":                                       "index out of bounds",
		"request.host == 'a'":                                        "host is missing or malformed",
		"request.path == '/'":                                        pathDotSegment,
		"!(request.path.startsWith('/x') || request.host == 'b')":    "",
	} {
		e, err := compileExpression("allow[0]", text)
		if !assert.NoErrorf(t, err, "%s", text) {
			continue
		}
		fail := e.admit(t.Context(), req, &authz.Token{Claims: claims})
		if !assert.Falsef(t, fail == nil || fail.Reason != authz.ReasonPolicyDenied, "%s: %v", text, fail) {
			continue
		}
		assert.Falsef(t, want != "" && fail.Detail != "allow[0] failed: "+want, "%s: %q, want %q", text, fail.Detail, want)
		assert.NotContainsf(t, fail.Detail, "SECRET", "%s: the detail quotes a value", text)
		assert.NotContainsf(t, fail.Detail, "4711", "%s: the detail quotes a value", text)
		assert.Falsef(t, strings.ContainsAny(fail.Detail, "\n\x1b"), "%s: the detail quotes a value: %q", text, fail.Detail)
	}
}
