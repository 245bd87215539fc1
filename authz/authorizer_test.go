package authz_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
)

const secret = "the-raw-token"

// scenario is an Authorizer's collaborators. The zero scenario has a verifier
// that accepts the token, no cache, and one tier that proves it is not revoked.
type scenario struct {
	policy   authz.Policy // nil: policyWith("plain")
	verifier *fakeVerifier
	cache    authz.TokenCache
	tier     authz.Tier
	clock    authz.Clock
}

func (s scenario) authorizer(t testing.TB) *authz.Authorizer {
	t.Helper()
	if s.policy == nil {
		s.policy = policyWith(t, "plain", nil)
	}
	if s.verifier == nil {
		s.verifier = &fakeVerifier{token: goodToken()}
	}
	if s.tier == nil {
		s.tier = &fakeTier{verdict: authz.NotRevoked}
	}
	if s.clock == nil {
		s.clock = fakeClock{time.Now()}
	}
	return authz.NewAuthorizer(s.verifier, s.cache, s.tier, s.policy, s.clock)
}

func (s scenario) authorize(t testing.TB, req *authz.Request) authz.Decision {
	t.Helper()
	return s.authorizer(t).Authorize(t.Context(), req)
}

// policyWith compiles the named route alone. in is the introspector of the
// routes "opaque" and "opaque-allow".
func policyWith(t testing.TB, name string, in authz.Introspector) authz.Policy {
	t.Helper()
	route, ok := map[string]policy.RouteConfig{
		"plain":        {},
		"public":       {Public: true},
		"scoped":       {Scopes: []string{"write"}},
		"allow":        {OnRevocationUnknown: "allow"},
		"opaque":       {Introspection: "as"},
		"opaque-allow": {Introspection: "as", OnRevocationUnknown: "allow"},
		"narrow":       {Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/v1"}}}},
	}[name]
	require.True(t, ok, "no route is named %q", name)
	route.Name = name
	p, err := policy.Compile([]policy.RouteConfig{route}, policy.Options{Introspectors: map[string]authz.Introspector{"as": in}})
	require.NoError(t, err)
	return p
}

// routeOf names the route that decided; "" when none matched.
func routeOf(d authz.Decision) string {
	return d.Route
}

// passedUnknown reports whether the request passed although its token's
// revocation was unknown.
func passedUnknown(d authz.Decision) bool { return d.Allowed() && d.RevocationUnknown }

const reasonRevocationUnknown = authz.ReasonRevocationUnknown

func goodToken() *authz.Token {
	token := &authz.Token{Raw: secret, Issuer: "https://issuer.example", Subject: "user-1", ID: "jti-1", Accepted: true}
	token.SetKeys()
	return token
}

// bearer is a request with the token in its Authorization header.
func bearer() *authz.Request {
	return &authz.Request{Method: "GET", Path: "/v1/orders", Host: "api.example", Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + secret}}}
}

type fakeVerifier struct {
	token     *authz.Token
	err       error
	panics    any // value that Verify panics with
	current   func(t *authz.Token, now int64) bool
	expired   bool
	verified  []string
	confirmed int
}

func (f *fakeVerifier) Verify(_ context.Context, raw string) (*authz.Token, error) {
	f.verified = append(f.verified, raw)
	if f.panics != nil {
		panic(f.panics)
	}
	return f.token, f.err
}

func (f *fakeVerifier) Current(t *authz.Token, now int64) bool {
	f.confirmed++
	return f.current(t, now)
}

func (f *fakeVerifier) Expired(*authz.Token, int64) bool { return f.expired }

type fakeIntrospector struct {
	local        bool
	token        *authz.Token
	err          error
	localPanics  bool
	answerPanics bool
	asked        []string
	verified     []*authz.Token // what was verified of the tokens asked about
	clients      []string
}

func (f *fakeIntrospector) Local(string) bool {
	if f.localPanics {
		panic("in Local")
	}
	return f.local
}

func (f *fakeIntrospector) Introspect(_ context.Context, raw string, verified *authz.Token, client string) (*authz.Token, error) {
	f.asked, f.verified, f.clients = append(f.asked, raw), append(f.verified, verified), append(f.clients, client)
	if f.answerPanics {
		panic("in Introspect")
	}
	return f.token, f.err
}

// fakeCache is a TokenCache that records what is put.
type fakeCache struct {
	token               *authz.Token // what Get finds; nil: a miss
	put                 []*authz.Token
	getPanics, putPanic bool
}

func (f *fakeCache) Get(string) (*authz.Token, bool) {
	if f.getPanics {
		panic("in Get")
	}
	return f.token, f.token != nil
}

func (f *fakeCache) Peek(string) (*authz.Token, bool) { return f.token, f.token != nil }

func (f *fakeCache) Put(t *authz.Token) {
	if f.putPanic {
		panic("in Put")
	}
	f.put = append(f.put, t)
}

// fakeClock stands still. The zero fakeClock panics.
type fakeClock struct{ now time.Time }

func (f fakeClock) Now() time.Time {
	if f.now.IsZero() {
		panic("in Now")
	}
	return f.now
}

func (fakeClock) Boot() time.Duration { return time.Hour }

func TestAuthorizeAllows(t *testing.T) {
	t.Parallel()
	verifier, tier := &fakeVerifier{token: goodToken()}, &fakeTier{verdict: authz.NotRevoked}
	d := scenario{verifier: verifier, tier: tier}.authorize(t, bearer())
	require.Equal(t, authz.ReasonAllowed, d.Reason, d.Detail)
	require.True(t, d.Allowed())
	require.False(t, passedUnknown(d))
	require.Same(t, verifier.token, d.Token)
	require.Equal(t, "plain", routeOf(d))
	require.Equal(t, authz.Credential{Raw: secret, Scheme: "bearer", Source: "authorization"}, d.Credential)
	require.Equal(t, []string{secret}, verifier.verified)
	require.Equal(t, verifier.token.Query(), tier.query, "the tier is asked about this token")
}

// A denial before verification asks neither the verifier nor a tier.
func TestAuthorizeBeforeVerification(t *testing.T) {
	t.Parallel()
	elsewhere, ambiguous := bearer(), bearer()
	elsewhere.Path, ambiguous.Path = "/v2/orders", "/v1%2forders"
	for name, tt := range map[string]struct {
		route  string
		req    *authz.Request
		reason authz.Reason
		as     string // the route in the Decision
	}{
		"no route matches":                   {"narrow", elsewhere, authz.ReasonNoRoute, ""},
		"a route may or may not match":       {"narrow", ambiguous, authz.ReasonMalformedRequest, ""},
		"no credential":                      {"plain", &authz.Request{}, authz.ReasonNoCredential, "plain"},
		"a public route with a credential":   {"public", bearer(), authz.ReasonAllowedAnonymous, "public"},
		"a public route without credentials": {"public", &authz.Request{}, authz.ReasonAllowedAnonymous, "public"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verifier, tier := &fakeVerifier{token: goodToken()}, &fakeTier{verdict: authz.NotRevoked}
			d := scenario{policy: policyWith(t, tt.route, nil), verifier: verifier, tier: tier}.authorize(t, tt.req)
			require.Equal(t, tt.reason, d.Reason, d.Detail)
			require.Equal(t, tt.as, routeOf(d))
			require.Equal(t, tt.reason == authz.ReasonAllowedAnonymous, d.Allowed())
			require.Equal(t, !d.Allowed(), d.Detail != "", "a denial says why: %q", d.Detail)
			require.Nil(t, d.Token)
			require.Empty(t, verifier.verified)
			require.Zero(t, tier.lookups)
		})
	}
}

// Whatever the verifier or the introspector answers instead of a token denies,
// even an answer that breaks their contracts.
func TestAuthorizeWithoutToken(t *testing.T) {
	t.Parallel()
	challenge := &authz.Challenge{Scheme: "dpop"}
	for name, tt := range map[string]struct {
		err    error
		reason authz.Reason
		detail string
	}{
		"neither token nor error":        {nil, authz.ReasonInternal, "returned neither token nor error"},
		"a failure":                      {&authz.Failure{Reason: authz.ReasonExpired, Detail: "exp", Challenge: challenge}, authz.ReasonExpired, "exp"},
		"a wrapped failure":              {fmt.Errorf("verify: %w", &authz.Failure{Reason: authz.ReasonBadSignature, Detail: "sig"}), authz.ReasonBadSignature, "sig"},
		"an unclassified error":          {errors.New("failed on " + secret), authz.ReasonInternal, "unclassified failure"},
		"a failure that says allowed":    {&authz.Failure{Reason: authz.ReasonAllowed}, authz.ReasonInternal, "unclassified failure"},
		"a failure that says anonymous":  {&authz.Failure{Reason: authz.ReasonAllowedAnonymous}, authz.ReasonInternal, "unclassified failure"},
		"a wrapped failure that allows":  {fmt.Errorf("verify: %w", &authz.Failure{Reason: authz.ReasonAllowed}), authz.ReasonInternal, "unclassified failure"},
		"a failure without a reason":     {&authz.Failure{}, authz.ReasonUnset, ""},
		"a failure of an unknown reason": {&authz.Failure{Reason: 255}, 255, ""},
	} {
		check := func(t *testing.T, s scenario) {
			t.Helper()
			cache, tier := &fakeCache{}, &fakeTier{verdict: authz.NotRevoked}
			s.cache, s.tier = cache, tier
			d := s.authorize(t, bearer())
			require.False(t, d.Allowed())
			require.Equal(t, tt.reason, d.Reason)
			require.Contains(t, d.Detail, tt.detail)
			require.NotContains(t, d.Detail, secret)
			require.Nil(t, d.Token)
			require.Empty(t, cache.put, "a failure is never remembered")
			require.Zero(t, tier.lookups)
			if f := (*authz.Failure)(nil); errors.As(tt.err, &f) {
				require.Equal(t, f.Challenge, d.Challenge)
			}
		}
		t.Run("verifier/"+name, func(t *testing.T) {
			t.Parallel()
			check(t, scenario{policy: policyWith(t, "allow", nil), verifier: &fakeVerifier{err: tt.err}})
		})
		t.Run("introspector/"+name, func(t *testing.T) {
			t.Parallel()
			in := &fakeIntrospector{err: tt.err}
			check(t, scenario{policy: policyWith(t, "opaque-allow", in)})
			require.Equal(t, []string{secret}, in.asked)
		})
	}
}

// An error together with a token is an error.
func TestAuthorizeTokenWithError(t *testing.T) {
	t.Parallel()
	fail := &authz.Failure{Reason: authz.ReasonExpired}
	d := scenario{verifier: &fakeVerifier{token: goodToken(), err: fail}}.authorize(t, bearer())
	require.Equal(t, authz.ReasonExpired, d.Reason)
	require.Nil(t, d.Token)
	d = scenario{policy: policyWith(t, "opaque", &fakeIntrospector{token: goodToken(), err: fail})}.authorize(t, bearer())
	require.Equal(t, authz.ReasonExpired, d.Reason)
	require.Nil(t, d.Token)
}

// On a route with introspection a JWT of a configured issuer is verified here,
// and only a token of an unknown issuer is introspected after all.
func TestAuthorizeIntrospection(t *testing.T) {
	t.Parallel()
	verified, introspected := goodToken(), goodToken()
	for name, tt := range map[string]struct {
		local    bool
		verifier fakeVerifier
		answer   error // of the introspector; nil: introspected
		reason   authz.Reason
		token    *authz.Token
		verifies int
		asks     int
	}{
		"an opaque token":         {token: introspected, reason: authz.ReasonAllowed, asks: 1},
		"an inactive token":       {answer: &authz.Failure{Reason: authz.ReasonInactive}, reason: authz.ReasonInactive, asks: 1},
		"a JWT that verifies":     {local: true, verifier: fakeVerifier{token: verified}, token: verified, reason: authz.ReasonAllowed, verifies: 1},
		"a JWT that does not":     {local: true, verifier: fakeVerifier{err: &authz.Failure{Reason: authz.ReasonBadSignature}}, reason: authz.ReasonBadSignature, verifies: 1},
		"a JWT of another issuer": {local: true, verifier: fakeVerifier{err: &authz.Failure{Reason: authz.ReasonUnknownIssuer}}, token: introspected, reason: authz.ReasonAllowed, verifies: 1, asks: 1},
		"a JWT of another issuer, inactive": {
			local: true, verifier: fakeVerifier{err: &authz.Failure{Reason: authz.ReasonUnknownIssuer}},
			answer: &authz.Failure{Reason: authz.ReasonInactive}, reason: authz.ReasonInactive, verifies: 1, asks: 1,
		},
		"a JWT of which nothing is known": {local: true, verifier: fakeVerifier{err: errors.New("unclassified")}, reason: authz.ReasonInternal, verifies: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &fakeIntrospector{local: tt.local, token: introspected, err: tt.answer}
			d := scenario{policy: policyWith(t, "opaque", in), verifier: &tt.verifier}.authorize(t, bearer())
			require.Equal(t, tt.reason, d.Reason, d.Detail)
			require.Same(t, tt.token, d.Token)
			require.Len(t, tt.verifier.verified, tt.verifies)
			require.Len(t, in.asked, tt.asks)
		})
	}
}

// Where every token is introspected, a JWT of a configured issuer is verified as
// well, and the introspector learns of it.
func TestAuthorizeVerifiesAndIntrospects(t *testing.T) {
	t.Parallel()
	const jwt = "e30.e30.c2ln"
	verified, introspected := goodToken(), goodToken()
	for name, tt := range map[string]struct {
		raw      string
		verifier fakeVerifier
		reason   authz.Reason
		told     []*authz.Token
	}{
		"verified":          {jwt, fakeVerifier{token: verified}, authz.ReasonAllowed, []*authz.Token{verified}},
		"of another issuer": {jwt, fakeVerifier{err: &authz.Failure{Reason: authz.ReasonUnknownIssuer}}, authz.ReasonAllowed, []*authz.Token{nil}},
		"forged":            {jwt, fakeVerifier{err: &authz.Failure{Reason: authz.ReasonBadSignature}}, authz.ReasonBadSignature, nil},
		"keys not fetched":  {jwt, fakeVerifier{err: &authz.Failure{Reason: authz.ReasonKeysUnavailable}}, authz.ReasonKeysUnavailable, nil},
		"opaque":            {"opaque", fakeVerifier{token: verified}, authz.ReasonAllowed, []*authz.Token{nil}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &fakeIntrospector{token: introspected}
			req := &authz.Request{
				Method: "GET", Path: "/", Source: authz.Peer{Address: "203.0.113.7"}, Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + tt.raw}},
			}
			d := scenario{policy: policyWith(t, "opaque", in), verifier: &tt.verifier}.authorize(t, req)
			require.Equal(t, tt.reason, d.Reason, d.Detail)
			require.Equal(t, tt.told, in.verified)
			for _, client := range in.clients {
				require.Equal(t, "203.0.113.7", client)
			}
			if d.Allowed() {
				require.Same(t, introspected, d.Token)
			}
		})
	}
}

// A token from the cache is used only while the verifier calls it current. Its
// revocation is asked about every time.
func TestAuthorizeCache(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cached, fresh := goodToken(), goodToken()
	cached.Expires = now.Unix() + 1
	unexpired := func(tok *authz.Token, at int64) bool { return at < tok.Expires }
	for name, tt := range map[string]struct {
		cached  *authz.Token
		now     time.Time
		current func(*authz.Token, int64) bool
		reject  error // of Verify
		reason  authz.Reason
		token   *authz.Token
		put     []*authz.Token
	}{
		"a hit":                          {cached: cached, now: now, current: unexpired, token: cached, reason: authz.ReasonAllowed},
		"a hit that has expired":         {cached: cached, now: now.Add(2 * time.Second), current: unexpired, token: fresh, reason: authz.ReasonAllowed, put: []*authz.Token{fresh}},
		"a hit whose key was withdrawn":  {cached: cached, now: now, current: func(*authz.Token, int64) bool { return false }, token: fresh, reason: authz.ReasonAllowed, put: []*authz.Token{fresh}},
		"a hit that verifies no longer":  {cached: cached, now: now, current: func(*authz.Token, int64) bool { return false }, reject: &authz.Failure{Reason: authz.ReasonExpired}, reason: authz.ReasonExpired},
		"a miss":                         {now: now, token: fresh, reason: authz.ReasonAllowed, put: []*authz.Token{fresh}},
		"a miss of a token not accepted": {now: now, reject: &authz.Failure{Reason: authz.ReasonExpired}, reason: authz.ReasonExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verifier, cache, tier := &fakeVerifier{token: fresh, err: tt.reject, current: tt.current}, &fakeCache{token: tt.cached}, &fakeTier{verdict: authz.NotRevoked}
			d := scenario{verifier: verifier, cache: cache, tier: tier, clock: fakeClock{tt.now}}.authorize(t, bearer())
			require.Equal(t, tt.reason, d.Reason, d.Detail)
			require.Same(t, tt.token, d.Token)
			require.Equal(t, tt.put, cache.put)
			require.Equal(t, tt.token != tt.cached || tt.token == nil, len(verifier.verified) == 1, "verified %d times", len(verifier.verified))
			require.Equal(t, tt.cached != nil, verifier.confirmed == 1)
			require.Equal(t, d.Allowed(), tier.lookups == 1)
		})
	}
}

// The route's rules come before revocation, and the denial names the token.
func TestAuthorizeRouteRule(t *testing.T) {
	t.Parallel()
	verifier, tier := &fakeVerifier{token: goodToken()}, &fakeTier{verdict: authz.NotRevoked}
	d := scenario{policy: policyWith(t, "scoped", nil), verifier: verifier, tier: tier}.authorize(t, bearer())
	require.Equal(t, authz.ReasonInsufficientScope, d.Reason)
	require.Equal(t, "scoped", routeOf(d))
	require.Same(t, verifier.token, d.Token)
	require.Zero(t, tier.lookups)
}

// Only a proof lets a token pass, except on routes that allow what is unknown.
func TestAuthorizeRevocation(t *testing.T) {
	t.Parallel()
	broken := errors.New("store is down")
	for name, tt := range map[string]struct {
		route   string
		verdict authz.Verdict
		err     error
		reason  authz.Reason
		unknown bool   // passed although revocation was unknown
		detail  string // part of Decision.Detail
	}{
		"not revoked":                         {"plain", authz.NotRevoked, nil, authz.ReasonAllowed, false, ""},
		"revoked":                             {"plain", authz.Revoked, nil, authz.ReasonRevoked, false, "has been revoked"},
		"unknown":                             {"plain", authz.Unknown, nil, reasonRevocationUnknown, false, "no tier could prove"},
		"unknown with an error":               {"plain", authz.Unknown, broken, reasonRevocationUnknown, false, "store is down"},
		"not revoked with an error":           {"plain", authz.NotRevoked, broken, reasonRevocationUnknown, false, "store is down"},
		"a verdict that does not exist":       {"plain", authz.Verdict(9), nil, reasonRevocationUnknown, false, ""},
		"allow: not revoked":                  {"allow", authz.NotRevoked, nil, authz.ReasonAllowed, false, ""},
		"allow: revoked":                      {"allow", authz.Revoked, nil, authz.ReasonRevoked, false, "has been revoked"},
		"allow: unknown":                      {"allow", authz.Unknown, nil, authz.ReasonAllowed, true, ""},
		"allow: unknown with an error":        {"allow", authz.Unknown, broken, authz.ReasonAllowed, true, ""},
		"allow: not revoked with an error":    {"allow", authz.NotRevoked, broken, authz.ReasonAllowed, true, ""},
		"opaque-allow: unknown with an error": {"opaque-allow", authz.Unknown, broken, authz.ReasonAllowed, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tier := &fakeTier{verdict: tt.verdict, err: tt.err}
			d := scenario{policy: policyWith(t, tt.route, &fakeIntrospector{token: goodToken()}), tier: tier}.authorize(t, bearer())
			require.Equal(t, tt.reason, d.Reason, d.Detail)
			require.Equal(t, tt.unknown, passedUnknown(d))
			require.Contains(t, d.Detail, tt.detail)
			require.NotNil(t, d.Token)
			require.Equal(t, 1, tier.lookups)
		})
	}
}

// A tier that reports revoked together with an error breaks its contract, which
// must not help the token, least of all on a route that allows an unknown
// revocation.
func TestAuthorizeRevokedWithError(t *testing.T) {
	t.Parallel()
	broken := &fakeTier{verdict: authz.Revoked, err: errors.New("half an answer")}
	for name, tier := range map[string]authz.Tier{
		"tier":        broken,
		"chain":       authz.NewChain(nil, &fakeTier{}, broken, &fakeTier{verdict: authz.NotRevoked}),
		"conjunction": authz.All(broken, &fakeTier{verdict: authz.NotRevoked}),
	} {
		for _, route := range []string{"plain", "allow"} {
			d := scenario{policy: policyWith(t, route, nil), tier: tier}.authorize(t, bearer())
			assert.Equal(t, authz.ReasonRevoked, d.Reason, "%s, route %s", name, route)
		}
	}
}

// A context that has ended leaves revocation unknown.
func TestAuthorizeContextOver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := scenario{tier: authz.NewChain(nil, &fakeTier{}, &fakeTier{verdict: authz.NotRevoked})}.authorizer(t).Authorize(ctx, bearer())
	require.Equal(t, reasonRevocationUnknown, d.Reason)
	require.Contains(t, d.Detail, context.Canceled.Error())
}

// A panic in any collaborator denies, and its value, which may hold a token,
// is not repeated.
func TestAuthorizePanics(t *testing.T) {
	t.Parallel()
	never := func(*authz.Token, int64) bool { panic("in Current") }
	for name, s := range map[string]scenario{
		"verifier, Verify":         {verifier: &fakeVerifier{panics: "on " + secret}},
		"verifier, Verify, error":  {verifier: &fakeVerifier{panics: &authz.Failure{Reason: authz.ReasonAllowed}}},
		"verifier, Current":        {cache: &fakeCache{token: goodToken()}, verifier: &fakeVerifier{current: never}},
		"introspector, Local":      {policy: policyWith(t, "opaque-allow", &fakeIntrospector{localPanics: true})},
		"introspector, Introspect": {policy: policyWith(t, "opaque-allow", &fakeIntrospector{answerPanics: true})},
		"cache, Get":               {cache: &fakeCache{getPanics: true}},
		"cache, Put":               {cache: &fakeCache{putPanic: true}},
		"tier":                     {policy: policyWith(t, "allow", nil), tier: &fakeTier{then: func() { panic("in Lookup") }}},
		"clock":                    {clock: fakeClock{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := s.authorize(t, bearer())
			require.Equal(t, authz.ReasonInternal, d.Reason)
			require.Regexp(t, `^panic: (string|\*authz\.Failure)$`, d.Detail)
			require.Nil(t, d.Token)
			require.Empty(t, routeOf(d))
		})
	}
	t.Run("no request at all", func(t *testing.T) {
		t.Parallel()
		d := scenario{}.authorize(t, nil)
		assert.Equal(t, authz.ReasonInternal, d.Reason)
		assert.Contains(t, d.Detail, "panic: ")
	})
	t.Run("no policy", func(t *testing.T) {
		t.Parallel()
		a := scenario{}.authorizer(t)
		a.SetPolicy(nil)
		d := a.Authorize(t.Context(), bearer())
		assert.Equal(t, authz.ReasonInternal, d.Reason)
	})
}

// SetPolicy holds for requests that start later.
func TestAuthorizerSetPolicy(t *testing.T) {
	t.Parallel()
	first, second := policyWith(t, "plain", nil), policyWith(t, "public", nil)
	a := scenario{policy: first}.authorizer(t)
	require.Equal(t, authz.ReasonNoCredential, a.Authorize(t.Context(), &authz.Request{}).Reason)
	a.SetPolicy(second)
	require.Equal(t, authz.ReasonAllowedAnonymous, a.Authorize(t.Context(), &authz.Request{}).Reason)
}
