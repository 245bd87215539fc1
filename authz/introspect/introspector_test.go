package introspect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/explain"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/policy"
)

// authServer is an authorization server with an introspection endpoint.
type authServer struct {
	*httptest.Server
	mu       sync.Mutex
	tokens   map[string]string // token → response
	status   int
	kind     string
	block    chan struct{} // nil: answers at once
	requests atomic.Int32
	lastReq  atomic.Pointer[http.Request]
}

func newAuthServer(t testing.TB) *authServer {
	t.Helper()
	s := &authServer{tokens: map[string]string{}, status: 200, kind: "application/json"}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if r.PostForm.Get("token") != "jwt-bouncer-probe" { // of the breaker, in the background
			s.requests.Add(1)
		}
		s.lastReq.Store(r)
		s.mu.Lock()
		body, ok := s.tokens[r.PostForm.Get("token")]
		status, kind, block := s.status, s.kind, s.block
		s.mu.Unlock()
		if block != nil {
			select {
			case <-block:
			case <-r.Context().Done():
			}
		}
		if !ok {
			body = `{"active":false}`
		}
		w.Header().Set("Content-Type", kind)
		if status == http.StatusFound {
			w.Header().Set("Location", "https://elsewhere.example/")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *authServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// activeResponse is the response for a good token.
func activeResponse(change map[string]any) string {
	m := map[string]any{"active": true, "sub": "alice", "aud": "api", "scope": "read write", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for k, v := range change {
		m[k] = v
		if v == nil {
			delete(m, k)
		}
	}
	b, _ := json.Marshal(m)
	return string(b)
}

func introspectionConfig(t testing.TB, s *authServer) introspect.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("p%ss word\n"), 0o600))
	return introspect.Config{Name: "as", Endpoint: s.URL + "/introspect", Issuer: "https://as.example", Audiences: []string{"api"}, ClientID: "bouncer:1", ClientSecretFile: file}
}

// asker asks about tokens that nothing has verified, for clients without address.
type asker struct{ authz.Introspector }

func (a asker) Introspect(ctx context.Context, raw string) (*authz.Token, error) {
	return a.Introspector.Introspect(ctx, raw, nil, "")
}

func newIntrospector(t testing.TB, c introspect.Config, o introspect.Options) asker {
	t.Helper()
	all, err := introspect.New([]introspect.Config{c}, o)
	require.NoError(t, err)
	t.Cleanup(all.Close)
	return asker{all.ByName()["as"]}
}

func TestIntrospect(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
	s.tokens["opaque-1"] = activeResponse(map[string]any{"jti": "j1", "cnf": map[string]any{"jkt": "x"}})
	token, err := in.Introspect(t.Context(), "opaque-1")
	require.NoError(t, err)
	require.Equal(t, "https://as.example", token.Issuer)
	require.Equal(t, "alice", token.Subject)
	require.Equal(t, "j1", token.ID)
	require.Equal(t, []string{"read", "write"}, token.Scopes)
	require.True(t, token.Accepted)
	require.Contains(t, token.Claims, "cnf")
	require.NotEmpty(t, token.Keys)
	again, err := in.Introspect(t.Context(), "opaque-1")
	require.NoError(t, err)
	require.Same(t, token, again)
	require.EqualValues(t, 1, s.requests.Load())
	req := s.lastReq.Load()
	user, pass, ok := req.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "bouncer%3A1", user)
	require.Equal(t, "p%25ss+word", pass)
	require.Equal(t, "access_token", req.PostForm.Get("token_type_hint"))
}

func TestIntrospectionClientAuth(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	c := introspectionConfig(t, s)
	c.ClientAuth = "post"
	// A request is limited to 180 ms, which a busy machine may exceed.
	ask := func() authz.Reason {
		for range 20 {
			_, err := newIntrospector(t, c, introspect.Options{}).Introspect(t.Context(), "x")
			if r := authztest.ReasonOf(err); r == authz.ReasonInactive {
				return r
			}
		}
		return authz.ReasonUnset
	}
	require.Equal(t, authz.ReasonInactive, ask())
	require.Equal(t, "bouncer:1", s.lastReq.Load().PostForm.Get("client_id"))
	require.Equal(t, "p%ss word", s.lastReq.Load().PostForm.Get("client_secret"))
	c.ClientAuth, c.ClientID = "", ""
	require.Equal(t, authz.ReasonInactive, ask())
	require.Equal(t, "Bearer p%ss word", s.lastReq.Load().Header.Get("Authorization"))
}

func TestIntrospectionAnswers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tt := range map[string]struct {
		answer string
		want   authz.Reason
	}{
		"inactive":            {`{"active":false,"sub":"alice"}`, authz.ReasonInactive},
		"active a string":     {`{"active":"true"}`, authz.ReasonRevocationUnknown},
		"active missing":      {`{"sub":"alice"}`, authz.ReasonRevocationUnknown},
		"active twice":        {`{"active":false,"active":true}`, authz.ReasonRevocationUnknown},
		"not JSON":            {`active`, authz.ReasonRevocationUnknown},
		"empty":               {``, authz.ReasonRevocationUnknown},
		"array":               {`[{"active":true}]`, authz.ReasonRevocationUnknown},
		"huge":                {`{"active":true,"x":"` + strings.Repeat("x", 1<<17) + `"}`, authz.ReasonRevocationUnknown},
		"no exp":              {activeResponse(map[string]any{"exp": nil}), authz.ReasonBadClaim},
		"exp a string":        {activeResponse(map[string]any{"exp": "x"}), authz.ReasonBadClaim},
		"expired":             {activeResponse(map[string]any{"exp": now.Add(-time.Second).Unix()}), authz.ReasonExpired},
		"not yet":             {activeResponse(map[string]any{"nbf": now.Add(30 * time.Minute).Unix()}), authz.ReasonNotYetValid},
		"iat ahead":           {activeResponse(map[string]any{"iat": now.Add(30 * time.Minute).Unix()}), authz.ReasonNotYetValid},
		"nbf a moment ahead":  {activeResponse(map[string]any{"nbf": now.Add(2 * time.Second).Unix()}), authz.ReasonAllowed},
		"iat a moment ahead":  {activeResponse(map[string]any{"iat": now.Add(2 * time.Second).Unix()}), authz.ReasonAllowed},
		"iat long ago":        {activeResponse(map[string]any{"iat": now.Add(-23*time.Hour - time.Minute).Unix()}), authz.ReasonLifetimeTooLong}, // exp is in an hour
		"iat 0":               {activeResponse(map[string]any{"iat": 0}), authz.ReasonLifetimeTooLong},
		"no iat":              {activeResponse(map[string]any{"iat": nil}), authz.ReasonAllowed},
		"beyond revocations":  {activeResponse(map[string]any{"exp": now.Add(25 * time.Hour).Unix()}), authz.ReasonLifetimeTooLong},
		"other issuer":        {activeResponse(map[string]any{"iss": "https://other"}), authz.ReasonUnknownIssuer},
		"same issuer":         {activeResponse(map[string]any{"iss": "https://as.example"}), authz.ReasonAllowed},
		"byte order mark":     {"\ufeff" + activeResponse(nil), authz.ReasonAllowed},
		"members null":        {strings.Replace(activeResponse(nil), "{", `{"nbf":null,"sid":null,"cnf":null,"jti":null,"act":null,"status":null,`, 1), authz.ReasonAllowed},
		"members empty":       {strings.Replace(activeResponse(nil), "{", `{"nbf":"","iss":"","sid":"","cnf":[],"token_use":"","typ":"",`, 1), authz.ReasonAllowed},
		"active null":         {`{"active":null}`, authz.ReasonRevocationUnknown},
		"exp null":            {strings.Replace(activeResponse(map[string]any{"exp": nil}), "{", `{"exp":null,`, 1), authz.ReasonBadClaim},
		"other audience":      {activeResponse(map[string]any{"aud": []string{"billing"}}), authz.ReasonAllowed}, // the route refuses it: it is not Accepted
		"sub a number":        {activeResponse(map[string]any{"sub": 7}), authz.ReasonBadClaim},
		"scope with a number": {activeResponse(map[string]any{"scope": []any{1}}), authz.ReasonBadClaim},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAuthServer(t)
			s.tokens["tok"] = tt.answer
			in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
			token, err := in.Introspect(t.Context(), "tok")
			if tt.want == authz.ReasonAllowed {
				require.NoError(t, err)
				require.Equal(t, name != "other audience", token.Accepted)
				return
			}
			require.Nil(t, token)
			require.Equal(t, tt.want, authztest.ReasonOf(err), "%v", err)
		})
	}
}

func TestIntrospectionEndpointFailures(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*authServer){
		"500":          func(s *authServer) { s.status = 500 },
		"401":          func(s *authServer) { s.status = 401 },
		"redirect":     func(s *authServer) { s.status = http.StatusFound },
		"content type": func(s *authServer) { s.kind = "text/html" },
		"closed":       func(s *authServer) { s.Close() },
		"hangs":        func(s *authServer) { s.block = make(chan struct{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAuthServer(t)
			s.tokens["tok"] = activeResponse(nil)
			in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
			s.set(func() { fault(s) })
			_, err := in.Introspect(t.Context(), "tok")
			require.Equal(t, authz.ReasonRevocationUnknown, authztest.ReasonOf(err), "%v", err)
			require.NotContains(t, err.Error(), "tok=")
		})
	}
}

func TestIntrospectionRecoversAfterAnOutage(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	s.tokens["tok"] = activeResponse(nil)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
	s.set(func() { s.status = 503 })
	for range 20 {
		_, err := in.Introspect(t.Context(), "tok")
		require.Equal(t, authz.ReasonRevocationUnknown, authztest.ReasonOf(err))
	}
	require.EqualValues(t, 5, s.requests.Load(), "the breaker is open")
	s.set(func() { s.status = 200 })
	require.Eventually(t, func() bool { _, err := in.Introspect(context.Background(), "tok"); return err == nil }, 5*time.Second, 20*time.Millisecond)
}

// An error response about some tokens does not stop the introspection of others.
func TestBadTokensDoNotStopIntrospection(t *testing.T) {
	t.Parallel()
	for status, asked := range map[int]int32{400: 21, 413: 21, 422: 21, 431: 21, 401: 5, 403: 5, 404: 5, 429: 5, 500: 5} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			s := newAuthServer(t)
			s.tokens["good"] = activeResponse(nil)
			in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
			s.set(func() { s.status = status })
			for i := range 20 {
				_, err := in.Introspect(t.Context(), fmt.Sprint("bad", i))
				require.Equal(t, authz.ReasonRevocationUnknown, authztest.ReasonOf(err))
			}
			s.set(func() { s.status = 200 })
			_, err := in.Introspect(t.Context(), "good")
			require.Equal(t, asked, s.requests.Load(), "%v", err)
			require.Equal(t, asked == 21, err == nil, "%v", err)
		})
	}
}

// A response need not repeat the claims of a JWT and never contains its kid. The
// token is revocable by them all the same.
func TestIntrospectedJWTIsRevocableByItsOwnNames(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	c := introspectionConfig(t, s)
	c.Tokens = "all"
	in := newIntrospector(t, c, introspect.Options{RevocableClaims: []string{"tenant"}})
	iss := authztest.StartIssuer(t, authztest.Named(c.Issuer))
	own := map[string]any{"jti": "j", "sub": "alice", "sid": "s", "azp": "app", "tenant": "acme"}
	names := map[authz.Kind]string{
		authz.KindJTI: "j", authz.KindSub: "alice", authz.KindSID: "s", authz.KindKID: iss.Key("").ID, authz.KindClient: "app", authz.KindClaim: "tenant=acme",
	}
	good := iss.Mint(own)
	for name, raw := range map[string]string{
		"as minted":               good,
		"signature with padding":  good + "=",
		"algorithm not ours":      iss.Mint(own, authztest.Header("alg", "HS256"), authztest.Header("kid", iss.Key("").ID)),
		"header that we refuse":   iss.Mint(own, authztest.Header("jku", "https://a.example")),
		"no signature to look at": good[:strings.LastIndexByte(good, '.')+1],
	} {
		s.set(func() {
			s.tokens[raw] = activeResponse(map[string]any{"sub": "u-17", "jti": nil, "client_id": "other", "tenant": "mine"})
		})
		token, err := in.Introspect(t.Context(), raw)
		require.NoError(t, err, name)
		require.Equal(t, "u-17", token.Subject)
		for kind, value := range names {
			require.Contains(t, token.Keys, authz.RevocationKey(kind, c.Issuer, value), "%s: %s", name, kind)
		}
		for _, stated := range []authz.KeyName{{Kind: authz.KindSub, Value: "u-17"}, {Kind: authz.KindClient, Value: "other"}, {Kind: authz.KindClaim, Value: "tenant=mine"}} {
			require.Contains(t, token.Keys, authz.RevocationKey(stated.Kind, c.Issuer, stated.Value))
		}
		require.Equal(t, authz.RevocationKey(authz.KindToken, c.Issuer, authz.TokenValue(good)) == token.Query().TokenKey, authz.TokenValue(good) == authz.TokenValue(raw))
	}
	opaque := []string{"opaque", "e30.e30.", "e30.W10.A", "e30." + authztest.Base64URL([]byte(`{"jti":7,"sub":null,"sid":""}`)) + ".A"}
	for _, raw := range opaque { // no readable names
		s.set(func() { s.tokens[raw] = activeResponse(nil) })
		token, err := in.Introspect(t.Context(), raw)
		require.NoError(t, err)
		require.Len(t, token.Keys, 4, raw)
	}
}

func TestIntrospectionCacheIsBounded(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	s.tokens["tok"] = activeResponse(nil)
	clock := &authztest.MovableClock{}
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{Clock: clock})
	ask := func() error { _, err := in.Introspect(t.Context(), "tok"); return err }
	require.NoError(t, ask())
	s.set(func() { delete(s.tokens, "tok") }) // the issuer revokes it
	clock.Move(9 * time.Second)
	require.NoError(t, ask(), "still cached")
	clock.Move(2 * time.Second)
	require.Equal(t, authz.ReasonInactive, authztest.ReasonOf(ask()), "no longer cached after 10s")
	require.EqualValues(t, 2, s.requests.Load())
	require.Equal(t, authz.ReasonInactive, authztest.ReasonOf(ask()))
	require.EqualValues(t, 2, s.requests.Load(), "inactive responses are cached too")
	clock.Move(11 * time.Second)
	s.set(func() { s.status = 500 })
	require.Equal(t, authz.ReasonRevocationUnknown, authztest.ReasonOf(ask()), "an old response is not used while the endpoint fails")
}

// Cached responses are bounded by number and by memory, which for many small
// objects is many times the length of the text.
func TestIntrospectionCacheBytes(t *testing.T) {
	t.Parallel()
	const tokens = 40
	groups := make([]any, 400)
	for i := range groups {
		groups[i] = map[string]any{"id": i}
	}
	for name, tt := range map[string]struct {
		answer map[string]any
		change func(*introspect.Config)
		bound  bool
	}{
		"small answers":  {nil, func(*introspect.Config) {}, false},
		"few entries":    {nil, func(c *introspect.Config) { c.CacheEntries = 5 }, true},
		"large answers":  {map[string]any{"groups": groups}, func(c *introspect.Config) { c.CacheBytes = 1 << 20 }, true},
		"large, default": {map[string]any{"groups": groups}, func(*introspect.Config) {}, false},
	} {
		s := newAuthServer(t)
		for i := range tokens {
			s.tokens[fmt.Sprint("token-", i)] = activeResponse(tt.answer)
		}
		c := introspectionConfig(t, s)
		c.CacheTTL = 30 * time.Second
		tt.change(&c)
		in := newIntrospector(t, c, introspect.Options{})
		ask := func() (again int) {
			before := s.requests.Load()
			for i := range tokens {
				_, err := in.Introspect(t.Context(), fmt.Sprint("token-", i))
				require.NoError(t, err, name)
			}
			return int(s.requests.Load() - before)
		}
		require.Equal(t, tokens, ask(), name)
		if !tt.bound {
			require.Zero(t, ask(), name)
			continue
		}
		// The cache evicts in the background.
		for try := 0; ask() < tokens/2; try++ {
			require.Less(t, try, 1000, name)
		}
	}
}

func TestConcurrentCallersShareARequest(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	s.tokens["tok"] = activeResponse(nil)
	s.block = make(chan struct{})
	reg := prometheus.NewRegistry()
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{Registry: reg})
	var wg sync.WaitGroup
	var allowed atomic.Int32
	for range 50 {
		wg.Go(func() {
			if _, err := in.Introspect(context.Background(), "tok"); err == nil {
				allowed.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return s.requests.Load() > 0 }, time.Second, time.Millisecond)
	close(s.block)
	wg.Wait()
	require.EqualValues(t, 50, allowed.Load())
	require.LessOrEqual(t, s.requests.Load(), int32(2))
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	require.Equal(t, "jwt_bouncer_introspections_total", families[0].GetName())
}

func TestConcurrentIntrospectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	s.block = make(chan struct{})
	c := introspectionConfig(t, s)
	c.MaxConcurrent = 2
	in := newIntrospector(t, c, introspect.Options{})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() { _, _ = in.Introspect(context.Background(), fmt.Sprint("tok", i)) })
	}
	require.Eventually(t, func() bool { return s.requests.Load() == 2 }, time.Second, time.Millisecond)
	_, err := in.Introspect(t.Context(), "tok9")
	require.Equal(t, authz.ReasonOverloaded, authztest.ReasonOf(err))
	close(s.block)
	wg.Wait()
}

func TestIntrospectionEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	s.block = make(chan struct{})
	defer close(s.block)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := in.Introspect(ctx, "tok")
	require.Equal(t, authz.ReasonRevocationUnknown, authztest.ReasonOf(err))
}

// Through the Authorizer: the verifier gets JWTs, the endpoint gets other tokens,
// and the route's rules and revocations apply to both.
func TestOpaqueTokensThroughTheAuthorizer(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	s.tokens["good"], s.tokens["revoked"] = activeResponse(nil), activeResponse(map[string]any{"jti": "gone"})
	s.tokens["foreign"] = activeResponse(map[string]any{"aud": "billing"})
	s.tokens["bound"] = activeResponse(map[string]any{"cnf": map[string]any{"jkt": strings.Repeat("A", 43)}})
	all, err := introspect.New([]introspect.Config{introspectionConfig(t, s)}, introspect.Options{})
	require.NoError(t, err)
	t.Cleanup(all.Close)
	p, err := policy.Compile([]policy.RouteConfig{
		{Name: "opaque", Introspection: "as", Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/opaque"}}}, Scopes: []string{"read"}, Allow: []string{"token.iss == 'https://as.example'"}},
		{Name: "admin", Introspection: "as", Match: policy.MatchConfig{Paths: []policy.PathConfig{{Prefix: "/admin"}}}, Scopes: []string{"admin"}},
		{Name: "jwt"},
	}, policy.Options{Introspectors: all.ByName()})
	require.NoError(t, err)
	gone := authz.RevocationKey(authz.KindJTI, "https://as.example", "gone")
	iss := authztest.StartIssuer(t)
	a := authz.NewAuthorizer(authztest.NewVerifier(t, iss), nil, authz.NewChain(nil, authztest.KeyTier{gone: true}), p, authz.SystemClock{})
	for _, tt := range []struct {
		path, raw string
		want      authz.Reason
	}{
		{"/opaque", "good", authz.ReasonAllowed},
		{"/opaque", "unknown", authz.ReasonInactive},
		{"/opaque", "revoked", authz.ReasonRevoked},
		{"/opaque", "foreign", authz.ReasonWrongAudience},
		{"/opaque", "bound", authz.ReasonBindingMismatch},
		{"/admin", "good", authz.ReasonInsufficientScope},
		{"/other", "good", authz.ReasonMalformedToken},
		{"/opaque", iss.Mint(map[string]any{"scope": "read"}), authz.ReasonPolicyDenied}, // verified here; its iss is another
		{"/opaque", iss.Mint(nil) + "x", authz.ReasonMalformedToken},
	} {
		d := a.Authorize(t.Context(), &authz.Request{Path: tt.path, Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + tt.raw}}})
		require.Equal(t, tt.want, d.Reason, "%s %s: %s", tt.path, tt.raw, d.Detail)
	}
}

// With tokens: opaque, JWTs of the configured issuers are verified locally, and
// only other tokens are introspected. The explanation agrees with the decision.
func TestForeignJWTsAreIntrospected(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	all, err := introspect.New([]introspect.Config{introspectionConfig(t, s)}, introspect.Options{})
	require.NoError(t, err)
	t.Cleanup(all.Close)
	p, err := policy.Compile([]policy.RouteConfig{{Name: "both", Introspection: "as"}}, policy.Options{Introspectors: all.ByName()})
	require.NoError(t, err)
	local, foreign := authztest.StartIssuer(t), authztest.StartIssuer(t, authztest.Named("https://as.example"))
	v := authztest.NewVerifier(t, local)
	a := authz.NewAuthorizer(v, nil, authz.NewChain(nil, authztest.KeyTier{}), p, authz.SystemClock{})
	spaced := []byte("{\n  \"alg\": \"" + local.Key("").Alg + "\", \"kid\": \"" + local.Key("").ID + "\"\n}")
	for name, tt := range map[string]struct {
		raw    string
		active bool
		asked  bool
		want   authz.Reason
	}{
		"ours":                     {local.Mint(nil), true, false, authz.ReasonAllowed},
		"ours, header with spaces": {local.Mint(nil, authztest.RawHeader(spaced)), true, false, authz.ReasonAllowed},
		"ours, forged":             {local.Mint(nil, authztest.Tampered()), true, false, authz.ReasonBadSignature},
		"foreign":                  {foreign.Mint(nil), true, true, authz.ReasonAllowed},
		"foreign, not active":      {foreign.Mint(nil), false, true, authz.ReasonInactive},
		"without issuer":           {foreign.Mint(map[string]any{"iss": nil}), true, true, authz.ReasonAllowed},
		"opaque with dots":         {"1.2.3", true, true, authz.ReasonAllowed},
	} {
		if tt.active {
			s.set(func() { s.tokens[tt.raw] = activeResponse(nil) })
		}
		before := s.requests.Load()
		req := &authz.Request{Method: "GET", Path: "/", Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + tt.raw}}}
		d := a.Authorize(t.Context(), req)
		require.Equal(t, tt.want, d.Reason, "%s: %s", name, d.Detail)
		require.Equal(t, tt.asked, s.requests.Load() > before, name)
		explained, skipped := authz.ReasonAllowed, false
		for _, step := range authztest.NewExplainer(p, v, authztest.KeyTier{}).Explain(t.Context(), req).Steps {
			if step.Outcome == authz.Refused && explained == authz.ReasonAllowed {
				explained = step.Reason
			}
		}
		require.Equal(t, tt.want, explained, name)
		for _, step := range (explain.Explainer{Authorizer: a, Offline: true}).Explain(t.Context(), req).Steps {
			skipped = skipped || step.Rule == "introspection" && step.Outcome == authz.Skipped
		}
		require.Equal(t, tt.asked, skipped, name)
	}
}

// A JWT that two parsers could read differently is refused without a request,
// because the names by which it can be revoked are ambiguous.
func TestAmbiguousForeignJWTs(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
	foreign := authztest.StartIssuer(t, authztest.Named("https://as.example"))
	for _, claims := range []string{`{"iss":"https://as.example","jti":"a","jti":"b"}`, `{"iss":"https://as.example","x":1e400}`} {
		raw := foreign.Mint(nil, authztest.RawPayload([]byte(claims)))
		s.set(func() { s.tokens[raw] = activeResponse(nil) })
		_, err := authztest.NewVerifier(t, authztest.StartIssuer(t)).Verify(t.Context(), raw)
		require.Equal(t, authz.ReasonUnknownIssuer, authztest.ReasonOf(err), "the verifier does not refuse it")
		_, err = in.Introspect(t.Context(), raw)
		require.Equal(t, authz.ReasonMalformedToken, authztest.ReasonOf(err), claims)
	}
	require.Zero(t, s.requests.Load())
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		c    introspect.Config
		want []string
	}{
		{introspect.Config{}, []string{"name", "endpoint", "issuer", "audiences", "client_secret_file"}},
		{introspect.Config{Name: "a", Endpoint: "http://as.example/x", Issuer: "i", Audiences: []string{"*"}, ClientSecretFile: "f", ClientID: "x", ClientAuth: "bearer",
			Tokens: "some", Timeout: 11 * time.Second, CacheTTL: time.Minute, CacheEntries: -1, CacheBytes: -1, MaxConcurrent: -1},
			[]string{"endpoint", "client_id", "tokens", "timeout", "cache_ttl", "cache_entries", "cache_bytes", "max_concurrent"}},
		{introspect.Config{Name: "a", Endpoint: "https://u:p@as.example/x", Issuer: "i", Audiences: []string{"*"}, ClientSecretFile: "f", ClientAuth: "mac"}, []string{"endpoint", "client_auth"}},
		{introspect.Config{Name: "a", Endpoint: "http://127.0.0.1/x", Issuer: "i", Audiences: []string{"*"}, ClientSecretFile: "f"}, nil},
		{introspect.Config{Name: "a", Endpoint: "http://127.0.0.1/x", Issuer: "i", Audiences: []string{"*"}, ClientSecretFile: "f", Timeout: 10 * time.Second}, nil},
		{introspect.Config{Name: "a", Endpoint: "http://127.0.0.1/x", Issuer: "i", Audiences: []string{"*"}, ClientSecretFile: "f", CacheTTL: time.Millisecond}, nil},
		{introspect.Config{Name: "a", Endpoint: "http://127.0.0.1/x", Issuer: "i", Audiences: []string{"*"}, ClientSecretFile: "f", Timeout: time.Second, CacheTTL: 900 * time.Millisecond}, []string{"timeout"}},
	} {
		var got []string
		tt.c.Validate(30*time.Second, func(path, _ string, _ ...any) { got = append(got, path) })
		require.Equal(t, tt.want, got)
	}
	_, err := introspect.New([]introspect.Config{{}}, introspect.Options{})
	require.ErrorContains(t, err, "introspection[0].name")
}

// panicking is a transport that panics.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("defect") }

func TestPanicIsAFailure(t *testing.T) {
	t.Parallel()
	s := newAuthServer(t)
	in := newIntrospector(t, introspectionConfig(t, s), introspect.Options{Transport: panicking{}})
	for range 3 {
		_, err := in.Introspect(t.Context(), "tok")
		require.Equal(t, authz.ReasonInternal, authztest.ReasonOf(err), "%v", err)
	}
}

// Endpoints also report refresh and ID tokens as active.
func TestIntrospectedTokenOfAnotherUse(t *testing.T) {
	t.Parallel()
	for change, want := range map[[2]string]bool{
		{"token_use", "refresh_token"}:  false,
		{"token_use", "id"}:             false,
		{"typ", "Refresh"}:              false,
		{"typ", "Offline"}:              false,
		{"typ", "ID"}:                   false,
		{"token_type", "refresh_token"}: false,
		{"token_use", "access_token"}:   true,
		{"token_use", "access"}:         true,
		{"typ", "Bearer"}:               true,
		{"token_type", "DPoP"}:          false, // bound, but to no key
	} {
		s := newAuthServer(t)
		s.set(func() { s.tokens["some-token"] = activeResponse(map[string]any{change[0]: change[1]}) })
		i := newIntrospector(t, introspectionConfig(t, s), introspect.Options{})
		_, err := i.Introspect(t.Context(), "some-token")
		var f *authz.Failure
		ok := err == nil
		assert.Equalf(t, want, ok, "%s: %v", change, err)
		reason := authz.ReasonUnsupportedToken
		if change[1] == "DPoP" {
			reason = authz.ReasonBindingMismatch
		}
		assert.Falsef(t, !ok && (!errors.As(err, &f) || f.Reason != reason), "%s: %v", change, err)
	}
}
