package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"jwtbouncer/authz"
)

func headersOf(t testing.TB, c HeadersConfig) *upstreamHeaders {
	t.Helper()
	if c.MaxBytes == 0 {
		c.MaxBytes = 8192
	}
	return newUpstreamHeaders(c, encodeCheckResponse, func(path, format string, args ...any) {
		t.Fatalf("%s: %s", path, fmt.Sprintf(format, args...))
	})
}

func claims(t testing.TB, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var m map[string]any
	require.NoError(t, d.Decode(&m))
	return m
}

func TestAllowResponses(t *testing.T) {
	t.Parallel()
	config := HeadersConfig{Claims: map[string]string{"X-JWT-Sub": "sub", "x-jwt-iss": "iss", "x-jwt-none": "none"}, ForwardAuthorization: true}
	closed := config
	closed.ForwardAuthorization = false
	for name, c := range map[string]struct {
		config     HeadersConfig
		token      *authz.Token
		source     string
		path       string
		headers    []authz.Header
		set        map[string]string
		remove     []string
		parameters []string
	}{
		"token":        {config: config, token: testToken(), set: map[string]string{"x-jwt-sub": "alice", "x-jwt-iss": "https://issuer.test"}, remove: []string{"x-jwt-none"}},
		"public route": {config: config, set: map[string]string{}, remove: []string{"x-jwt-iss", "x-jwt-none", "x-jwt-sub"}},
		"public route, Authorization not forwarded": {config: closed, set: map[string]string{}, remove: []string{"authorization", "x-jwt-iss", "x-jwt-none", "x-jwt-sub"}},
		"Authorization not forwarded":               {config: closed, token: testToken(), set: map[string]string{"x-jwt-sub": "alice", "x-jwt-iss": "https://issuer.test"}, remove: []string{"authorization", "x-jwt-none"}},
		"token in a header":                         {config: config, token: testToken(), source: "header:x-a", set: map[string]string{"x-jwt-sub": "alice", "x-jwt-iss": "https://issuer.test"}, remove: []string{"x-jwt-none"}},
		"token in a header, not forwarded":          {config: closed, token: testToken(), source: "header:x-a", set: map[string]string{"x-jwt-sub": "alice", "x-jwt-iss": "https://issuer.test"}, remove: []string{"authorization", "x-a", "x-jwt-none"}},
		"lookalikes": {
			config: config, token: testToken(),
			headers: []authz.Header{{Name: "x_jwt_sub", Value: "root"}, {Name: "x-jwt_sub", Value: "root"}, {Name: "x_jwt_sub", Value: "root"}, {Name: "x-jwt-sub", Value: "root"}, {Name: "x_other", Value: "1"}},
			set:     map[string]string{"x-jwt-sub": "alice", "x-jwt-iss": "https://issuer.test"}, remove: []string{"x-jwt-none", "x-jwt_sub", "x_jwt_sub"},
		},
		"lookalikes on a public route": {
			config: config, headers: []authz.Header{{Name: "x_jwt_iss", Value: "root"}},
			set: map[string]string{}, remove: []string{"x-jwt-iss", "x-jwt-none", "x-jwt-sub", "x_jwt_iss"},
		},
		"lookalikes of a name with underscores": {
			config: HeadersConfig{Claims: map[string]string{"X_JWT-Sub": "sub", "x_jwt_none": "none"}, ForwardAuthorization: true}, token: testToken(),
			headers: []authz.Header{{Name: "x-jwt-sub", Value: "root"}, {Name: "x_jwt_sub", Value: "root"}, {Name: "x-jwt-none", Value: "root"}, {Name: "x-jwt_none", Value: "root"}},
			set:     map[string]string{"x_jwt-sub": "alice"}, remove: []string{"x-jwt-none", "x-jwt-sub", "x-jwt_none", "x_jwt_none", "x_jwt_sub"},
		},
		"a name with underscores on a public route": {
			config: HeadersConfig{Claims: map[string]string{"x_jwt_sub": "sub"}, ForwardAuthorization: true}, headers: []authz.Header{{Name: "x-jwt-sub", Value: "root"}},
			set: map[string]string{}, remove: []string{"x-jwt-sub", "x_jwt_sub"},
		},
		"only cookie": {
			config: HeadersConfig{ForwardAuthorization: true}, token: testToken(), source: "cookie:session",
			headers: []authz.Header{{Name: "cookie", Value: "session=abc"}}, set: map[string]string{}, remove: []string{"cookie"},
		},
		"cookie among others": {
			config: HeadersConfig{ForwardAuthorization: true}, token: testToken(), source: "cookie:session",
			headers: []authz.Header{{Name: "cookie", Value: "a=1; session=abc;b=2"}, {Name: "cookie", Value: " session = def; sessions=3; c"}},
			set:     map[string]string{"cookie": "a=1; b=2; sessions=3; c"},
		},
		"query": {
			config: HeadersConfig{ForwardAuthorization: true}, token: testToken(), source: "query:access_token",
			path: "/x?a=1&access_token=abc&access%5Ftoken=abc", set: map[string]string{}, parameters: []string{"access%5Ftoken", "access_token"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.source == "" {
				c.source = "authorization"
			}
			req := &authz.Request{Path: c.path, Headers: c.headers}
			headers := headersOf(t, c.config)
			for range 2 { // the second response may be cached
				b, err := headers.response(c.token, authz.Credential{Source: c.source}, req)
				require.NoError(t, err)
				ok := strict(t, b).GetOkResponse()
				assert.Equal(t, c.set, headerMap(t, ok.GetHeaders()))
				remove := slices.Sorted(slices.Values(ok.GetHeadersToRemove()))
				assert.Equal(t, c.remove, remove)
				assert.Equal(t, c.parameters, slices.Sorted(slices.Values(ok.GetQueryParametersToRemove())))
			}
		})
	}
}

// A cached response must not be used for a request that needs another one.
func TestCachedResponsesFitTheRequest(t *testing.T) {
	t.Parallel()
	token := testToken()
	headers := headersOf(t, DefaultConfig().Headers)
	plain := &authz.Request{}
	cred := authz.Credential{Source: "authorization"}
	first, err := headers.response(token, cred, plain)
	require.NoError(t, err)
	again, err := headers.response(token, cred, plain)
	require.NoError(t, err)
	assert.Same(t, &first[0], &again[0], "encoded once")

	spoofed, err := headers.response(token, cred, &authz.Request{Headers: []authz.Header{{Name: "x_jwt_sub", Value: "root"}}})
	require.NoError(t, err)
	assert.Contains(t, strict(t, spoofed).GetOkResponse().GetHeadersToRemove(), "x_jwt_sub")

	cookie, err := headers.response(token, authz.Credential{Source: "cookie:s"}, &authz.Request{Headers: []authz.Header{{Name: "cookie", Value: "s=1"}}})
	require.NoError(t, err)
	assert.Contains(t, strict(t, cookie).GetOkResponse().GetHeadersToRemove(), "cookie")

	other := headersOf(t, HeadersConfig{Claims: map[string]string{"x-user": "sub"}, ForwardAuthorization: true})
	changed, err := other.response(token, cred, plain)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"x-user": "alice"}, headerMap(t, strict(t, changed).GetOkResponse().GetHeaders()), "the response of another configuration is not used")
}

func TestLongClaimsAreDenied(t *testing.T) {
	t.Parallel()
	headers := headersOf(t, HeadersConfig{Claims: map[string]string{"x-jwt-sub": "sub"}, MaxBytes: 10})
	var e *unfitClaimError
	_, err := headers.build(&authz.Token{Claims: map[string]any{"sub": strings.Repeat("a", 11)}}, authz.Credential{}, &authz.Request{})
	require.ErrorAs(t, err, &e)
	_, err = headers.build(&authz.Token{Claims: map[string]any{"sub": strings.Repeat("a", 10)}}, authz.Credential{}, &authz.Request{})
	require.NoError(t, err)
}

func TestDynamicMetadata(t *testing.T) {
	t.Parallel()
	const text = `{"sub":"alice","n":12,"big":9007199254740993,"huge":1e999,"f":0.1,"t":true,"no":null,"l":[1,"a",{"x":[]}],"o":{"a":{"b":"c"}},"z":""}`
	token := &authz.Token{Claims: claims(t, text)}
	all := headersOf(t, HeadersConfig{Metadata: []string{"*"}})
	b, err := all.build(token, authz.Credential{}, &authz.Request{})
	require.NoError(t, err)
	want, err := structpb.NewStruct(map[string]any{
		"sub": "alice", "n": 12, "big": "9007199254740993", "huge": "1e999", "f": 0.1, "t": true, "no": nil,
		"l": []any{1, "a", map[string]any{"x": []any{}}}, "o": map[string]any{"a": map[string]any{"b": "c"}}, "z": "",
	})
	require.NoError(t, err)
	assert.Empty(t, diff(want, strict(t, b).GetDynamicMetadata()))

	some := headersOf(t, HeadersConfig{Metadata: []string{"sub", "missing", "sub"}})
	b, err = some.build(token, authz.Credential{}, &authz.Request{})
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"sub": "alice"}, strict(t, b).GetDynamicMetadata().AsMap())

	b, err = some.build(nil, authz.Credential{}, &authz.Request{})
	require.NoError(t, err)
	assert.Nil(t, strict(t, b).GetDynamicMetadata(), "a public route has no claims")
}

func diff(want, got proto.Message) string {
	if proto.Equal(want, got) {
		return ""
	}
	return "want " + want.(interface{ String() string }).String() + "\ngot  " + got.(interface{ String() string }).String()
}

// FuzzAllowResponse: for any claims and headers, a response is a valid CheckResponse that either
// overwrites or removes every identity header, and sets no value that HTTP cannot carry.
func FuzzAllowResponse(f *testing.F) {
	f.Add(`{"sub":"alice","iss":"i","o":{"p":1}}`, "x-jwt-sub", "sub", "x_jwt_sub", "cookie:s", "s=1; t=2", "/?s=1")
	f.Add(`{"sub":"a\r\nx-admin: true"}`, "X-JWT-Sub", "user:{sub}", "x-jwt-sub", "authorization", "", "")
	f.Add(`{"sub":["\u0000\u007f","é"]}`, "a", "{sub}{{}}", "A", "query:s", "", "/?s=1&%73=2#s=3")
	f.Add(`{"sub":1e5,"o":{"p":[{"q":"\ud800"}]}}`, "a-b_c", "o.p.0.q", "a_b-c", "cookie:", ";=;", "?")
	f.Add(`{"":""}`, "x", "/", "x", "", "", "")
	f.Fuzz(func(t *testing.T, claimText, header, template, spoofed, source, cookie, path string) {
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(claimText))
		d.UseNumber()
		if d.Decode(&m) != nil {
			return
		}
		faults := 0
		config := HeadersConfig{Claims: map[string]string{header: template, "x-fixed": "sub"}, Metadata: []string{"*"}, MaxBytes: 64}
		headers := newUpstreamHeaders(config, encodeCheckResponse, func(string, string, ...any) { faults++ })
		if faults > 0 {
			return
		}
		req := &authz.Request{Path: path, Headers: []authz.Header{{Name: strings.ToLower(spoofed), Value: "root"}, {Name: "cookie", Value: cookie}}}
		for _, token := range []*authz.Token{{Claims: m}, nil} {
			b, err := headers.build(token, authz.Credential{Source: source}, req)
			if err != nil {
				var e *unfitClaimError
				require.ErrorAs(t, err, &e)
				require.Nil(t, b)
				require.NotNil(t, token, "a request without a token has no claim that could be unfit")
				continue
			}
			r := strict(t, b)
			require.Equal(t, int32(codes.OK), r.GetStatus().GetCode())
			set, removed := headerMap(t, r.GetOkResponse().GetHeaders()), r.GetOkResponse().GetHeadersToRemove()
			for name, value := range set {
				require.NotContains(t, removed, name, "both set and removed")
				require.NotEmpty(t, value)
				require.True(t, headerText(value), "%q", value)
				require.Equal(t, strings.TrimSpace(value), strings.Trim(value, " "))
				require.Equal(t, strings.ToLower(name), name)
			}
			for _, h := range headers.identity {
				_, isSet := set[h.name]
				require.NotEqual(t, isSet, slices.Contains(removed, h.name), "%s must be either set or removed", h.name)
				require.False(t, isSet && token == nil, "set without a token")
				if low := strings.ToLower(spoofed); fold(low) == h.folded && low != h.name {
					require.Contains(t, removed, low)
				}
			}
			require.Contains(t, removed, "authorization")
			if s, ok := m["sub"].(string); ok && token != nil && s != "" {
				require.Equal(t, s, set["x-fixed"])
			}
			if token != nil && len(m) > 0 {
				back, err := json.Marshal(r.GetDynamicMetadata().AsMap())
				require.NoError(t, err)
				require.True(t, bytes.HasPrefix(back, []byte("{")))
				require.Len(t, r.GetDynamicMetadata().GetFields(), len(m))
			}
		}
	})
}
