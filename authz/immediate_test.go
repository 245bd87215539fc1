package authz_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
)

// countingCache is a TokenCache that counts what a walk does to it.
type countingCache struct {
	token      *authz.Token // nil: a miss
	gets, puts int
}

func (c *countingCache) Get(raw string) (*authz.Token, bool) {
	c.gets++
	return c.Peek(raw)
}

func (c *countingCache) Peek(string) (*authz.Token, bool) { return c.token, c.token != nil }

func (c *countingCache) Put(*authz.Token) { c.puts++ }

// countingReplays is a ReplayStore that has seen no proof.
type countingReplays struct{ proofs int }

func (c *countingReplays) Seen(context.Context, string, time.Duration) (bool, error) {
	c.proofs++
	return false, nil
}

// effects is everything that a walk changes or asks.
type effects struct{ verified, gets, puts, introspected, lookups, observed, proofs int }

// world is an Authorizer with collaborators in a random state. Two worlds of one seed are equal.
type world struct {
	authorizer   *authz.Authorizer
	verifier     *fakeVerifier
	cache        *countingCache
	introspector *fakeIntrospector
	tiers        []*fakeTier
	replays      *countingReplays
	observed     int
}

func (w *world) effects() effects {
	e := effects{
		verified: len(w.verifier.verified), gets: w.cache.gets, puts: w.cache.puts, introspected: len(w.introspector.asked),
		observed: w.observed, proofs: w.replays.proofs,
	}
	for _, t := range w.tiers {
		e.lookups += t.lookups
	}
	return e
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomTier(r *rand.Rand) *fakeTier {
	t := &fakeTier{name: "tier", verdict: pick(r, authz.NotRevoked, authz.NotRevoked, authz.Revoked, authz.Unknown), waits: r.IntN(3) == 0}
	if t.verdict != authz.NotRevoked && r.IntN(2) == 0 {
		t.err = authz.ErrUnavailable
	}
	return t
}

func randomToken(r *rand.Rand) *authz.Token {
	t := goodToken()
	t.Accepted = r.IntN(5) > 0
	t.Scopes = pick(r, nil, []string{"write"})
	t.Claims = pick(r, nil, nil, nil, map[string]any{"cnf": map[string]any{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, map[string]any{"cnf": 1})
	return t
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{verifier: &fakeVerifier{token: randomToken(r)}, cache: &countingCache{}, replays: &countingReplays{}}
	current := r.IntN(4) > 0
	w.verifier.current = func(*authz.Token, int64) bool { return current }
	switch r.IntN(4) {
	case 0:
		w.verifier.err = &authz.Failure{Reason: pick(r, authz.ReasonBadSignature, authz.ReasonUnknownIssuer)}
	case 1:
		w.verifier.panics = "in Verify"
	default:
		w.cache.token = w.verifier.token
		if !current && r.IntN(2) == 0 { // it was valid when it was cached
			w.verifier.token, w.verifier.err = nil, &authz.Failure{Reason: authz.ReasonExpired}
		}
	}
	w.introspector = &fakeIntrospector{local: r.IntN(2) == 0, token: randomToken(r)}
	for range 3 {
		w.tiers = append(w.tiers, randomTier(r))
	}
	chain := authz.NewChain(func(string, authz.Verdict, error, time.Duration) { w.observed++ }, w.tiers[0], w.tiers[1])
	revocations := pick[authz.Tier](r, chain, authz.All(chain, w.tiers[2]), authz.NewChain(nil), authz.All())
	binding, err := policy.NewBinding(policy.DefaultBindingConfig(), w.replays)
	require.NoError(t, err)
	route := pick(r, policy.RouteConfig{}, policy.RouteConfig{Public: true}, policy.RouteConfig{Scopes: []string{"write"}}, policy.RouteConfig{OnRevocationUnknown: "allow"},
		policy.RouteConfig{Introspection: "as"}, policy.RouteConfig{Require: "dpop"}, policy.RouteConfig{Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/v2"}}}})
	route.Name, route.EndStreams = "route", !route.Public && r.IntN(2) == 0
	p, err := policy.Compile([]policy.RouteConfig{route}, policy.Options{Binding: binding, Introspectors: map[string]authz.Introspector{"as": w.introspector}})
	require.NoError(t, err)
	var tokens authz.TokenCache = w.cache
	if r.IntN(10) == 0 {
		tokens = nil
	}
	w.authorizer = authz.NewAuthorizer(w.verifier, tokens, revocations, p, fakeClock{time.Unix(1_700_000_000, 0)})
	return w
}

func randomRequest(seed uint64) *authz.Request {
	r := rand.New(rand.NewPCG(seed, 2))
	req := bearer()
	req.Path = pick(r, "/v1/orders", "/v1/orders", "/v1/orders", "/v2", "/v1%2f..")
	for range r.IntN(3) {
		req.Headers = append(req.Headers, pick(r, authz.Header{Name: "accept", Value: "*/*"}, authz.Header{Name: "dpop", Value: "e30.e30.e30"}))
	}
	req.Headers[0].Value = pick(r, "Bearer ", "Bearer ", "Bearer ", "Bearer ", "Bearer ", "Bearer ", "DPoP ", "Basic ", "") + secret
	if r.IntN(8) == 0 {
		req.Headers = req.Headers[1:]
	}
	return req
}

// Whenever the immediate walk decides, it decides as the waiting one does, and with the same effects.
// When it does not, nothing has happened.
func TestImmediateDecisions(t *testing.T) {
	t.Parallel()
	outcomes := map[string]int{}
	for seed := range uint64(20_000) {
		w, control := newWorld(t, seed), newWorld(t, seed)
		want := control.authorizer.Authorize(t.Context(), randomRequest(seed))
		got, decided := w.authorizer.AuthorizeNow(randomRequest(seed))
		if decided {
			outcomes[got.Reason.String()]++
			require.Equal(t, want, got, "seed %d", seed)
			e := w.effects()
			require.Equal(t, effects{gets: e.gets, observed: e.observed}, e, "seed %d: it asked or changed something else", seed)
			require.Equal(t, control.effects().gets, e.gets, "seed %d: uses of the cache", seed)
			if got.Reason == authz.ReasonAllowed {
				require.Equal(t, control.effects().observed, e.observed, "seed %d: observed lookups", seed)
			}
			continue
		}
		outcomes["would wait"]++
		require.Equal(t, authz.Decision{}, got, "seed %d", seed)
		require.Equal(t, effects{}, w.effects(), "seed %d: the walk that decided nothing had an effect", seed)
		require.Equal(t, want, w.authorizer.Authorize(t.Context(), randomRequest(seed)), "seed %d: afterwards", seed)
		require.Equal(t, control.effects(), w.effects(), "seed %d: afterwards", seed)
	}
	for _, outcome := range []string{"allowed", "allowed_anonymous", "revoked", "no_credential", "no_route", "wrong_audience", "insufficient_scope", "binding_mismatch", "malformed_request", "would wait"} {
		assert.Greater(t, outcomes[outcome], 20, "%s: %v", outcome, outcomes)
	}
}

// A DPoP proof is neither verified nor used up by the immediate walk, although the token is cached.
func TestImmediateLeavesProofs(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		w, req := newWorld(t, seed), randomRequest(seed)
		req.Headers = []authz.Header{{Name: "authorization", Value: "DPoP " + secret}, {Name: "dpop", Value: "e30.e30.e30"}}
		d, decided := w.authorizer.AuthorizeNow(req)
		require.False(t, decided && d.Reason == authz.ReasonBindingMismatch, "seed %d: the proof was judged", seed)
		require.Zero(t, w.replays.proofs)
	}
}

// A panic is a decision: the request must not be decided again in the background.
func TestImmediatePanics(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]scenario{
		"policy":   {policy: panickingPolicy{}},
		"clock":    {clock: fakeClock{}, cache: &countingCache{token: goodToken()}},
		"verifier": {verifier: &fakeVerifier{}, cache: &countingCache{token: goodToken()}},
	} {
		a := s.authorizer(t)
		got, decided := a.AuthorizeNow(bearer())
		require.True(t, decided, name)
		require.Equal(t, a.Authorize(t.Context(), bearer()), got, name)
		require.Equal(t, authz.ReasonInternal, got.Reason, name)
	}
}

type panickingPolicy struct{}

func (panickingPolicy) Match(*authz.Request) (authz.Route, *authz.Failure) { panic("in Match") }

// A trace is not an immediate question, and none of its steps is recorded.
func TestImmediateWithTrace(t *testing.T) {
	t.Parallel()
	req := bearer()
	req.Trace = &authz.Trace{}
	_, decided := scenario{policy: policyWith(t, "public", nil)}.authorizer(t).AuthorizeNow(req)
	require.False(t, decided)
	require.Empty(t, req.Trace.Steps)
}

func TestLookupNow(t *testing.T) {
	t.Parallel()
	tier := func(v authz.Verdict) *fakeTier { return &fakeTier{name: "t", verdict: v} }
	away := &fakeTier{name: "away", verdict: authz.NotRevoked, waits: true}
	seen := 0
	chain := func(tiers ...authz.Tier) authz.Tier {
		return authz.NewChain(func(string, authz.Verdict, error, time.Duration) { seen++ }, tiers...)
	}
	for name, c := range map[string]struct {
		tier   authz.Tier
		want   authz.Verdict
		proven bool
		seen   int
	}{
		"chain, good":                  {chain(tier(authz.NotRevoked), away), authz.NotRevoked, true, 1},
		"chain, revoked":               {chain(tier(authz.Revoked), away), authz.Revoked, true, 1},
		"chain, unknown to the first":  {chain(tier(authz.Unknown), tier(authz.NotRevoked)), authz.Unknown, false, 0},
		"chain, the first waits":       {chain(away, tier(authz.NotRevoked)), authz.Unknown, false, 0},
		"chain, empty":                 {chain(), authz.Unknown, false, 0},
		"all, good":                    {authz.All(chain(tier(authz.NotRevoked)), tier(authz.NotRevoked)), authz.NotRevoked, true, 1},
		"all, the second waits":        {authz.All(chain(tier(authz.NotRevoked)), away), authz.Unknown, false, 0},
		"all, the second waits anyhow": {authz.All(chain(tier(authz.Revoked)), away), authz.Revoked, true, 1},
		"all, revoked between waits":   {authz.All(away, tier(authz.Revoked), away), authz.Revoked, true, 0},
		"all, the first waits":         {authz.All(chain(away), tier(authz.NotRevoked)), authz.Unknown, false, 0},
		"all, the second revokes":      {authz.All(chain(away), tier(authz.Revoked)), authz.Revoked, true, 0},
		"all, the first revokes":       {authz.All(chain(tier(authz.Revoked)), tier(authz.NotRevoked)), authz.Revoked, true, 1},
		"all, empty":                   {authz.All(), authz.Unknown, false, 0},
		"a tier that always waits": {chain(struct {
			authz.AlwaysWaits
			*fakeTierName
		}{}), authz.Unknown, false, 0},
	} {
		seen = 0
		v, proven := c.tier.LookupNow(&authz.Query{})
		require.Equal(t, fmt.Sprint(c.want, c.proven, c.seen), fmt.Sprint(v, proven, seen), name)
	}
}

type fakeTierName struct{}

func (*fakeTierName) Name() string { return "slow" }

func (*fakeTierName) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	return authz.NotRevoked, nil
}
