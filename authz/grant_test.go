package authz_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
)

// granting is an Authorizer with a route that ends streams, and its collaborators.
type granting struct {
	authorizer *authz.Authorizer
	verifier   *fakeVerifier
	in         *fakeIntrospector
	tier       *fakeTier
}

func newGranting(t *testing.T, route policy.RouteConfig) *granting {
	t.Helper()
	g := &granting{verifier: &fakeVerifier{token: goodToken(), current: func(*authz.Token, int64) bool { return true }}, in: &fakeIntrospector{token: goodToken()}, tier: &fakeTier{verdict: authz.NotRevoked}}
	route.Name = "route"
	p, err := policy.Compile([]policy.RouteConfig{route}, policy.Options{Introspectors: map[string]authz.Introspector{"as": g.in}})
	require.NoError(t, err)
	g.authorizer = scenario{policy: p, verifier: g.verifier, tier: g.tier}.authorizer(t)
	return g
}

// grant returns the grant of a request that is allowed.
func (g *granting) grant(t *testing.T) *authz.Grant {
	t.Helper()
	req := bearer()
	req.Source.Address = "192.0.2.7"
	d := g.authorizer.Authorize(t.Context(), req)
	require.True(t, d.Allowed(), d)
	require.NotNil(t, d.Grant)
	return d.Grant
}

// A stream ends for everything for which a new request with its token would be denied,
// as far as the token is concerned.
func TestRecheck(t *testing.T) {
	t.Parallel()
	ends := policy.RouteConfig{EndStreams: true}
	introspected := policy.RouteConfig{EndStreams: true, Introspection: "as"}
	outdated := func(g *granting, err error) { // the token needs to be verified again
		g.verifier.current = func(*authz.Token, int64) bool { return false }
		g.verifier.err = err
	}
	for name, c := range map[string]struct {
		route  policy.RouteConfig
		change func(g *granting)
		now    bool // memory alone decides
		want   authz.Reason
	}{
		"good":                  {ends, func(*granting) {}, true, authz.ReasonAllowed},
		"revoked":               {ends, func(g *granting) { g.tier.verdict = authz.Revoked }, true, authz.ReasonRevoked},
		"expired":               {ends, func(g *granting) { g.verifier.expired = true }, true, authz.ReasonExpired},
		"expired, and no proof": {ends, func(g *granting) { g.verifier.expired, g.tier.waits = true, true }, true, authz.ReasonExpired},
		"over by nbf":           {ends, func(g *granting) { outdated(g, &authz.Failure{Reason: authz.ReasonExpired}) }, false, authz.ReasonExpired},
		"key is gone":           {ends, func(g *granting) { outdated(g, &authz.Failure{Reason: authz.ReasonUnknownKey}) }, false, authz.ReasonUnknownKey},
		"new keys":              {ends, func(g *granting) { outdated(g, nil) }, false, authz.ReasonAllowed},
		"slow proof":            {ends, func(g *granting) { g.tier.waits = true }, false, authz.ReasonAllowed},
		"unknown": {ends, func(g *granting) {
			g.tier.waits, g.tier.verdict, g.tier.err = true, authz.Unknown, authz.ErrUnavailable
		}, false, authz.ReasonRevocationUnknown},
		"unknown is allowed": {policy.RouteConfig{EndStreams: true, OnRevocationUnknown: "allow"}, func(g *granting) {
			g.tier.waits, g.tier.verdict, g.tier.err = true, authz.Unknown, authz.ErrUnavailable
		}, false, authz.ReasonAllowed},
		"panic":                 {ends, func(g *granting) { outdated(g, nil); g.verifier.panics = "in Verify" }, false, authz.ReasonInternal},
		"introspected":          {introspected, func(*granting) {}, false, authz.ReasonAllowed},
		"introspected, revoked": {introspected, func(g *granting) { g.tier.verdict = authz.Revoked }, true, authz.ReasonRevoked},
		"introspected, inactive": {introspected, func(g *granting) {
			g.in.token, g.in.err = nil, &authz.Failure{Reason: authz.ReasonInactive}
		}, false, authz.ReasonInactive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGranting(t, c.route)
			grant := g.grant(t)
			c.change(g)
			d, decided := g.authorizer.RecheckNow(grant)
			assert.Equal(t, c.now, decided)
			if !decided {
				assert.Equal(t, authz.Decision{}, d, "it denies whoever does not look at decided")
				d = g.authorizer.Recheck(t.Context(), grant)
			}
			assert.Equal(t, c.want, d.Reason, d.Detail)
			assert.Equal(t, d.Allowed(), d.Grant != nil)
			if c.want != authz.ReasonInternal {
				assert.Equal(t, "route", d.Route)
				assert.Equal(t, "user-1", d.Token.Subject)
			}
			if name == "introspected" {
				assert.Equal(t, []string{"192.0.2.7", "192.0.2.7"}, g.in.clients)
			}
		})
	}
}

// After the issuer's keys have changed, the token that was verified with the new ones
// is in the grant: memory decides again.
func TestRecheckRenewsGrant(t *testing.T) {
	t.Parallel()
	g := newGranting(t, policy.RouteConfig{EndStreams: true})
	old := g.grant(t)
	renewed := goodToken()
	g.verifier.token = renewed
	g.verifier.current = func(token *authz.Token, _ int64) bool { return token == renewed }
	_, decided := g.authorizer.RecheckNow(old)
	require.False(t, decided)
	d := g.authorizer.Recheck(t.Context(), old)
	require.True(t, d.Allowed())
	_, decided = g.authorizer.RecheckNow(d.Grant)
	assert.True(t, decided)
}

// Only an allowed stream on a route with end_streams has a grant.
func TestGrants(t *testing.T) {
	t.Parallel()
	for name, route := range map[string]policy.RouteConfig{
		"not asked for": {}, "denied": {EndStreams: true, Scopes: []string{"write"}}, "public": {Public: true},
	} {
		d := newGranting(t, route).authorizer.Authorize(t.Context(), bearer())
		assert.Nil(t, d.Grant, name)
	}
}

// In random worlds, an allowed request has a grant that its own world confirms, and
// memory decides about it as a question does.
func TestRechecksAgree(t *testing.T) {
	t.Parallel()
	outcomes := map[string]int{}
	for seed := range uint64(20_000) {
		w, control := newWorld(t, seed), newWorld(t, seed)
		d := w.authorizer.Authorize(t.Context(), randomRequest(seed))
		if d.Grant == nil {
			continue
		}
		require.True(t, d.Allowed(), "seed %d", seed)
		_ = control.authorizer.Authorize(t.Context(), randomRequest(seed))
		r := rand.New(rand.NewPCG(seed, 3)) // what has happened since then
		for i, tier := range w.tiers {
			*tier = *randomTier(r)
			*control.tiers[i] = *tier
		}
		if r.IntN(3) == 0 {
			w.verifier.current = func(*authz.Token, int64) bool { return false }
			w.verifier.token, w.verifier.err = nil, &authz.Failure{Reason: authz.ReasonExpired}
			w.cache.token = nil
			control.verifier.current, control.verifier.token, control.verifier.err, control.cache.token = w.verifier.current, nil, w.verifier.err, nil
		}
		want := control.authorizer.Recheck(t.Context(), d.Grant)
		got, decided := w.authorizer.RecheckNow(d.Grant)
		outcomes[want.Reason.String()]++
		if decided {
			outcomes["now"]++
			require.Equal(t, want.Allowed(), got.Allowed(), "seed %d: %v, %v", seed, want, got)
			require.False(t, want.Allowed() && want.RevocationUnknown, "seed %d: memory decided what is unknown", seed)
		}
	}
	for _, outcome := range []string{"now", "allowed", "revoked", "expired", "revocation_unknown"} {
		assert.Positive(t, outcomes[outcome], "%s in %v", outcome, outcomes)
	}
}

func BenchmarkRecheckNow(b *testing.B) {
	p, err := policy.Compile([]policy.RouteConfig{{Name: "route", EndStreams: true}}, policy.Options{})
	require.NoError(b, err)
	v := &fakeVerifier{token: goodToken(), current: func(*authz.Token, int64) bool { return true }}
	a := authz.NewAuthorizer(v, nil, &fakeTier{verdict: authz.NotRevoked}, p, fakeClock{time.Now()})
	d := a.Authorize(b.Context(), bearer())
	b.ReportAllocs()
	for b.Loop() {
		if _, decided := a.RecheckNow(d.Grant); !decided {
			b.Fatal("undecided")
		}
	}
}
