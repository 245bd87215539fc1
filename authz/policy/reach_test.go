package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func warnings(t *testing.T, routes ...RouteConfig) []string {
	t.Helper()
	var got []string
	mustPolicy(t, routes...).Warnings(func(path, format string, args ...any) { got = append(got, path+": "+fmt.Sprintf(format, args...)) })
	return got
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	paths := func(list ...PathConfig) MatchConfig { return MatchConfig{Paths: list} }
	with := func(m MatchConfig, methods ...string) MatchConfig { m.Methods = methods; return m }
	scopes := []string{"admin"}
	for name, tt := range map[string]struct {
		routes []RouteConfig
		want   []string
	}{
		"none": {[]RouteConfig{{Name: "a", Match: paths(PathConfig{Exact: "/healthz"}), Public: true}, {Name: "b", Match: paths(PathConfig{Prefix: "/admin"}), Scopes: scopes}, {Name: "rest"}}, nil},
		"two routes together": {[]RouteConfig{
			{Name: "read", Match: MatchConfig{Methods: []string{"GET"}}},
			{Name: "write", Match: MatchConfig{Methods: []string{"PUT"}}},
			{Name: "late", Match: MatchConfig{Hosts: []string{"a.example"}, Methods: []string{"GET", "PUT"}}},
		}, []string{"[2].match: "}},
		"two routes, not quite": {[]RouteConfig{
			{Name: "a", Match: MatchConfig{Hosts: []string{"*.example"}, Methods: []string{"GET"}}},
			{Name: "b", Match: MatchConfig{Hosts: []string{"*.example"}, Methods: []string{"PUT"}}},
			{Name: "c", Match: MatchConfig{Hosts: []string{"*.example"}}},
		}, nil},
		"templates together": {[]RouteConfig{
			{Name: "a", Match: with(paths(PathConfig{Template: "/{x}/b"}), "GET")},
			{Name: "b", Match: with(paths(PathConfig{Template: "/a/{x}"}), "GET")},
			{Name: "c", Match: with(paths(PathConfig{Exact: "/a/b"}, PathConfig{Exact: "/c/c"}), "GET")},
		}, []string{"[2].match.paths[0]: no request reaches this entry"}},
		"methods": {[]RouteConfig{
			{Name: "a", Match: with(paths(PathConfig{Prefix: "/a"}), "GET")},
			{Name: "b", Match: with(paths(PathConfig{Exact: "/a/x"}), "GET", "PUT")},
		}, []string{"[1].match.methods[0]: no request reaches this entry"}},
		"hosts": {[]RouteConfig{
			{Name: "a", Match: MatchConfig{Hosts: []string{"*.example"}}},
			{Name: "b", Match: MatchConfig{Hosts: []string{"a.example", "b.other"}}},
		}, []string{"[1].match.hosts[0]: no request reaches this entry"}},
		"scope evaded": {[]RouteConfig{
			{Name: "read", Match: with(paths(PathConfig{Prefix: "/api"}), "GET")},
			{Name: "admin", Match: paths(PathConfig{Prefix: "/api/admin"}), Scopes: scopes},
		}, []string{`[1].match.paths[0]: route "admin" needs scopes, but GET requests match the earlier route "read"`}},
		"scope evaded on a host": {[]RouteConfig{
			{Name: "open", Match: MatchConfig{Hosts: []string{"a.example"}}},
			{Name: "admin", Match: paths(PathConfig{Prefix: "/admin"}), AnyScopes: scopes},
		}, []string{"requests to host a.example match the earlier route \"open\""}},
		"an exception for the same path":   {[]RouteConfig{{Name: "read", Match: with(paths(PathConfig{Prefix: "/orders"}), "GET")}, {Name: "write", Match: paths(PathConfig{Prefix: "/orders"}), Scopes: scopes}}, nil},
		"an exception for a narrow path":   {[]RouteConfig{{Name: "one", Match: paths(PathConfig{Exact: "/orders/open"})}, {Name: "orders", Match: paths(PathConfig{Prefix: "/orders"}), Scopes: scopes}}, nil},
		"another scope":                    {[]RouteConfig{{Name: "read", Match: with(paths(PathConfig{Prefix: "/api"}), "GET"), Scopes: []string{"read"}}, {Name: "admin", Match: paths(PathConfig{Prefix: "/api/admin"}), Scopes: scopes}}, nil},
		"extensions are chosen on purpose": {[]RouteConfig{{Name: "ext", Match: MatchConfig{ContextExtensions: map[string]string{"p": "1"}}}, {Name: "admin", Match: paths(PathConfig{Prefix: "/admin"}), Scopes: scopes}}, nil},
		"strict slash":                     {[]RouteConfig{{Name: "a", Public: true, Match: paths(PathConfig{Exact: "/a"})}, {Name: "b", Public: true, Match: paths(PathConfig{Exact: "/a/"})}, {Name: "c", Match: with(paths(PathConfig{Exact: "/a"}), "GET")}}, []string{"[2].match: no request reaches route"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := warnings(t, tt.routes...)
			if len(tt.want) == 0 {
				assert.Empty(t, got)
			}
			for _, want := range tt.want {
				assert.Truef(t, slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, want) }), "no warning %q in %q", want, got)
			}
		})
	}
}

// No request reaches an entry that is reported, and some request reaches every other:
// random requests are decided alike.
func TestWarningsAreExact(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 8))
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	reported, silent := 0, 0
	for range 2000 {
		var configs []RouteConfig
		for i := range 2 + rng.IntN(5) {
			c := RouteConfig{Name: fmt.Sprint("r", i), Public: rng.IntN(3) == 0}
			for range rng.IntN(3) {
				text := pick("", "/a", "/b", "/{x}") + pick("/a", "/b", "/{y}")
				c.Match.Paths = append(c.Match.Paths, []PathConfig{{Template: text}, {Template: text + "/"}, {Template: text + "/{rest...}"}}[rng.IntN(3)])
			}
			if rng.IntN(3) == 0 {
				c.Match.Hosts = []string{pick("h", "a.h", "*.h", "*.a.h")}
			}
			if rng.IntN(2) == 0 {
				c.Match.Methods = [][]string{{"GET"}, {"PUT"}, {"GET", "PUT"}}[rng.IntN(3)]
			}
			if rng.IntN(4) == 0 {
				c.Match.ContextExtensions = map[string]string{"p": pick("1", "2")}
			}
			configs = append(configs, c)
		}
		p, err := Compile(configs, Options{})
		if err != nil {
			continue // a route that one other covers
		}
		unreachable := map[string]bool{}
		p.Warnings(func(path, format string, args ...any) { unreachable[path] = true })
		reached := map[string]bool{}
		for _, method := range []string{"GET", "PUT", "POST"} {
			for _, host := range []string{"h", "a.h", "x.h", "y.a.h", "other"} {
				for _, first := range []string{"", "/a", "/b", "/c"} {
					for _, second := range []string{"", "/a", "/b", "/c"} {
						for _, third := range []string{"", "/a", "/c/d"} {
							for _, slash := range []string{"", "/"} {
								for _, ext := range []string{"", "1", "2"} {
									path := first + second + third + slash
									if path == "" {
										continue
									}
									req := &authz.Request{Method: method, Host: host, Path: path}
									if ext != "" {
										req.ContextExtensions = []authz.Header{{Name: "p", Value: ext}}
									}
									reached[chosen(p, req)] = true
								}
							}
						}
					}
				}
			}
		}
		for i, r := range p.Routes() {
			got := unreachable[authz.ItemPath("", i)+".match"]
			require.Equalf(t, !reached[r.Name], got, "route %s of %+v", r.Name, configs)
			if got {
				reported++
			} else {
				silent++
			}
		}
	}
	assert.Greater(t, reported, 5)
	assert.Greater(t, silent, 100)
}
