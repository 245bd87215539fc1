package statuslist_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/statuslist"
)

// statusServer publishes status lists.
type statusServer struct {
	*httptest.Server
	fetched atomic.Int32
	mu      sync.Mutex
	body    func(uri string) string
	status  int
	kind    string
	block   chan struct{}
}

func newStatusServer(t testing.TB) *statusServer {
	t.Helper()
	s := &statusServer{status: 200, kind: "application/statuslist+jwt"}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetched.Add(1)
		s.mu.Lock()
		body, status, kind, block := s.body, s.status, s.kind, s.block
		s.mu.Unlock()
		if block != nil {
			select {
			case <-block:
			case <-r.Context().Done():
			}
		}
		if status == http.StatusFound {
			w.Header().Set("Location", "http://localhost:1/")
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, body(s.URL+r.URL.Path))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *statusServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *statusServer) host() string { return strings.TrimPrefix(s.URL, "http://") }

// packList compresses entries of the given width.
func packList(bits int, values ...byte) map[string]any {
	per := 8 / bits
	data := make([]byte, (len(values)+per-1)/per)
	for i, v := range values {
		data[i/per] |= v << (i % per * bits)
	}
	return map[string]any{"bits": bits, "lst": pack(data)}
}

func pack(data []byte) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return authztest.Base64URL(b.Bytes())
}

// mintList signs a status list token; nil in change leaves a claim out.
func mintList(iss *authztest.Issuer, uri string, list any, change map[string]any, options ...authztest.Minting) string {
	claims := map[string]any{"sub": uri, "aud": nil, "jti": nil, "status_list": list}
	for k, v := range change {
		claims[k] = v
	}
	return iss.Mint(claims, append([]authztest.Minting{authztest.Header("typ", "statuslist+jwt")}, options...)...)
}

func newStatusLists(t testing.TB, s *statusServer, v statuslist.SecurityEventVerifier, clock authz.Clock, change ...func(*statuslist.Config)) *statuslist.Lists {
	t.Helper()
	c := statuslist.Config{Hosts: []string{s.host()}}
	for _, f := range change {
		f(&c)
	}
	l, err := statuslist.New(c, statuslist.Options{Verifier: v, Clock: clock})
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

func statusQuery(iss *authztest.Issuer, uri string, index uint64) *authz.Query {
	return &authz.Query{Issuer: iss.Name, Status: &authz.StatusRef{URI: uri, Index: index}}
}

// The examples of the draft's section 4.1: one bit and two bits an entry.
func TestStatusListExamples(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	one := map[string]any{"bits": 1, "lst": "eNrbuRgAAhcBXQ"}
	two := map[string]any{"bits": 2, "lst": "eNo76fITAAPfAgc"}
	s.body = func(uri string) string {
		if strings.HasSuffix(uri, "/1") {
			return mintList(iss, uri, one, nil)
		}
		return mintList(iss, uri, two, nil)
	}
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil)
	for i, want := range []int{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1} {
		v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/1", uint64(i)))
		require.NoError(t, err)
		require.Equal(t, want != 0, v == authz.Revoked, "one bit, entry %d", i)
	}
	for i, want := range []int{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3} {
		v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/2", uint64(i)))
		require.NoError(t, err)
		require.Equal(t, want != 0, v == authz.Revoked, "two bits, entry %d", i)
	}
	require.EqualValues(t, 2, s.fetched.Load())
}

// Without waiting, a list answers while no fetch is due. No question fetches it, not even one that it
// cannot answer.
func TestStatusListNow(t *testing.T) {
	t.Parallel()
	iss, s, clock := authztest.StartIssuer(t), newStatusServer(t), &authztest.MovableClock{}
	s.body = func(uri string) string { return mintList(iss, uri, packList(1, 0, 1), nil) }
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), clock, func(c *statuslist.Config) { c.MaxAge = 20 * time.Second })
	now := func(q *authz.Query) string {
		v, proven := l.LookupNow(q)
		return fmt.Sprint(v, proven)
	}
	good, revoked, beyond := statusQuery(iss, s.URL+"/1", 0), statusQuery(iss, s.URL+"/1", 1), statusQuery(iss, s.URL+"/1", 100)
	require.Equal(t, "not_revoked true", now(&authz.Query{}), "a token without a status list")
	require.Equal(t, "unknown false", now(good), "before the first fetch")
	_, err := l.Lookup(t.Context(), good)
	require.NoError(t, err)
	require.Equal(t, "not_revoked true", now(good))
	require.Equal(t, "revoked true", now(revoked))
	require.Equal(t, "unknown false", now(beyond))
	require.Equal(t, "unknown false", now(statusQuery(iss, "https://elsewhere.example/1", 0)))
	require.Equal(t, "unknown false", now(statusQuery(iss, s.URL+"/2", 0)))
	clock.Move(11 * time.Second)
	require.Equal(t, "unknown false", now(good), "a refresh is due")
	require.Equal(t, "unknown false", now(revoked), "a refresh is due")
	require.EqualValues(t, 1, s.fetched.Load())
}

func TestStatusListWidths(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	for _, bits := range []int{1, 2, 4, 8} {
		s.set(func() {
			s.body = func(uri string) string {
				return mintList(iss, uri, packList(bits, 0, 1, 0, 0, 1, 0, 0, 0, 1), nil)
			}
		})
		l := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil)
		for i, want := range []int{0, 1, 0, 0, 1, 0, 0, 0, 1} {
			v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/x", uint64(i)))
			require.NoError(t, err)
			require.Equal(t, want != 0, v == authz.Revoked, "%d bits, entry %d", bits, i)
		}
		v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/x", 1<<40))
		require.Equal(t, authz.Unknown, v)
		require.Error(t, err)
	}
}

func TestStatusListRefusals(t *testing.T) {
	t.Parallel()
	iss, other := authztest.StartIssuer(t), authztest.StartIssuer(t)
	good := packList(1, 0, 0, 0)
	plain := func(s *statusServer, change map[string]any, list any, o ...authztest.Minting) {
		s.body = func(uri string) string { return mintList(iss, uri, list, change, o...) }
	}
	for name, fault := range map[string]func(*statusServer){
		"500":          func(s *statusServer) { s.status = 500 },
		"redirect":     func(s *statusServer) { s.status = http.StatusFound },
		"content type": func(s *statusServer) { s.kind = "application/jwt" },
		"hangs":        func(s *statusServer) { s.block = make(chan struct{}) },
		"closed":       func(s *statusServer) { s.Close() },
		"not a token":  func(s *statusServer) { s.body = func(string) string { return "x" } },
		"access token": func(s *statusServer) { plain(s, nil, good, authztest.Header("typ", "at+jwt")) },
		"tampered":     func(s *statusServer) { plain(s, nil, good, authztest.Tampered()) },
		"other issuer": func(s *statusServer) {
			s.body = func(uri string) string { return mintList(other, uri, good, nil) }
		},
		"other key":         func(s *statusServer) { plain(s, nil, good, authztest.With(authztest.NewKey("ES256"))) },
		"another list":      func(s *statusServer) { plain(s, map[string]any{"sub": "https://elsewhere"}, good) },
		"no sub":            func(s *statusServer) { plain(s, map[string]any{"sub": nil}, good) },
		"no iat":            func(s *statusServer) { plain(s, map[string]any{"iat": nil}, good) },
		"expired":           func(s *statusServer) { plain(s, nil, good, authztest.Lifetime(-time.Hour)) },
		"no list":           func(s *statusServer) { plain(s, nil, nil) },
		"bits 3":            func(s *statusServer) { plain(s, nil, map[string]any{"bits": 3, "lst": good["lst"]}) },
		"bits text":         func(s *statusServer) { plain(s, nil, map[string]any{"bits": "1", "lst": good["lst"]}) },
		"lst not base64url": func(s *statusServer) { plain(s, nil, map[string]any{"bits": 1, "lst": "!"}) },
		"lst not zlib":      func(s *statusServer) { plain(s, nil, map[string]any{"bits": 1, "lst": "AAAA"}) },
		"lst cut": func(s *statusServer) {
			plain(s, nil, map[string]any{"bits": 1, "lst": pack(make([]byte, 999))[:12]})
		},
		"bomb": func(s *statusServer) {
			plain(s, nil, map[string]any{"bits": 1, "lst": pack(make([]byte, 3<<20))})
		},
		"ttl 0":    func(s *statusServer) { plain(s, map[string]any{"ttl": 0}, good) },
		"ttl text": func(s *statusServer) { plain(s, map[string]any{"ttl": "x"}, good) },
		"empty": func(s *statusServer) {
			plain(s, nil, map[string]any{"bits": 1, "lst": pack(nil)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStatusServer(t)
			plain(s, nil, good)
			s.set(func() { fault(s) })
			l := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil, func(c *statuslist.Config) {
				c.MaxBytes, c.Timeout = 1<<20, 100*time.Millisecond
			})
			v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/l", 1))
			require.Equal(t, authz.Unknown, v)
			require.Error(t, err)
		})
	}
}

func TestStatusListLongLived(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	for _, change := range []map[string]any{nil, {"exp": nil}} {
		s.set(func() {
			s.body = func(uri string) string {
				return mintList(iss, uri, packList(1, 0), change, authztest.Lifetime(90*24*time.Hour))
			}
		})
		v, err := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil).Lookup(t.Context(), statusQuery(iss, s.URL+"/l", 0))
		require.NoError(t, err)
		require.Equal(t, authz.NotRevoked, v)
	}
}

// newTwoIssuers returns issuers, and the verifier of both.
func newTwoIssuers(t *testing.T) (one, other *authztest.Issuer, v *issuer.Verifier) {
	t.Helper()
	one, other = authztest.StartIssuer(t), authztest.StartIssuer(t)
	v, err := issuer.NewVerifier([]issuer.Config{
		{Issuer: one.Name, Audiences: []string{"api"}, JWKS: one.JWKSURL()}, {Issuer: other.Name, Audiences: []string{"api"}, JWKS: other.JWKSURL()},
	}, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	require.NoError(t, v.Refresh(t.Context()))
	return one, other, v
}

// A list need not name its issuer: its signature shows that it is the issuer of
// the token.
func TestStatusListWithoutIssuer(t *testing.T) {
	t.Parallel()
	iss, other, v := newTwoIssuers(t)
	s := newStatusServer(t)
	l := newStatusLists(t, s, v, nil)
	for path, tt := range map[string]struct {
		signer *authztest.Issuer
		claim  any
		want   authz.Verdict
	}{
		"/without":           {iss, nil, authz.Revoked},
		"/with":              {iss, iss.Name, authz.Revoked},
		"/empty":             {iss, "", authz.Unknown},
		"/null":              {iss, json.RawMessage("null"), authz.Unknown},
		"/other":             {other, other.Name, authz.Unknown},
		"/signed-by-another": {other, nil, authz.Unknown},
	} {
		s.set(func() {
			s.body = func(uri string) string {
				return mintList(tt.signer, uri, packList(1, 1), map[string]any{"iss": tt.claim})
			}
		})
		got, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+path, 0))
		require.Equal(t, tt.want, got, "%s: %v", path, err)
	}
}

// A list that is older than the cached one, such as from an HTTP cache, must not
// undo a revocation.
func TestStatusListOlderThanCached(t *testing.T) {
	t.Parallel()
	iss, s, clock := authztest.StartIssuer(t), newStatusServer(t), &authztest.MovableClock{}
	now := time.Now().Unix()
	publish := func(issued int64, values ...byte) {
		s.set(func() {
			s.body = func(uri string) string {
				return mintList(iss, uri, packList(1, values...), map[string]any{"iat": issued})
			}
		})
	}
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), clock)
	ask := func(i uint64) authz.Verdict {
		v, _ := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/l", i))
		return v
	}
	publish(now-60, 0, 1)
	require.Equal(t, authz.NotRevoked, ask(0))
	publish(now-61, 0, 0)
	clock.Move(31 * time.Second)
	require.Equal(t, authz.Revoked, ask(1))
	require.Equal(t, authz.Unknown, ask(0), "the cached list is too old")
	publish(now-60, 0, 0) // the same second: which is newer is unknown
	clock.Move(time.Second)
	require.Equal(t, authz.NotRevoked, ask(0))
	publish(now-59, 1, 0)
	clock.Move(31 * time.Second)
	require.Equal(t, authz.Revoked, ask(0))
	require.Equal(t, authz.NotRevoked, ask(1))
}

func TestStatusListHosts(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	s.body = func(uri string) string { return mintList(iss, uri, packList(1, 0), nil) }
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil)
	for _, uri := range []string{
		"", "x", "/l", "http://169.254.169.254/latest", "https://evil.example/l", "file:///etc/passwd", "http://user@" + s.host() + "/l",
		s.URL + "/l#x", "ftp://" + s.host() + "/l", "http://" + s.host() + ".evil.example/l", "http://localhost@" + s.host(), "gopher://x", "http://[::1]:80/l",
	} {
		v, err := l.Lookup(t.Context(), statusQuery(iss, uri, 0))
		require.Equal(t, authz.Unknown, v, uri)
		require.Error(t, err, uri)
	}
	require.Zero(t, s.fetched.Load())
	v, err := l.Lookup(t.Context(), &authz.Query{})
	require.NoError(t, err)
	require.Equal(t, authz.NotRevoked, v, "a token without a list")
}

// roundTrip is an http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The default port may be omitted in the configuration and in tokens.
func TestStatusListDefaultPort(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	network := roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/statuslist+jwt")
		fmt.Fprint(w, mintList(iss, r.URL.String(), packList(1, 0), nil))
		return w.Result(), nil
	})
	for _, tt := range []struct {
		host, uri string
		want      authz.Verdict
	}{
		{"issuer.example", "https://issuer.example/l", authz.NotRevoked},
		{"issuer.example", "https://issuer.example:443/l", authz.NotRevoked},
		{"issuer.example:443", "https://issuer.example/l", authz.NotRevoked},
		{"issuer.example:443", "https://issuer.example:443/l", authz.NotRevoked},
		{"issuer.example:443", "https://issuer.example:8443/l", authz.Unknown},
		{"issuer.example:443", "http://issuer.example/l", authz.Unknown},
		{"issuer.example:8443", "https://issuer.example/l", authz.Unknown},
		{"issuer.example", "https://issuer.example:80/l", authz.Unknown},
		{"[::1]:443", "https://[::1]/l", authz.NotRevoked},
		{"127.0.0.1:80", "http://127.0.0.1/l", authz.NotRevoked},
		{"127.0.0.1:443", "http://127.0.0.1/l", authz.Unknown},
		{"127.0.0.1:443", "http://127.0.0.1:443/l", authz.NotRevoked},
	} {
		l, err := statuslist.New(statuslist.Config{Hosts: []string{tt.host}}, statuslist.Options{Verifier: v, Transport: network})
		require.NoError(t, err, tt.host)
		t.Cleanup(l.Close)
		got, err := l.Lookup(t.Context(), statusQuery(iss, tt.uri, 0))
		require.Equal(t, tt.want, got, "%s on %s: %v", tt.uri, tt.host, err)
	}
}

func TestStatusListFreshness(t *testing.T) {
	t.Parallel()
	iss, s, clock := authztest.StartIssuer(t), newStatusServer(t), &authztest.MovableClock{}
	values := []byte{0, 0, 2}
	s.body = func(uri string) string { return mintList(iss, uri, packList(2, values...), nil) }
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), clock)
	ask := func(i uint64) authz.Verdict {
		v, _ := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/l", i))
		return v
	}
	require.Equal(t, authz.NotRevoked, ask(0))
	require.Equal(t, authz.Revoked, ask(2))
	clock.Move(14 * time.Second)
	require.Equal(t, authz.NotRevoked, ask(0))
	require.EqualValues(t, 1, s.fetched.Load())
	// In the second half of max_age it is fetched again in the background.
	s.set(func() { values = []byte{1, 0, 0} })
	clock.Move(2 * time.Second)
	require.Equal(t, authz.NotRevoked, ask(0))
	require.Eventually(t, func() bool { return ask(0) == authz.Revoked }, 5*time.Second, time.Millisecond)
	require.Equal(t, authz.NotRevoked, ask(2), "no longer suspended")
	require.EqualValues(t, 2, s.fetched.Load())
	// If that fails, it proves nothing beyond max_age except its revocations.
	s.set(func() { s.status = 503 })
	clock.Move(31 * time.Second)
	require.Equal(t, authz.Unknown, ask(1))
	require.Equal(t, authz.Revoked, ask(0))
	before := s.fetched.Load()
	for range 50 {
		require.Equal(t, authz.Unknown, ask(1))
	}
	require.Equal(t, before, s.fetched.Load(), "a minimum interval between fetches")
	s.set(func() { s.status = 200 })
	clock.Move(time.Second)
	require.Equal(t, authz.NotRevoked, ask(1))
}

func TestStatusListTTL(t *testing.T) {
	t.Parallel()
	iss, s, clock := authztest.StartIssuer(t), newStatusServer(t), &authztest.MovableClock{}
	s.body = func(uri string) string {
		return mintList(iss, uri, packList(1, 0), map[string]any{"ttl": 5})
	}
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), clock)
	for range 2 {
		v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/l", 0))
		require.NoError(t, err)
		require.Equal(t, authz.NotRevoked, v)
		clock.Move(6 * time.Second)
	}
	require.EqualValues(t, 2, s.fetched.Load())
}

func TestStatusListOneFetchForMany(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	s.body = func(uri string) string { return mintList(iss, uri, packList(1, 0), nil) }
	s.block = make(chan struct{})
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil)
	var wg sync.WaitGroup
	var good atomic.Int32
	for range 100 {
		wg.Go(func() {
			if v, _ := l.Lookup(context.Background(), statusQuery(iss, s.URL+"/l", 0)); v == authz.NotRevoked {
				good.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return s.fetched.Load() == 1 }, time.Second, time.Millisecond)
	// A caller's deadline ends its wait for the list.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v, err := l.Lookup(ctx, statusQuery(iss, s.URL+"/l", 0))
	require.Equal(t, authz.Unknown, v)
	require.ErrorIs(t, err, context.Canceled)
	close(s.block)
	wg.Wait()
	require.EqualValues(t, 100, good.Load())
	require.EqualValues(t, 1, s.fetched.Load())
}

func TestStatusListsAreBounded(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	s.body = func(uri string) string { return mintList(iss, uri, packList(1, 0), nil) }
	l := newStatusLists(t, s, authztest.NewVerifier(t, iss), nil, func(c *statuslist.Config) { c.MaxLists = 2 })
	for _, path := range []string{"/a", "/b", "/c", "/c", "/b", "/a"} { // c evicts a, then a evicts c
		v, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+path, 0))
		require.NoError(t, err)
		require.Equal(t, authz.NotRevoked, v)
	}
	require.EqualValues(t, 4, s.fetched.Load())
}

// blockedVerifier blocks until release is closed, and counts its callers.
type blockedVerifier struct {
	statuslist.SecurityEventVerifier
	mu      sync.Mutex
	waiting map[string]int // by issuer
	release chan struct{}
}

func (v *blockedVerifier) VerifySecurityEvent(ctx context.Context, raw string, s authz.SecurityEventRules) (*authz.Token, error) {
	v.mu.Lock()
	v.waiting[s.DefaultIssuer]++
	v.mu.Unlock()
	select {
	case <-v.release:
	case <-ctx.Done():
	}
	return v.SecurityEventVerifier.VerifySecurityEvent(ctx, raw, s)
}

func (v *blockedVerifier) waiters(issuer string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.waiting[issuer]
}

// Every token may name another list. The fetches of one issuer are bounded, even
// after their callers have left.
func TestStatusListFetchesAreBounded(t *testing.T) {
	t.Parallel()
	const atOnce = 4
	s := newStatusServer(t)
	iss, other, v := newTwoIssuers(t)
	s.body = func(uri string) string {
		signer := iss
		if strings.Contains(uri, "/other") {
			signer = other
		}
		return mintList(signer, uri, packList(1, 0), nil)
	}
	blocked := &blockedVerifier{SecurityEventVerifier: v, waiting: map[string]int{}, release: make(chan struct{})}
	l := newStatusLists(t, s, blocked, nil, func(c *statuslist.Config) { c.MaxLists, c.Timeout = 2, 30*time.Second })
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() { _, _ = l.Lookup(ctx, statusQuery(iss, fmt.Sprint(s.URL, "/", i), 0)) })
	}
	require.Eventually(t, func() bool { return blocked.waiters(iss.Name) == atOnce }, 30*time.Second, time.Millisecond)
	leave()
	wg.Wait()
	for i := range 50 {
		// Only a refusal returns in time: the verifier is blocked.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		got, err := l.Lookup(ctx, statusQuery(iss, fmt.Sprint(s.URL, "/more-", i), 0))
		cancel()
		require.Equal(t, authz.Unknown, got)
		require.ErrorContains(t, err, "are being fetched")
	}
	require.Equal(t, atOnce, blocked.waiters(iss.Name))
	require.EqualValues(t, atOnce, s.fetched.Load())
	wg.Go(func() { // lists of another issuer are still fetched
		got, err := l.Lookup(t.Context(), statusQuery(other, s.URL+"/other", 0))
		assert.NoError(t, err)
		assert.Equal(t, authz.NotRevoked, got)
	})
	require.Eventually(t, func() bool { return blocked.waiters(other.Name) == 1 }, 30*time.Second, time.Millisecond)
	close(blocked.release)
	wg.Wait()
	require.Eventually(t, func() bool { // the fetches are released, and a refusal causes no minimum interval
		got, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/more-0", 0))
		return got == authz.NotRevoked && err == nil
	}, 30*time.Second, time.Millisecond)
}

// An issuer with many or large lists evicts its own.
func TestStatusListsKeepTheirShare(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*statuslist.Config){
		"number": func(c *statuslist.Config) { c.MaxLists = 4 },
		"bytes":  func(c *statuslist.Config) { c.MaxBytes, c.MaxTotal = 1<<10, 4<<10 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStatusServer(t)
			iss, other, v := newTwoIssuers(t)
			s.body = func(uri string) string {
				signer := iss
				if strings.Contains(uri, "/other") {
					signer = other
				}
				return mintList(signer, uri, packList(8, make([]byte, 1<<10)...), nil)
			}
			l := newStatusLists(t, s, v, nil, change)
			ask := func(of *authztest.Issuer, path string) {
				got, err := l.Lookup(t.Context(), statusQuery(of, s.URL+path, 0))
				require.NoError(t, err, path)
				require.Equal(t, authz.NotRevoked, got)
			}
			ask(other, "/other-1")
			ask(other, "/other-2")
			for i := range 20 {
				ask(iss, fmt.Sprint("/", i))
			}
			require.EqualValues(t, 22, s.fetched.Load())
			ask(other, "/other-1")
			ask(other, "/other-2")
			ask(iss, "/19")
			ask(iss, "/18")
			require.EqualValues(t, 22, s.fetched.Load(), "cached")
			ask(iss, "/17")
			require.EqualValues(t, 23, s.fetched.Load(), "evicted")
		})
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	away := authztest.FixedTier{Verdict: authz.Unknown, Err: errors.New("away")}
	liar := authztest.FixedTier{Verdict: authz.NotRevoked, Err: errors.New("both")}
	good, bad, miss := authztest.FixedTier{Verdict: authz.NotRevoked, Err: nil}, authztest.FixedTier{Verdict: authz.Revoked, Err: nil}, authztest.FixedTier{}
	for i, tt := range []struct {
		tiers []authz.Tier
		want  authz.Verdict
		err   bool
	}{
		{nil, authz.Unknown, false},
		{[]authz.Tier{good}, authz.NotRevoked, false},
		{[]authz.Tier{good, good}, authz.NotRevoked, false},
		{[]authz.Tier{good, bad}, authz.Revoked, false},
		{[]authz.Tier{bad, good}, authz.Revoked, false},
		{[]authz.Tier{away, bad}, authz.Revoked, false},
		{[]authz.Tier{miss, bad}, authz.Revoked, false},
		{[]authz.Tier{good, miss}, authz.Unknown, false},
		{[]authz.Tier{good, away}, authz.Unknown, true},
		{[]authz.Tier{away, good}, authz.Unknown, true},
		{[]authz.Tier{liar, good}, authz.Unknown, true},
		{[]authz.Tier{authz.NewChain(nil, miss, good), good}, authz.NotRevoked, false},
		{[]authz.Tier{authz.NewChain(nil, miss, good), bad}, authz.Revoked, false},
		{[]authz.Tier{authz.NewChain(nil, away, bad), good}, authz.Revoked, false},
	} {
		v, err := authz.All(tt.tiers...).Lookup(t.Context(), &authz.Query{})
		require.Equal(t, tt.want, v, "case %d", i)
		require.Equal(t, tt.err, err != nil, "case %d", i)
	}
}

// Token in, denied by the list, through the Authorizer.
func TestStatusListThroughTheAuthorizer(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	s.body = func(uri string) string { return mintList(iss, uri, packList(1, 0, 1), nil) }
	v := authztest.NewVerifier(t, iss)
	p, err := policy.Compile(nil, policy.Options{})
	require.NoError(t, err)
	chain := authz.NewChain(nil, authz.All(authz.NewChain(nil, authztest.KeyTier{}), newStatusLists(t, s, v, nil)))
	a := authz.NewAuthorizer(v, nil, chain, p, authz.SystemClock{})
	for name, tt := range map[string]struct {
		status any
		want   authz.Reason
	}{
		"none":            {nil, authz.ReasonAllowed},
		"valid":           {map[string]any{"status_list": map[string]any{"idx": 0, "uri": s.URL + "/l"}}, authz.ReasonAllowed},
		"invalid":         {map[string]any{"status_list": map[string]any{"idx": 1, "uri": s.URL + "/l"}}, authz.ReasonRevoked},
		"out of range":    {map[string]any{"status_list": map[string]any{"idx": 99, "uri": s.URL + "/l"}}, authz.ReasonRevocationUnknown},
		"elsewhere":       {map[string]any{"status_list": map[string]any{"idx": 0, "uri": "https://evil.example/l"}}, authz.ReasonRevocationUnknown},
		"negative":        {map[string]any{"status_list": map[string]any{"idx": -1, "uri": s.URL + "/l"}}, authz.ReasonRevocationUnknown},
		"fraction":        {map[string]any{"status_list": map[string]any{"idx": 0.5, "uri": s.URL + "/l"}}, authz.ReasonRevocationUnknown},
		"no uri":          {map[string]any{"status_list": map[string]any{"idx": 0}}, authz.ReasonRevocationUnknown},
		"no object":       {map[string]any{"status_list": "x"}, authz.ReasonRevocationUnknown},
		"status a text":   {"x", authz.ReasonRevocationUnknown},
		"other mechanism": {map[string]any{"attestation": "x"}, authz.ReasonAllowed},
	} {
		raw := iss.Mint(map[string]any{"status": tt.status})
		d := a.Authorize(t.Context(), &authz.Request{Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}})
		require.Equal(t, tt.want, d.Reason, "%s: %s", name, d.Detail)
	}
}

func TestStatusListConfigErrors(t *testing.T) {
	t.Parallel()
	c := statuslist.Config{Hosts: []string{"a.example:8443", "https://a", "A.example", "", "a/b"}, MaxAge: time.Hour, Timeout: time.Hour, MaxBytes: -1, MaxLists: -1, MaxTotal: -2}
	var got []string
	c.Validate(30*time.Second, func(path, _ string, _ ...any) { got = append(got, path) })
	require.Equal(t, []string{"hosts[1]", "hosts[2]", "hosts[3]", "hosts[4]", "max_age", "timeout", "max_bytes", "max_lists", "max_total"}, got)
	statuslist.Config{}.Validate(30*time.Second, func(path, format string, args ...any) { t.Errorf(path+": "+format, args...) })
	_, err := statuslist.New(statuslist.Config{}, statuslist.Options{})
	require.ErrorContains(t, err, "no verifier")
}

// While the revocation of a list's key is unknown, the list proves denials only.
// A list with a revoked key proves nothing.
func TestStatusListWithKeyOfUnknownRevocation(t *testing.T) {
	t.Parallel()
	iss, s := authztest.StartIssuer(t), newStatusServer(t)
	s.body = func(uri string) string { return mintList(iss, uri, packList(1, 1, 0), nil) }
	v := authztest.NewVerifier(t, iss)
	for name, c := range map[string]struct {
		key            authz.Verdict
		revoked, valid authz.Verdict
	}{
		"good":    {authz.NotRevoked, authz.Revoked, authz.NotRevoked},
		"unknown": {authz.Unknown, authz.Revoked, authz.Unknown},
		"revoked": {authz.Revoked, authz.Unknown, authz.Unknown},
	} {
		l := newStatusLists(t, s, issuer.RevocationAwareVerifier{Verifier: v, Revocations: authztest.FixedTier{Verdict: c.key, Err: nil}}, nil)
		for i, want := range []authz.Verdict{c.revoked, c.valid} {
			got, err := l.Lookup(t.Context(), statusQuery(iss, s.URL+"/"+name, uint64(i)))
			assert.Equalf(t, want, got, "key %s, entry %d: %v", name, i, err)
		}
	}
}

type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("defect") }

func TestPanicWhileFetchingIsAFailure(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	l, err := statuslist.New(statuslist.Config{Hosts: []string{"a.example"}}, statuslist.Options{Verifier: authztest.NewVerifier(t, iss), Transport: panicking{}})
	require.NoError(t, err)
	t.Cleanup(l.Close)
	v, err := l.Lookup(t.Context(), statusQuery(iss, "https://a.example/1", 0))
	require.Equal(t, authz.Unknown, v)
	require.ErrorContains(t, err, "panic")
}
