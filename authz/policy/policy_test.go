package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func mustPolicy(t testing.TB, routes ...RouteConfig) *Policy {
	t.Helper()
	p, err := Compile(routes, Options{})
	require.NoError(t, err)
	return p
}

// chosen returns the name of the route, "none", or the reason of the failure.
func chosen(p *Policy, req *authz.Request) string {
	r, fail := p.Match(req)
	switch {
	case fail != nil:
		return fail.Reason.String()
	case r == nil:
		return "none"
	}
	return r.Rule().Name
}

func TestWithoutRoutesEverythingNeedsAToken(t *testing.T) {
	t.Parallel()
	p := mustPolicy(t)
	for _, req := range []*authz.Request{{}, {Path: "/a/../b", Host: "?"}, {Method: "get", Path: "*"}} {
		r, fail := p.Match(req)
		if assert.Nilf(t, fail, "Match(%+v) = %v", req, r) {
			if assert.NotNilf(t, r, "Match(%+v), %v", req, fail) {
				assert.Falsef(t, r.Rule().Public, "Match(%+v) = %v, %v", req, r, fail)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	p := mustPolicy(t,
		RouteConfig{Name: "health", Public: true, Match: MatchConfig{Paths: []PathConfig{{Exact: "/healthz"}, {Exact: "/readyz/"}}, Methods: []string{"GET", "HEAD"}}},
		RouteConfig{Name: "assets", Public: true, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/public"}}}},
		RouteConfig{Name: "ext", Match: MatchConfig{ContextExtensions: map[string]string{"policy": "admin"}}},
		RouteConfig{Name: "admin", Match: MatchConfig{Paths: []PathConfig{{Exact: "/admin"}, {Prefix: "/admin/x"}}}},
		RouteConfig{Name: "user", Match: MatchConfig{Paths: []PathConfig{{Template: "/users/{id}"}}, Methods: []string{"GET"}}},
		RouteConfig{Name: "files", Match: MatchConfig{Paths: []PathConfig{{Template: "/users/{id}/files/{rest...}"}}}},
		RouteConfig{Name: "canary", Match: MatchConfig{Headers: map[string]string{"x-canary": "1"}, Paths: []PathConfig{{Prefix: "/v1"}}}},
		RouteConfig{Name: "one-host", Match: MatchConfig{Hosts: []string{"API.example"}, Paths: []PathConfig{{Prefix: "/v1"}}}},
		RouteConfig{Name: "below", Match: MatchConfig{Hosts: []string{"*.example", "[::1]"}, Paths: []PathConfig{{Prefix: "/v1"}}}},
	)
	for _, tt := range []struct {
		method, host, path string
		want               string
		headers, ext       []authz.Header
	}{
		{"GET", "h", "/healthz", "health", nil, nil},
		{"GET", "h", "/healthz?x=1", "health", nil, nil},
		{"POST", "h", "/healthz", "none", nil, nil},
		{"get", "h", "/healthz", "malformed_request", nil, nil},
		{"", "h", "/healthz", "malformed_request", nil, nil},
		{"GET", "h", "/healthz/", "none", nil, nil}, // public: exactly
		{"GET", "h", "/readyz", "none", nil, nil},
		{"GET", "h", "/readyz/", "health", nil, nil},
		{"GET", "h", "/Healthz", "none", nil, nil},
		{"GET", "h", "/public", "assets", nil, nil},
		{"GET", "h", "/public/", "assets", nil, nil},
		{"GET", "h", "/public/a/b.png", "assets", nil, nil},
		{"GET", "h", "/public/%61", "assets", nil, nil},
		{"GET", "h", "/publicx", "none", nil, nil},
		{"GET", "h", "/public/../admin", "malformed_request", nil, nil},
		{"GET", "h", "/public/%2e%2e/admin", "malformed_request", nil, nil},
		{"GET", "h", "/public//x", "malformed_request", nil, nil},
		{"GET", "h", "/public%2fx", "malformed_request", nil, nil},
		{"GET", "h", "/public;x", "malformed_request", nil, nil},
		{"GET", "h", "/x//public", "none", nil, nil}, // no reading is public
		{"GET", "h", "/admin", "admin", nil, nil},
		{"GET", "h", "/admin/", "admin", nil, nil}, // protected: a slash does not evade it
		{"GET", "h", "/admin;jsessionid=1", "malformed_request", nil, nil},
		{"GET", "h", "/admin/x//y", "admin", nil, nil}, // every reading is admin's
		{"GET", "h", "/admin/x/a%2fb", "admin", nil, nil},
		{"GET", "h", "/admin/x/a%2f..%2fb", "malformed_request", nil, nil},
		{"GET", "h", "/admin", "ext", nil, []authz.Header{{Name: "policy", Value: "admin"}}},
		{"GET", "h", "/a/../b", "malformed_request", nil, []authz.Header{{Name: "policy", Value: "admin"}}}, // "assets" comes before
		{"GET", "h", "/admin", "admin", nil, []authz.Header{{Name: "policy", Value: "other"}}},
		{"GET", "h", "/users/7", "user", nil, nil},
		{"GET", "h", "/users/7/", "user", nil, nil},
		{"GET", "h", "/users/", "none", nil, nil},
		{"GET", "h", "/users", "none", nil, nil},
		{"GET", "h", "/users/7/8", "none", nil, nil},
		{"DELETE", "h", "/users/7", "none", nil, nil},
		{"GET", "h", "/users/7/files", "files", nil, nil},
		{"GET", "h", "/users/7/files/a/b/c", "files", nil, nil},
		{"GET", "h", "/v1", "none", nil, nil},
		{"GET", "h", "/v1", "canary", []authz.Header{{Name: "x-canary", Value: "1"}}, nil},
		{"GET", "h", "/v1", "none", []authz.Header{{Name: "x-canary", Value: "1"}, {Name: "x-canary", Value: "1"}}, nil},
		{"GET", "api.example", "/v1/x", "one-host", nil, nil},
		{"GET", "API.EXAMPLE.:8080", "/v1/x", "one-host", nil, nil},
		{"GET", "b.api.example", "/v1/x", "below", nil, nil},
		{"GET", "example", "/v1/x", "none", nil, nil},
		{"GET", "xexample", "/v1/x", "none", nil, nil},
		{"GET", "[0::1]:80", "/v1", "below", nil, nil},
		{"GET", "", "/v1", "malformed_request", nil, nil},
		{"GET", "a.example@evil", "/v1", "malformed_request", nil, nil},
		{"GET", "", "/other", "none", nil, nil}, // whatever the host
		{"OPTIONS", "h", "*", "malformed_request", nil, nil},
		{"CONNECT", "h", "", "malformed_request", nil, nil},
		{"GET", "h", "http://h/healthz", "malformed_request", nil, nil},
	} {
		req := &authz.Request{Method: tt.method, Host: tt.host, Path: tt.path, Headers: tt.headers, ContextExtensions: tt.ext}
		assert.Equalf(t, tt.want, chosen(p, req), "%s %s %s %v %v", tt.method, tt.host, tt.path, tt.headers, tt.ext)
	}
}

// A route without paths matches even if the path is unclear, unless an earlier route
// depends on the path.
func TestUnclearPathNeedsNoPathRule(t *testing.T) {
	t.Parallel()
	p := mustPolicy(t,
		RouteConfig{Name: "host", Match: MatchConfig{Hosts: []string{"api.example"}}},
		RouteConfig{Name: "public", Public: true, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/public"}}}},
		RouteConfig{Name: "rest"},
	)
	for host, want := range map[string]string{"api.example": "host", "other": "malformed_request", "": "malformed_request"} {
		assert.Equalf(t, want, chosen(p, &authz.Request{Host: host, Path: "/public/../x"}), "host %q", host)
	}
}

// The index must find the same route as trying all routes in order.
func TestIndexEqualsScan(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	segs := []string{"a", "b", "c", "{x}"}
	hosts := []string{"h", "a.h", "b.a.h"}
	pick := func(s []string) string { return s[rng.IntN(len(s))] }
	path := func(wild bool) string {
		var b strings.Builder
		used := false
		for range rng.IntN(4) {
			s := pick(segs)
			if s == "{x}" && (!wild || used) {
				s = "a"
			}
			used = used || s == "{x}"
			b.WriteString("/" + s)
		}
		if b.Len() == 0 {
			return "/"
		}
		if rng.IntN(4) == 0 {
			b.WriteString("/")
		}
		return b.String()
	}
	for round := range 300 {
		var routes []*Route
		for i := range 1 + rng.IntN(12) {
			cfg := RouteConfig{Name: fmt.Sprint("r", i), Public: rng.IntN(3) == 0}
			for range rng.IntN(3) {
				cfg.Match.Paths = append(cfg.Match.Paths, []PathConfig{{Exact: path(false)}, {Prefix: path(false)}, {Template: path(true)}}[rng.IntN(3)])
			}
			if rng.IntN(2) == 0 {
				cfg.Match.Hosts = []string{[]string{"h", "a.h", "*.h", "*.a.h"}[rng.IntN(4)]}
			}
			if rng.IntN(3) == 0 {
				cfg.Match.Methods = []string{pick([]string{"GET", "PUT"})}
			}
			if rng.IntN(4) == 0 {
				cfg.Match.ContextExtensions = map[string]string{"p": "1"}
			}
			routes = append(routes, cfg.compile(i, Options{}, func(p, f string, args ...any) { t.Fatalf(p+": "+f, args...) }))
		}
		p := New(routes...)
		for range 60 {
			req := &authz.Request{Method: pick([]string{"GET", "PUT", "POST"}), Host: pick(hosts), Path: path(false)}
			if rng.IntN(2) == 0 {
				req.ContextExtensions = []authz.Header{{Name: "p", Value: "1"}}
			}
			tg := target{req: req, method: true, hostOK: true, host: req.Host, path: readPath(req.Path)}
			want := "none"
			for _, r := range routes {
				if r.test(&tg) == matchYes {
					want = r.Name
					break
				}
			}
			got := chosen(p, req)
			require.Equalf(t, want, got, "round %d: %+v: the index found %s", round, req, got)
		}
	}
}

func TestInvalidRoutes(t *testing.T) {
	t.Parallel()
	path := func(p string) MatchConfig { return MatchConfig{Paths: []PathConfig{{Prefix: p}}} }
	for name, tt := range map[string]struct {
		routes []RouteConfig
		want   []string // "path: part of the message"
	}{
		"name":                  {[]RouteConfig{{Name: "a b", Match: path("/x")}}, []string{"[0].name: letters, digits"}},
		"duplicate name":        {[]RouteConfig{{Name: "a", Match: path("/x")}, {Name: "a", Match: path("/y")}}, []string{"[1].name: duplicate name"}},
		"public with rules":     {[]RouteConfig{{Public: true, Scopes: []string{"x"}, Require: "mtls", Allow: []string{"true"}, OnRevocationUnknown: "allow", EndStreams: true}}, []string{"[0].end_streams: a public", "[0].scopes: public route ignores tokens", "[0].allow: ", "[0].on_revocation_unknown: ", "[0].require: a public", "[0].require: not configured"}},
		"public by header":      {[]RouteConfig{{Public: true, Match: MatchConfig{Headers: map[string]string{"x": "y"}}}}, []string{"[0].match.headers: clients choose"}},
		"header case":           {[]RouteConfig{{Match: MatchConfig{Headers: map[string]string{"X": "y"}}}}, []string{"[0].match.headers.X: lower case"}},
		"host":                  {[]RouteConfig{{Match: MatchConfig{Hosts: []string{"a:80", "*a", "*.", "a/b", "*.10.0.0.1", "ä.example", ""}}}}, []string{"hosts[0]: port", "hosts[1]: whole labels", "hosts[2]: ", "hosts[3]: ", "hosts[4]: address", "hosts[5]: xn--", "hosts[6]: "}},
		"path":                  {[]RouteConfig{{Match: MatchConfig{Paths: []PathConfig{{}, {Exact: "/a", Prefix: "/b"}, {Exact: "a"}, {Prefix: "/a/../b"}, {Exact: "/a?b"}, {Template: "/{a}/{a}"}, {Template: "/x{a}"}, {Template: "/{a...}/b"}, {Template: "/{}"}, {Prefix: "/a//b"}}}}}, []string{"paths[0]: exactly one", "paths[1]: exactly one", "paths[2].exact: ", "paths[3].prefix: dot", "paths[4].exact: query", "paths[5].template: duplicate", "paths[6].template: whole segment", "paths[7].template: only the last", "paths[8].template: ", "paths[9].prefix: empty"}},
		"method":                {[]RouteConfig{{Match: MatchConfig{Methods: []string{"get"}}}}, []string{"[0].match.methods[0]: upper case"}},
		"scope":                 {[]RouteConfig{{Scopes: []string{"a b", "x", "x"}}}, []string{"[0].scopes[0]: invalid", "[0].scopes[2]: duplicate"}},
		"issuer":                {[]RouteConfig{{Issuers: []string{"https://other"}}}, []string{"[0].issuers[0]: unknown issuer"}},
		"on_revocation_unknown": {[]RouteConfig{{OnRevocationUnknown: "maybe"}}, []string{"[0].on_revocation_unknown: deny or allow"}},
		"require":               {[]RouteConfig{{Require: "magic"}}, []string{"[0].require: any, dpop or mtls"}},
		"introspection":         {[]RouteConfig{{Introspection: "x"}}, []string{"[0].introspection: unknown introspection"}},
		"credentials":           {[]RouteConfig{{Credentials: CredentialsConfig{Cookies: []string{"a b"}, Queries: []string{"a&b"}}}}, []string{"cookies[0]: ", "queries[0]: "}},
		"credential headers":    {[]RouteConfig{{Credentials: CredentialsConfig{Headers: []string{":path", "Host", "authorization", "x-a", "X-A", "x y", "cookie"}}}}, []string{"headers[0]: invalid", "headers[1]: another meaning", "headers[2]: always read", "headers[4]: duplicate", "headers[5]: invalid", "headers[6]: with cookies"}},
		"remove without header": {[]RouteConfig{{Credentials: CredentialsConfig{RemoveHeaders: true}}}, []string{"remove_headers: no effect"}},
		"public with header":    {[]RouteConfig{{Public: true, Credentials: CredentialsConfig{Headers: []string{"x-a"}}}}, []string{"[0].credentials: public route ignores"}},
		"syntax":                {[]RouteConfig{{Name: "r", Allow: []string{"token.sub ==\n  'x' &&"}}}, []string{"[0].allow[0]: route r: line 2, column"}},
		"type":                  {[]RouteConfig{{Allow: []string{"'yes'"}}}, []string{"[0].allow[0]: must yield a bool, not string"}},
		"any type":              {[]RouteConfig{{Allow: []string{"token.verified"}}}, []string{"[0].allow[0]: == true"}},
		"undeclared":            {[]RouteConfig{{Allow: []string{"request.body == ''"}}}, []string{"[0].allow[0]: undeclared reference"}},
		"wrong type":            {[]RouteConfig{{Allow: []string{"request.path > 3"}}}, []string{"[0].allow[0]: no matching overload"}},
		"shadowed":              {[]RouteConfig{{Name: "all"}, {Name: "late", Match: path("/x")}}, []string{`[1].match: route "late" can never match, because route "all"`}},
		"shadowed prefix":       {[]RouteConfig{{Name: "v1", Match: path("/v1")}, {Name: "late", Match: MatchConfig{Paths: []PathConfig{{Template: "/v1/{x}"}, {Exact: "/v1"}}, Methods: []string{"GET"}}}}, []string{"[1].match: never match"}},
		"shadowed host":         {[]RouteConfig{{Name: "w", Match: MatchConfig{Hosts: []string{"*.example"}}}, {Name: "late", Match: MatchConfig{Hosts: []string{"a.example", "*.b.example"}}}}, []string{"[1].match: never match"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			ValidateRoutes(tt.routes, Options{Issuers: []string{"https://issuer"}}, func(path, format string, args ...any) {
				got = append(got, path+": "+fmt.Sprintf(format, args...))
			}, nil)
			for _, want := range tt.want {
				where, what, _ := strings.Cut(want, ": ")
				found := false
				for _, g := range got {
					p, msg, _ := strings.Cut(g, ": ")
					found = found || strings.HasSuffix(p, where) && strings.Contains(msg, what)
				}
				assert.Truef(t, found, "no error like %q among %q", want, got)
			}
			assert.Len(t, got, len(tt.want), "errors")
			_, err := Compile(tt.routes, Options{Issuers: []string{"https://issuer"}})
			assert.Error(t, err, "Compile accepted it")
		})
	}
}

// A pattern in the language of another system is an error that names the right word:
// it would never match, and a laxer route would decide.
func TestForeignPatterns(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"/admin/*": "prefix: /admin,", "/admin/**": "prefix: /admin,", "/admin*": "prefix: /admin,", "/a/b/c*": "prefix: /a/b/c,", "/*": "prefix: /,", "/**": "prefix: /,",
		"/*/admin": "{id}", "/**/admin": "{rest...}", "/users/*/files": "{id}", "/a*b": "part of a segment", "/x/*.js": "part of a segment", "/admin/.*": "%2A", "/admin(.*)": "%2A",
		"/users/:id": "{id}", "/users/:user_id/files": "{user_id}", "/users/:id.json": "{id}", "/users/<id>": "{id}", "/users/<int:id>": "{id}", "/users/<id:int>": "{int}",
		"/users/{id:[0-9]+}": "{id}", "/users/{id=*}": "{id}", "/users/{id:int}": "{id}", "/files/{path:.*}": "{path}", "/files/{path=**}": "{path}", "/files/{*path}": "{path...}",
		"/files/{path*}": "{path...}", "/files/{path+}": "{path...}", "/files/{+path}": "{path...}", "/users/{id?}": "two entries", "/users/{}": "{id}", "/users/${id}": "whole segment",
		"/users/{{id}}": "whole segment", "/users/v{id}": "whole segment", "/users/{id}.json": "whole segment", "/users/[id]": "regular expression", "/files/[...path]": "regular expression",
		"^/admin": "begin with a slash", "~ /admin": "begin with a slash", "~*^/admin": "begin with a slash", "=/admin": "begin with a slash", "/admin$": "%24", "/^admin": "%5E",
		"/(admin|root)": "%28", "/admin|/root": "%7C", "/admin/.+": "%2B", "/admin/+": "{id}", "/v[12]/x": "%5B", `/v\d/x`: "regular expression", "/admin/?": "two entries", "/admin?x=1": "query", "/admin#x": "fragment",
		"admin": "begin with a slash", "*": "begin with a slash", ":id": "begin with a slash", "https://h/admin": "hosts", "//admin": "single slash", "/a//b": "empty", "/a/../b": "dot", "/a/./b": "dot",
		"/a%2Fb": "encoded slash", "/a;b": "parameters", "/a b": "spaces", "/a%3Fb": "delimiter", "/a%zz": "escape", "/caf\u00e9": "ASCII", "/a%2541": "twice",
	} {
		for _, kind := range []string{"exact", "prefix", "template"} {
			config := map[string]PathConfig{"exact": {Exact: text}, "prefix": {Prefix: text}, "template": {Template: text}}[kind]
			_, err := Compile([]RouteConfig{{Match: MatchConfig{Paths: []PathConfig{config}}}, {Name: "rest"}}, Options{})
			if assert.Errorf(t, err, "%s: %s", kind, text) {
				assert.Containsf(t, err.Error(), want, "%s: %s", kind, text)
				assert.Containsf(t, err.Error(), "match.paths[0]."+kind+": ", "%s: %s", kind, text)
			}
		}
	}
	for _, config := range []PathConfig{{Exact: "/users/{id}"}, {Prefix: "/users/{id}"}, {Prefix: "/files/{rest...}"}} {
		_, err := Compile([]RouteConfig{{Match: MatchConfig{Paths: []PathConfig{config}}}}, Options{})
		if assert.Errorf(t, err, "%+v", config) {
			assert.Contains(t, err.Error(), "template: "+config.Exact+config.Prefix)
		}
	}
	for host, want := range map[string]string{
		"*": "leave hosts out", ".example.com": "*.example.com", "api.*": "*.example.com", "**.example.com": "*.example.com", "a-*.example.com": "*.example.com", "*.*.example.com": "*.example.com",
		"*example.com": "*.example.com", "{tenant}.example.com": "*.example.com", `^api\.example$`: "*.example.com", "~^api": "*.example.com", "https://api.example": "without scheme", "api.example/v1": "without scheme",
		"api.example:*": "*.example.com", "api.example:8080": "port", ":tenant.example.com": "port",
	} {
		_, err := Compile([]RouteConfig{{Match: MatchConfig{Hosts: []string{host}}}}, Options{})
		if assert.Errorf(t, err, "%s", host) {
			assert.Containsf(t, err.Error(), want, "%s", host)
		}
	}
	for method, want := range map[string]string{"*": "leave methods out", "ANY": "leave methods out", "ALL": "leave methods out", "GET|POST": "[GET, POST]", "GET,POST": "[GET, POST]", "GET POST": "[GET, POST]", "get": "upper case", "^GET$": "upper case", "": "upper case"} {
		_, err := Compile([]RouteConfig{{Match: MatchConfig{Methods: []string{method}}}}, Options{})
		if assert.Errorf(t, err, "%q", method) {
			assert.Containsf(t, err.Error(), want, "%q", method)
		}
	}
	_, err := Compile([]RouteConfig{{Match: MatchConfig{Headers: map[string]string{"host": "a.example"}}}}, Options{})
	assert.ErrorContains(t, err, "match.hosts")
}

// Every path can be written: what other systems give a meaning is percent-encoded, and
// what is common in paths needs no escape.
func TestLiteralCharacters(t *testing.T) {
	t.Parallel()
	for pattern, path := range map[string]string{
		"/a/%2A": "/a/*", "/%3Aid": "/:id", "/wiki/Foo_%28bar%29": "/wiki/Foo_(bar)", "/a%5B1%5D": "/a[1]", "/%7Bid%7D": "/{id}", "/%3Cid%3E": "/<id>", "/%2B": "/+", "/admin%24": "/admin$", "/a%7Cb": "/a|b",
		"/$metadata": "/$metadata", "/v1/users:batchGet": "/v1/users:batchGet", "/@scope/pkg": "/@scope/pkg", "/~user": "/~user", "/c++": "/c++", "/a,b": "/a,b", "/.well-known/x": "/.well-known/x", "/a.b-c_d!e'f&g=h": "/a.b-c_d!e'f&g=h",
		"/caf%C3%A9": "/caf%c3%a9", "/a%20b": "/a%20b", "/100%25": "/100%25",
	} {
		for _, config := range []PathConfig{{Exact: pattern}, {Prefix: pattern}, {Template: pattern}} {
			p := mustPolicy(t, RouteConfig{Name: "literal", Match: MatchConfig{Paths: []PathConfig{config}}}, RouteConfig{Name: "rest"})
			assert.Equalf(t, "literal", chosen(p, &authz.Request{Path: path}), "%+v", config)
			assert.Equalf(t, "rest", chosen(p, &authz.Request{Path: "/other"}), "%+v", config)
		}
	}
}

func TestNotShadowed(t *testing.T) {
	t.Parallel()
	mustPolicy(t,
		RouteConfig{Name: "a", Match: MatchConfig{Paths: []PathConfig{{Template: "/v1/{x}"}}}},
		RouteConfig{Name: "b", Match: MatchConfig{Paths: []PathConfig{{Prefix: "/v1"}}}},
		RouteConfig{Name: "c", Match: MatchConfig{Hosts: []string{"*.example"}, Methods: []string{"GET"}}},
		RouteConfig{Name: "d", Match: MatchConfig{Hosts: []string{"example"}, Methods: []string{"GET"}}},
		RouteConfig{Name: "e", Match: MatchConfig{Hosts: []string{"*.example"}}},
		RouteConfig{Name: "f", Public: true, Match: MatchConfig{Paths: []PathConfig{{Exact: "/x"}}}},
		RouteConfig{Name: "g", Match: MatchConfig{Paths: []PathConfig{{Exact: "/x"}}}}, // also takes /x/
		RouteConfig{Name: "h", Match: MatchConfig{ContextExtensions: map[string]string{"p": "1"}}},
		RouteConfig{Name: "i"},
	)
}

func testToken() *authz.Token {
	t := &authz.Token{
		Raw: "a.b.c", Issuer: "https://issuer", Subject: "alice", Audience: []string{"api"}, Scopes: []string{"read", "write"},
		Accepted: true, Expires: 4102444800,
		Claims: map[string]any{"sub": "alice", "groups": []any{"dev", "ops"}, "org": map[string]any{"id": "7"}},
	}
	t.SetKeys()
	return t
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	foreign := testToken()
	foreign.Accepted, foreign.Audience = false, []string{"billing"}
	for name, tt := range map[string]struct {
		route RouteConfig
		token *authz.Token
		want  authz.Reason
	}{
		"no rules":                    {RouteConfig{}, testToken(), authz.ReasonAllowed},
		"issuer's audience":           {RouteConfig{}, foreign, authz.ReasonWrongAudience},
		"route's audience":            {RouteConfig{Audiences: []string{"billing"}}, foreign, authz.ReasonAllowed},
		"route's audience instead":    {RouteConfig{Audiences: []string{"billing"}}, testToken(), authz.ReasonWrongAudience},
		"issuer":                      {RouteConfig{Issuers: []string{"https://issuer"}}, testToken(), authz.ReasonAllowed},
		"other issuer":                {RouteConfig{Issuers: []string{"https://second"}}, testToken(), authz.ReasonUnknownIssuer},
		"scopes":                      {RouteConfig{Scopes: []string{"read", "write"}}, testToken(), authz.ReasonAllowed},
		"scope missing":               {RouteConfig{Scopes: []string{"read", "admin"}}, testToken(), authz.ReasonInsufficientScope},
		"any scope":                   {RouteConfig{AnyScopes: []string{"admin", "read"}}, testToken(), authz.ReasonAllowed},
		"any scope missing":           {RouteConfig{AnyScopes: []string{"admin", "root"}}, testToken(), authz.ReasonInsufficientScope},
		"cel":                         {RouteConfig{Allow: []string{"token.sub == 'alice' && 'dev' in token.groups && token.org.id == '7'"}}, testToken(), authz.ReasonAllowed},
		"cel false":                   {RouteConfig{Allow: []string{"true", "token.sub == 'bob'"}}, testToken(), authz.ReasonPolicyDenied},
		"cel error":                   {RouteConfig{Allow: []string{"token.missing == 'x'"}}, testToken(), authz.ReasonPolicyDenied},
		"audience before scope":       {RouteConfig{Scopes: []string{"admin"}}, foreign, authz.ReasonWrongAudience},
		"bound only, not configured ": {RouteConfig{}, &authz.Token{Accepted: true, Claims: map[string]any{"cnf": map[string]any{"jkt": "x"}}}, authz.ReasonBindingMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Compile([]RouteConfig{tt.route}, Options{Issuers: []string{"https://issuer", "https://second"}})
			require.NoError(t, err)
			got := authz.ReasonAllowed
			if fail := p.Routes()[0].Admit(context.Background(), &authz.Request{Path: "/x"}, authz.Credential{Raw: tt.token.Raw, Scheme: "bearer"}, tt.token, time.Unix(1000, 0)); fail != nil {
				got = fail.Reason
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

// A route names an issuer of many tenants by its template, or one tenant.
func TestRouteForTenants(t *testing.T) {
	t.Parallel()
	const anyone, listed = "https://any.test/{tenantid}/v2.0", "https://list.test/{tenantid}/v2.0"
	options := Options{
		Issuers:   []string{"https://list.test/red/v2.0", "https://list.test/green/v2.0"}, // green has an entry of its own
		Templates: map[string][]string{anyone: nil, listed: {"https://list.test/red/v2.0"}},
	}
	get := MatchConfig{Methods: []string{"GET"}}
	for name, accepted := range map[string]map[string]bool{
		anyone:                         {"https://any.test/red/v2.0": true, "https://any.test/a/b/v2.0": false, "https://list.test/red/v2.0": false},
		"https://any.test/blue/v2.0":   {"https://any.test/blue/v2.0": true, "https://any.test/red/v2.0": false},
		listed:                         {"https://list.test/red/v2.0": true, "https://list.test/green/v2.0": false, "https://list.test/blue/v2.0": false},
		"https://list.test/green/v2.0": {"https://list.test/green/v2.0": true, "https://list.test/red/v2.0": false},
	} {
		p, err := Compile([]RouteConfig{{Issuers: []string{name}, Match: get}}, options)
		require.NoError(t, err, name)
		for iss, want := range accepted {
			require.Equal(t, want, p.routes[0].checkIssuer(&authz.Token{Issuer: iss}) == nil, "%s: %s", name, iss)
		}
	}
	_, err := Compile([]RouteConfig{{Issuers: []string{"https://other.test"}}}, Options{Templates: map[string][]string{anyone: nil}})
	require.ErrorContains(t, err, "unknown issuer", "there are no other issuers")
	for _, name := range []string{"https://any.test/a/b/v2.0", "https://list.test/blue/v2.0", "https://other.test/{tenantid}"} {
		_, err := Compile([]RouteConfig{{Issuers: []string{name}}}, options)
		require.ErrorContains(t, err, "unknown issuer", name)
	}
}
