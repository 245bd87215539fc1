package introspect_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
)

// decided is a request with a JWT to a route that introspects it.
type decided struct {
	jwt    map[string]any      // changes to its claims
	header []authztest.Minting // changes to the rest
	answer map[string]any      // changes to the response
	// foreign: the JWT's issuer is not configured, so nothing verifies the JWT.
	foreign bool
	revoked authztest.KeyTier
	change  func(*introspect.Config)
}

// decide returns the decision, whether the issuer was asked, and the issuer.
func (c decided) decide(t *testing.T) (d authz.Decision, asked bool) {
	t.Helper()
	s := newAuthServer(t)
	cfg := introspectionConfig(t, s)
	cfg.Tokens = "all"
	if c.change != nil {
		c.change(&cfg)
	}
	own, other := authztest.StartIssuer(t, authztest.Named(cfg.Issuer)), authztest.StartIssuer(t)
	verifier := authztest.NewVerifier(t, own, func(i *issuer.Config) { i.AcceptIDTokens = cfg.AcceptIDTokens })
	if c.foreign {
		verifier = authztest.NewVerifier(t, other)
	}
	all, err := introspect.New([]introspect.Config{cfg}, introspect.Options{})
	require.NoError(t, err)
	t.Cleanup(all.Close)
	p, err := policy.Compile([]policy.RouteConfig{{Name: "r", Introspection: "as", Scopes: []string{"read"}, Allow: []string{"!has(token.act)"}}},
		policy.Options{Introspectors: all.ByName()})
	require.NoError(t, err)
	claims := map[string]any{"sub": "alice", "jti": "j1", "scope": "read write"}
	for k, v := range c.jwt {
		claims[k] = v
	}
	raw := own.Mint(claims, c.header...)
	s.tokens[raw] = activeResponse(c.answer)
	a := authz.NewAuthorizer(verifier, nil, authz.NewChain(nil, c.revoked), p, authz.SystemClock{})
	d = a.Authorize(t.Context(), &authz.Request{Method: "GET", Path: "/", Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}})
	return d, s.requests.Load() > 0
}

// The response grants, and the JWT can only take away, whether this process can
// verify the JWT or not.
func TestJWTRestrictsItsIntrospection(t *testing.T) {
	t.Parallel()
	const as = "https://as.example"
	now := time.Now()
	jkt, x5t := map[string]any{"jkt": strings.Repeat("A", 43)}, map[string]any{"x5t#S256": strings.Repeat("B", 43)}
	status := map[string]any{"status_list": map[string]any{"uri": "https://as.example/list", "idx": 7}}
	key := func(k authz.Kind, v string) authztest.KeyTier {
		return authztest.KeyTier{authz.RevocationKey(k, as, v): true}
	}
	type m = map[string]any
	for name, tt := range map[string]struct {
		decided
		want authz.Reason
	}{
		"nothing to restrict":          {decided{}, authz.ReasonAllowed},
		"bound, says the JWT":          {decided{jwt: m{"cnf": jkt}}, authz.ReasonBindingMismatch},
		"bound, says the response":     {decided{answer: m{"cnf": jkt}}, authz.ReasonBindingMismatch},
		"bound to different keys":      {decided{jwt: m{"cnf": jkt}, answer: m{"cnf": x5t}}, authz.ReasonBindingMismatch},
		"bound, in no way we know":     {decided{jwt: m{"cnf": "x"}}, authz.ReasonBindingMismatch},
		"DPoP without a key":           {decided{answer: m{"token_type": "DPoP"}}, authz.ReasonBindingMismatch},
		"Keycloak's DPoP without":      {decided{answer: m{"typ": "DPoP"}}, authz.ReasonBindingMismatch},
		"not yet valid, says the JWT":  {decided{jwt: m{"nbf": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}}, authz.ReasonNotYetValid},
		"expired, says the JWT":        {decided{jwt: m{"exp": now.Add(-time.Second).Unix(), "iat": now.Add(-time.Hour).Unix()}}, authz.ReasonExpired},
		"for another audience":         {decided{jwt: m{"aud": "billing"}}, authz.ReasonWrongAudience},
		"for another, says the answer": {decided{answer: m{"aud": "billing"}}, authz.ReasonWrongAudience},
		"for another, any accepted": {decided{
			jwt: m{"aud": "billing"}, change: func(c *introspect.Config) { c.Audiences = []string{"*"} },
		}, authz.ReasonWrongAudience},
		"lesser scope, says the JWT":  {decided{jwt: m{"scope": "write"}}, authz.ReasonInsufficientScope},
		"lesser scope, as a list":     {decided{jwt: m{"scope": nil, "scp": []string{"write"}}}, authz.ReasonInsufficientScope},
		"lesser scope, response":      {decided{answer: m{"scope": "write"}}, authz.ReasonInsufficientScope},
		"no scope in the response":    {decided{answer: m{"scope": nil}}, authz.ReasonInsufficientScope},
		"no scope in the JWT":         {decided{jwt: m{"scope": nil}}, authz.ReasonAllowed},
		"used by an actor":            {decided{jwt: m{"act": m{"sub": "robot"}}}, authz.ReasonPolicyDenied},
		"issuers differ":              {decided{jwt: m{}, answer: m{"iss": "https://other.example"}}, authz.ReasonUnknownIssuer},
		"an ID token":                 {decided{jwt: m{"nonce": "n"}}, authz.ReasonUnsupportedToken},
		"an ID token, says the other": {decided{answer: m{"at_hash": "h"}}, authz.ReasonUnsupportedToken},
		"an ID token, accepted":       {decided{jwt: m{"nonce": "n"}, answer: m{"nonce": "n"}, change: func(c *introspect.Config) { c.AcceptIDTokens = true }}, authz.ReasonAllowed},
		"a refresh token":             {decided{jwt: m{"typ": "Refresh"}, change: func(c *introspect.Config) { c.AcceptIDTokens = true }}, authz.ReasonUnsupportedToken},
		"a logout token":              {decided{jwt: m{"events": m{}}}, authz.ReasonUnsupportedToken},
		"a JWT of another type":       {decided{header: []authztest.Minting{authztest.Header("typ", "secevent+jwt")}}, authz.ReasonUnsupportedToken},
		"status differs":              {decided{jwt: m{"status": status}, answer: m{"status": m{"status_list": m{"uri": "https://as.example/list", "idx": 8}}}}, authz.ReasonBadClaim},
		"another sub":                 {decided{answer: m{"sub": "u-17"}}, authz.ReasonAllowed},
		"null members are absent":     {decided{answer: m{"sub": "alice", "nbf": json.RawMessage("null"), "cnf": json.RawMessage("null")}}, authz.ReasonAllowed},
		"sub of the JWT revoked":      {decided{answer: m{"sub": "u-17"}, revoked: key(authz.KindSub, "alice")}, authz.ReasonRevoked},
		"sub of the response revoked": {decided{answer: m{"sub": "u-17"}, revoked: key(authz.KindSub, "u-17")}, authz.ReasonRevoked},
		"jti of the JWT revoked":      {decided{answer: m{"jti": "other"}, revoked: key(authz.KindJTI, "j1")}, authz.ReasonRevoked},
	} {
		for _, foreign := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", foreign"}[foreign], func(t *testing.T) {
				t.Parallel()
				c := tt.decided
				c.foreign = foreign
				d, _ := c.decide(t)
				require.Equal(t, tt.want, d.Reason, d.Detail)
				if d.Token != nil && name == "another sub" {
					require.Equal(t, "u-17", d.Token.Subject, "the response names the subject")
				}
			})
		}
	}
}

// A JWT of a configured issuer is verified here and asked about.
func TestVerifiedJWTIsAskedAbout(t *testing.T) {
	t.Parallel()
	d, asked := decided{}.decide(t)
	require.Equal(t, authz.ReasonAllowed, d.Reason, d.Detail)
	require.True(t, asked)
	d, asked = decided{answer: map[string]any{"active": false}}.decide(t)
	require.Equal(t, authz.ReasonInactive, d.Reason, d.Detail)
	require.True(t, asked)
	for name, c := range map[string]decided{
		"forged":  {header: []authztest.Minting{authztest.Tampered()}},
		"expired": {jwt: map[string]any{"exp": time.Now().Add(-time.Second).Unix()}},
		"refused": {jwt: map[string]any{"typ": "Refresh"}},
	} {
		d, asked = c.decide(t)
		require.False(t, d.Allowed(), name)
		require.False(t, asked, name)
	}
}

// The key behind a signature is a name of the token, in the header or not.
func TestRevokedKeyOfAnIntrospectedJWT(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
	own := authztest.StartIssuer(t, authztest.Named("https://as.example"), authztest.Algorithms("ES256"))
	verifier := authztest.NewVerifier(t, own)
	raw := own.Mint(nil, authztest.RawHeader([]byte(`{"alg":"ES256"}`)))
	s.tokens[raw] = activeResponse(nil)
	verified, err := verifier.Verify(t.Context(), raw)
	require.NoError(t, err)
	token, err := in.Introspector.Introspect(t.Context(), raw, verified, "")
	require.NoError(t, err)
	require.Contains(t, token.Keys, authz.RevocationKey(authz.KindKID, "https://as.example", own.Key("").ID))
	require.Equal(t, verified.Query().TokenKey, token.Query().TokenKey)
	unverified, err := in.Introspect(t.Context(), raw)
	require.NoError(t, err)
	require.NotSame(t, token, unverified, "the answer is judged by what the verifier made of the token")
	require.NotContains(t, unverified.Keys, authz.RevocationKey(authz.KindKID, "https://as.example", own.Key("").ID))
	again, err := in.Introspector.Introspect(t.Context(), raw, verified, "")
	require.NoError(t, err)
	require.Equal(t, token.Keys, again.Keys)
	twice, err := in.Introspector.Introspect(t.Context(), raw, verified, "")
	require.NoError(t, err)
	require.Same(t, again, twice, "and is judged once")
	require.EqualValues(t, 1, s.requests.Load())
}

// The place in a status list is among what a JWT says against itself.
func TestStatusOfAnIntrospectedJWT(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
	own := authztest.StartIssuer(t, authztest.Named("https://as.example"))
	raw := own.Mint(map[string]any{"status": map[string]any{"status_list": map[string]any{"uri": "https://as.example/list", "idx": 7}}})
	s.tokens[raw] = activeResponse(nil)
	token, err := in.Introspect(t.Context(), raw)
	require.NoError(t, err)
	require.Equal(t, &authz.StatusRef{URI: "https://as.example/list", Index: 7}, token.Query().Status)
}

// One JWT is two tokens: what a route verifies, and what another introspects. No
// cache on the way takes one for the other.
func TestTwoQuestionsAboutOneToken(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	cfg := introspectionConfig(t, s)
	cfg.Tokens = "all"
	all, err := introspect.New([]introspect.Config{cfg}, introspect.Options{})
	require.NoError(t, err)
	t.Cleanup(all.Close)
	p, err := policy.Compile([]policy.RouteConfig{
		{Name: "asked", Introspection: "as", Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/asked"}}}}, {Name: "verified"},
	}, policy.Options{Introspectors: all.ByName()})
	require.NoError(t, err)
	own := authztest.StartIssuer(t, authztest.Named(cfg.Issuer))
	raw := own.Mint(map[string]any{"sub": "alice"})
	s.tokens[raw] = activeResponse(map[string]any{"sub": "u-17"})
	store := authztest.KeyTier{}
	a := authz.NewAuthorizer(authztest.NewVerifier(t, own), &authztest.MemoryTokens{}, authz.NewChain(nil, &authztest.MemoryCache{}, store), p, authz.SystemClock{})
	decide := func(path string) authz.Decision {
		return a.Authorize(t.Context(), &authz.Request{Method: "GET", Path: path, Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}})
	}
	require.Equal(t, authz.ReasonAllowed, decide("/verified").Reason)
	store[authz.RevocationKey(authz.KindSub, cfg.Issuer, "u-17")] = true // not this route's question
	for range 10 {
		asked, verified := decide("/asked"), decide("/verified")
		require.Equal(t, authz.ReasonRevoked, asked.Reason, asked.Detail)
		require.Equal(t, authz.ReasonAllowed, verified.Reason, verified.Detail)
		require.Equal(t, "u-17", asked.Token.Subject)
		require.Equal(t, "alice", verified.Token.Subject)
		require.NotSame(t, asked.Token, verified.Token, "an adapter's encoded answer belongs to one of them")
	}
}
