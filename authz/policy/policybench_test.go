package policy

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// The time to find a route must not grow with the number of routes.
func BenchmarkMatch(b *testing.B) {
	b.Run("no routes", func(b *testing.B) {
		benchMatch(b, mustPolicy(b), &authz.Request{Method: "GET", Host: "api.example", Path: "/v1/orders/7?x=y"})
	})
	for _, n := range []int{1, 10, 100, 1000} {
		var routes []RouteConfig
		for i := range n {
			routes = append(routes, RouteConfig{Name: fmt.Sprint("r", i), Match: MatchConfig{
				Hosts: []string{"api.example"}, Methods: []string{"GET"}, Paths: []PathConfig{{Template: fmt.Sprintf("/v1/service-%d/{id}", i)}, {Prefix: fmt.Sprintf("/v2/service-%d", i)}}}})
		}
		p := mustPolicy(b, routes...)
		for name, path := range map[string]string{"hit": fmt.Sprintf("/v1/service-%d/7?x=y", n-1), "prefix": fmt.Sprintf("/v2/service-%d/a/b", n-1), "miss": "/v3/none"} {
			b.Run(fmt.Sprintf("%s of %d", name, n), func(b *testing.B) {
				benchMatch(b, p, &authz.Request{Method: "GET", Host: "API.example:443", Path: path})
			})
		}
	}
}

func benchMatch(b *testing.B, p *Policy, req *authz.Request) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.Match(req)
	}
}

func BenchmarkAdmit(b *testing.B) {
	for name, c := range map[string]RouteConfig{
		"no rules": {}, "scopes": {Scopes: []string{"read"}},
		"claim":   {Allow: []string{"token.sub == 'alice'"}},
		"list":    {Allow: []string{"'dev' in token.groups"}},
		"path":    {Allow: []string{"request.path.startsWith('/v1/')"}},
		"network": {Allow: []string{"cidr('10.0.0.0/8').containsIP(source.address)"}},
	} {
		b.Run(name, func(b *testing.B) {
			r := mustPolicy(b, c).Routes()[0]
			req := &authz.Request{Method: "GET", Host: "api.example", Path: "/v1/orders", Source: authz.Peer{Address: "10.1.2.3"}}
			t, cred, now := testToken(), authz.Credential{Raw: "a.b.c", Scheme: "bearer"}, time.Unix(1000, 0)
			b.ReportAllocs()
			for b.Loop() {
				if fail := r.Admit(context.Background(), req, cred, t, now); fail != nil {
					b.Fatal(fail)
				}
			}
		})
	}
}

// Matching and admitting a request without an expression allocates nothing.
func TestMatchAllocatesNothing(t *testing.T) {
	p := mustPolicy(t, RouteConfig{Name: "a", Match: MatchConfig{Hosts: []string{"*.example"}, Paths: []PathConfig{{Template: "/v1/{id}"}}, Methods: []string{"GET"}}}, RouteConfig{Name: "rest"})
	def := mustPolicy(t)
	req := &authz.Request{Method: "GET", Host: "api.example:443", Path: "/v1/7?x=y", Headers: []authz.Header{{Name: "authorization", Value: "Bearer a.b.c"}}}
	token := testToken()
	n := testing.AllocsPerRun(100, func() {
		for _, p := range []*Policy{p, def} {
			r, fail := p.Match(req)
			require.Nil(t, fail, "no match")
			require.NotNil(t, r, "no match")
			cred, fail := r.Find(req)
			require.Nil(t, fail)
			require.Nil(t, r.Admit(context.Background(), req, cred, token, time.Time{}))
		}
	})
	assert.Zero(t, n, "allocations")
}
