package policy

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func celAnswer(t *testing.T, ctx context.Context, text string, req *authz.Request, claims map[string]any) authz.Reason { //nolint:revive // t comes first in tests
	t.Helper()
	e, err := compileExpression("allow[0]", text)
	require.NoErrorf(t, err, "%s", text)
	if fail := e.admit(ctx, req, &authz.Token{Claims: claims}, time.Unix(1_000_000, 0)); fail != nil {
		return fail.Reason
	}
	return authz.ReasonAllowed
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	req := &authz.Request{
		Method: "GET", Scheme: "https", Host: "API.example:443", Path: "/v1/caf%C3%A9?x=%2e#f", Protocol: "HTTP/2", ServerName: "api.example",
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
		"request.server_name == request.host":                              authz.ReasonAllowed,
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

// What Envoy does not tell is no empty text, which a rule might allow.
func TestUnknownConnection(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"request.server_name != 'admin.example'", "source.address != '192.0.2.1'"} {
		assert.Equal(t, authz.ReasonPolicyDenied, celAnswer(t, t.Context(), text, &authz.Request{}, nil), text)
	}
}

// An issuer writes one audience as a string or as a list (RFC 7519, section 4.1.3).
func TestAudienceIsAList(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]authz.Reason{
		"'api' in token.aud":                               authz.ReasonAllowed,
		"'api' in token['aud']":                            authz.ReasonAllowed,
		"token.exists(k, k == 'aud' && 'api' in token[k])": authz.ReasonAllowed,
		"token.aud == ['api']":                             authz.ReasonAllowed,
		"token.aud[0] == 'api' && size(token.aud) == 1":    authz.ReasonAllowed,
		"token.aud.exists(a, a.startsWith('a'))":           authz.ReasonAllowed,
		"has(token.aud) && 'aud' in token":                 authz.ReasonAllowed,
		"'other' in token.aud":                             authz.ReasonPolicyDenied,
		"'ap' in token.aud":                                authz.ReasonPolicyDenied,
	} {
		assert.Equal(t, want, celAnswer(t, t.Context(), text, &authz.Request{}, map[string]any{"aud": "api"}), "string: %s", text)
		assert.Equal(t, want, celAnswer(t, t.Context(), text, &authz.Request{}, map[string]any{"aud": []any{"api"}}), "list: %s", text)
	}
	for _, text := range []string{"'api' in token.aud", "!('api' in token.aud)", "has(token.aud)"} {
		assert.Equal(t, authz.ReasonPolicyDenied, celAnswer(t, t.Context(), text, &authz.Request{}, map[string]any{"sub": "x"}), "none: %s", text)
	}
	for _, text := range []string{"token.aud == 'api'", "token.aud != 'api'", "token.aud.startsWith('api')"} {
		_, err := compileExpression("allow[0]", text)
		if assert.Error(t, err, text) {
			assert.Contains(t, err.Error(), "write 'api' in token.aud", text)
		}
	}
}

// Numbers are compared by their value. One that does not fit is not compared.
func TestLargeNumbers(t *testing.T) {
	t.Parallel()
	claims := map[string]any{
		"n53": json.Number("9007199254740993"), "n63": json.Number("9223372036854775807"), "min": json.Number("-9223372036854775808"), "exp": json.Number("9007199254740993e0"),
		"u64": json.Number("18446744073709551615"), "n64": json.Number("18446744073709551616"), "low": json.Number("-9223372036854775809"), "far": json.Number("1e400"), "e20": json.Number("1e20"),
		"half": json.Number("9007199254740993.5"), "list": []any{json.Number("18446744073709551616")}, "map": map[string]any{"n": json.Number("18446744073709551617")}, "small": json.Number("1e3"),
	}
	for text, want := range map[string]string{
		"token.n53 == 9007199254740993":       "",
		"token.n53 == 9007199254740992":       "allow[0] is false",
		"token.n53 > 9007199254740992":        "",
		"token.exp == 9007199254740993":       "",
		"token.exp == 9007199254740992":       "allow[0] is false",
		"token.n63 == 9223372036854775807":    "",
		"token.n63 == 9223372036854775806":    "allow[0] is false",
		"token.min < -9223372036854775807":    "",
		"token.u64 == 18446744073709551615u":  "",
		"token.u64 == 18446744073709551614u":  "allow[0] is false",
		"token.u64 > 9223372036854775807":     "",
		"token.small == 1000":                 "",
		"token.n64 == 18446744073709551617.0": "allow[0] failed: a number does not fit 64 bits",
		"token.n64 != 5":                      "allow[0] failed: a number does not fit 64 bits",
		"token.n64 > 5":                       "allow[0] failed: a number does not fit 64 bits",
		"!(token.n64 < 5)":                    "allow[0] failed: a number does not fit 64 bits",
		"token.low < 0":                       "allow[0] failed: a number does not fit 64 bits",
		"token.e20 > 0":                       "allow[0] failed: a number does not fit 64 bits",
		"token.far > 0":                       "allow[0] failed: a number does not fit 64 bits",
		"token.half > 0":                      "allow[0] failed: a number does not fit 64 bits",
		"token.map.n > 0":                     "allow[0] failed: a number does not fit 64 bits",
		"token.map == {'n': 5}":               "allow[0] is false",
		"token.list == [5]":                   "allow[0] is false",
		"[5] == token.list":                   "allow[0] is false",
		"5 in token.list":                     "allow[0] is false",
		"token.list.exists(n, n > 5)":         "allow[0] failed: no such overload",
		"int(token.list[0]) > 5":              "allow[0] failed: a number does not fit 64 bits",
		"'list' in token":                     "",
	} {
		e, err := compileExpression("allow[0]", text)
		require.NoError(t, err, text)
		got := ""
		if fail := e.admit(t.Context(), &authz.Request{}, &authz.Token{Claims: claims}, time.Unix(0, 0)); fail != nil {
			got = fail.Detail
		}
		assert.Equal(t, want, got, text)
	}
}

// The clock of expressions is that of the check: what was allowed a moment ago, with
// the same token from the cache and the response encoded, is denied when its time is up.
func TestNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := mustPolicy(t, RouteConfig{Name: "fresh", Allow: []string{"now - timestamp(token.auth_time) < duration('15m')"}})
		token := testToken()
		token.Claims["auth_time"] = json.Number(strconv.FormatInt(time.Now().Unix(), 10))
		token.Generation = 1
		a := authz.NewAuthorizer(oneToken{token}, &onlyToken{}, notRevoked{}, p, authz.SystemClock{})
		req := &authz.Request{Method: "GET", Path: "/", Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + token.Raw}}}
		for range 3 {
			assert.Equal(t, authz.ReasonAllowed, a.Authorize(t.Context(), req).Reason)
		}
		time.Sleep(15*time.Minute - 2*time.Second) // synctest
		assert.Equal(t, authz.ReasonAllowed, a.Authorize(t.Context(), req).Reason)
		time.Sleep(2 * time.Second) // synctest
		assert.Equal(t, authz.ReasonPolicyDenied, a.Authorize(t.Context(), req).Reason)
	})
}

// oneToken is a verifier, onlyToken a cache, and notRevoked a tier, for one token.
type oneToken struct{ token *authz.Token }

func (o oneToken) Verify(context.Context, string) (*authz.Token, error) { return o.token, nil }

func (oneToken) Current(*authz.Token, int64) bool { return true }

func (oneToken) Expired(*authz.Token, int64) bool { return false }

type onlyToken struct{ token *authz.Token }

func (o *onlyToken) Get(string) (*authz.Token, bool) { return o.token, o.token != nil }

func (o *onlyToken) Peek(raw string) (*authz.Token, bool) { return o.Get(raw) }

func (o *onlyToken) Put(t *authz.Token) { o.token = t }

type notRevoked struct{ authz.AlwaysWaits }

func (notRevoked) Name() string { return "not revoked" }

func (notRevoked) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	return authz.NotRevoked, nil
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
		"source.address != '10.1.2.3'":                               "the peer's address is not known",
		"!(request.path.startsWith('/x') || request.host == 'b')":    "",
	} {
		e, err := compileExpression("allow[0]", text)
		if !assert.NoErrorf(t, err, "%s", text) {
			continue
		}
		fail := e.admit(t.Context(), req, &authz.Token{Claims: claims}, time.Unix(1_000_000, 0))
		if !assert.Falsef(t, fail == nil || fail.Reason != authz.ReasonPolicyDenied, "%s: %v", text, fail) {
			continue
		}
		assert.Falsef(t, want != "" && fail.Detail != "allow[0] failed: "+want, "%s: %q, want %q", text, fail.Detail, want)
		assert.NotContainsf(t, fail.Detail, "SECRET", "%s: the detail quotes a value", text)
		assert.NotContainsf(t, fail.Detail, "4711", "%s: the detail quotes a value", text)
		assert.Falsef(t, strings.ContainsAny(fail.Detail, "\n\x1b"), "%s: the detail quotes a value: %q", text, fail.Detail)
	}
}
