package issuer_test

import (
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

// A response is read to the limit only.
func TestFloodOfKeysIsCutOff(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	iss.FailJWKS(&authztest.Fault{Genuine: true, Flood: 256 << 20})
	require.ErrorContains(t, v.Refresh(t.Context()), "larger than 1048576 bytes")
	_, err := v.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err)
}

// Redirects stay on their origin: port, host and scheme.
func TestRedirectsStayOnTheirOrigin(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	var reached atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Store(true)
		_, _ = w.Write(iss.JWKS())
	}))
	defer other.Close()
	v := authztest.NewVerifier(t, iss)
	iss.FailJWKS(&authztest.Fault{Redirect: other.URL})
	require.ErrorContains(t, v.Refresh(t.Context()), "another origin")
	require.False(t, reached.Load())

	mux := http.NewServeMux()
	mux.Handle("/old", http.RedirectHandler("/new", http.StatusMovedPermanently))
	mux.HandleFunc("/new", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.JWKS()) })
	same := httptest.NewServer(mux)
	defer same.Close()
	authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.JWKS = same.URL + "/old" })
}

func TestCertificateAuthority(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer(authztest.Offline(), authztest.Named("https://issuer.test"))
	server := httptest.NewTLSServer(iss.Handler())
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(block), 0o600))
	cfg := issuer.Config{Issuer: iss.Name, Audiences: []string{"*"}, JWKS: server.URL + "/jwks.json"}

	untrusting, err := issuer.NewVerifier([]issuer.Config{cfg}, issuer.VerifierOptions{})
	require.NoError(t, err)
	defer untrusting.Close()
	require.ErrorContains(t, untrusting.Refresh(t.Context()), "certificate")

	cfg.CAFile = ca
	trusting, err := issuer.NewVerifier([]issuer.Config{cfg}, issuer.VerifierOptions{})
	require.NoError(t, err)
	defer trusting.Close()
	require.NoError(t, trusting.Refresh(t.Context()))

	for _, file := range []string{filepath.Join(t.TempDir(), "none.pem"), os.Args[0]} {
		cfg.CAFile = file
		_, err = issuer.NewVerifier([]issuer.Config{cfg}, issuer.VerifierOptions{})
		require.ErrorContains(t, err, "ca_file")
	}
}

func TestKeyFileIsWatched(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer(authztest.Offline(), authztest.Named("file-issuer"))
	path := filepath.Join(t.TempDir(), "jwks.json")
	replace := func() { // atomically
		require.NoError(t, os.WriteFile(path+".new", iss.JWKS(), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	v, err := issuer.NewVerifier([]issuer.Config{{
		Issuer: iss.Name, Audiences: []string{"api"}, JWKS: path, RefreshCooldown: 100 * time.Millisecond,
	}}, issuer.VerifierOptions{})
	require.NoError(t, err)
	defer v.Close()
	v.Start(t.Context())
	_, err = v.Verify(t.Context(), iss.Mint(nil))
	require.Equal(t, authz.ReasonKeysUnavailable, authztest.ReasonOf(err), "the file does not exist yet")
	replace()
	eventually(t, func() bool { return v.Ready() == nil })
	token, err := v.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err)
	iss.Withdraw(token.KeyID)
	iss.Rotate("ES256")
	replace()
	eventually(t, func() bool { return !v.Current(token, token.IssuedAt) })
	_, err = v.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	eventually(t, func() bool { return v.Status()[0].Err != "" })
	_, err = v.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err, "the last good keys stay in use")
}

// A pipe in place of the file does not block the refresher.
func TestKeyFileMustBeRegular(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: "x", Audiences: []string{"api"}, JWKS: "file://" + path}}, issuer.VerifierOptions{})
	require.NoError(t, err)
	defer v.Close()
	require.ErrorContains(t, v.Refresh(t.Context()), "not a regular file")
}

func eventually(t *testing.T, met func() bool) {
	t.Helper()
	require.Eventually(t, met, 10*time.Second, 2*time.Millisecond)
}

// A panicking transport is a failed fetch.
func TestPanicWhileFetchingIsAFailure(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer(authztest.Offline(), authztest.Named("https://issuer.test"))
	var broken atomic.Bool
	v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: "https://issuer.test/jwks.json"}},
		issuer.VerifierOptions{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if broken.Load() {
				panic("broken")
			}
			return iss.Transport().RoundTrip(r)
		})})
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Refresh(t.Context()))
	broken.Store(true)
	require.ErrorContains(t, v.Refresh(t.Context()), "panic")
	_, err = v.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Fetching keys over plain http from another host is logged as a warning.
func TestKeysWithoutTLSCauseAWarning(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]bool{
		"http://issuer.example/jwks": true, "http://10.0.0.1/jwks": true, "http://localhost.evil.example/jwks": true,
		"https://issuer.example/jwks": false, "http://127.0.0.1:8080/jwks": false, "http://[::1]/jwks": false,
		"http://localhost/jwks": false, "/etc/jwks.json": false,
	} {
		var log bytes.Buffer
		v, err := issuer.NewVerifier([]issuer.Config{{Issuer: "x", Audiences: []string{"api"}, JWKS: from}},
			issuer.VerifierOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		v.Close()
		require.Equal(t, want, strings.Contains(log.String(), "without TLS"), from)
	}
}

// The error names what came instead of a key set or a discovery document. An
// issuer whose keys are all refused is told from one that has not been asked.
func TestReadinessNamesWhatCameInstead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change     func(*issuer.Config)
		keys, meta *authztest.Fault
		unread     bool // the keys have not been fetched
		want       string
	}{
		"not fetched":          {unread: true, want: "not fetched yet"},
		"HTML page":            {keys: &authztest.Fault{Body: "<!doctype html><p>Sign in"}, want: "/jwks.json is an HTML page (application/json, 25 bytes) where a JWK set is needed"},
		"discovery document":   {keys: &authztest.Fault{Body: `{"issuer":"https://a","jwks_uri":"https://a/k"}`}, want: "a discovery document"},
		"single JWK":           {keys: &authztest.Fault{Body: `{"kty":"EC"}`}, want: "a single JWK"},
		"PEM":                  {keys: &authztest.Fault{Body: "-----BEGIN PUBLIC KEY-----"}, want: "is PEM (application/json, 26 bytes)"},
		"nothing":              {keys: &authztest.Fault{}, want: "an empty document (application/json, 0 bytes)"},
		"status":               {keys: &authztest.Fault{Status: 404}, want: "/jwks.json: status 404"},
		"empty set":            {keys: &authztest.Fault{Body: `{"keys":[]}`}, want: "fetched, and the set is empty"},
		"every key refused":    {keys: &authztest.Fault{Body: `{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"EC"},{},{}]}`}, want: `fetched, every key refused: keys[0] contains private or symmetric key material ("k")`},
		"use of a profile":     {keys: &authztest.Fault{Body: `{"keys":[{"kty":"EC","crv":"P-256","use":"jwt-svid"}]}`}, want: `keys[0] use "jwt-svid" is not sig`},
		"JWK set, discovery":   {change: discovered, meta: &authztest.Fault{Body: `{"keys":[]}`}, want: "/openid-configuration is a JWK set (application/json, 11 bytes) where a discovery document is needed"},
		"HTML page, discovery": {change: discovered, meta: &authztest.Fault{Body: "<html>"}, want: "an HTML page"},
		"another issuer":       {change: discovered, meta: &authztest.Fault{Body: `{"issuer":"https://other.example/` + strings.Repeat("x", 100) + `","jwks_uri":"https://a/k"}`}, want: `is the configuration of the issuer "https://other.example/` + strings.Repeat("x", 42) + `"…, not of `},
		"issuer null":          {change: discovered, meta: &authztest.Fault{Body: `{"issuer":null,"jwks_uri":"https://a/k"}`}, want: "it names no issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			iss := authztest.StartIssuer(t)
			iss.FailJWKS(tt.keys)
			iss.FailDiscovery(tt.meta)
			cfg := issuer.Config{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}
			if tt.change != nil {
				tt.change(&cfg)
			}
			v, err := issuer.NewVerifier([]issuer.Config{cfg}, issuer.VerifierOptions{})
			require.NoError(t, err)
			defer v.Close()
			if !tt.unread {
				_ = v.Refresh(t.Context())
			}
			err = v.Ready()
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "c2VjcmV0")
		})
	}
}

func discovered(c *issuer.Config) { c.JWKS = "" }

// Documents with a byte order mark, and compressed ones, are read.
func TestDocumentsAsServersSendThem(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer(authztest.Offline())
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(iss.JWKS())
	require.NoError(t, w.Close())
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	iss.Name = server.URL
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "\ufeff"+`{"issuer":%q,"jwks_uri":%q,"scopes_supported":null}`, server.URL, server.URL+"/packed")
	})
	mux.HandleFunc("/marked", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "\ufeff%s", iss.JWKS()) })
	mux.HandleFunc("/packed", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	})
	for _, path := range []string{"", "/marked", "/packed"} {
		v := authztest.NewVerifier(t, iss, func(c *issuer.Config) {
			c.JWKS = server.URL + path
			if path == "" {
				c.JWKS = ""
			}
		})
		_, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err, path)
	}
}

// The bearer token is read for each request, and goes to the configured host
// only: a discovery document must not choose who gets it.
func TestBearerTokenForKeys(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer(authztest.Offline())
	path := filepath.Join(t.TempDir(), "token")
	var closed atomic.Bool
	var elsewhere atomic.Pointer[string] // the Authorization header that the other host received
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Get("Authorization")
		elsewhere.Store(&h)
		if closed.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write(iss.JWKS())
	}))
	defer other.Close()
	mux := http.NewServeMux()
	var want, jwks atomic.Pointer[string]
	guarded := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+*want.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	defer guarded.Close()
	iss.Name = guarded.URL
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.JWKS()) })
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, guarded.URL, *jwks.Load())
	})
	rotate := func(token string) {
		want.Store(&token)
		require.NoError(t, os.WriteFile(path, []byte(token+"\n"), 0o600))
	}
	newVerifier := func(jwks string) *issuer.Verifier {
		v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: jwks, BearerTokenFile: path}}, issuer.VerifierOptions{})
		require.NoError(t, err)
		t.Cleanup(v.Close)
		return v
	}
	point := func(to string) { jwks.Store(&to) }

	rotate("first")
	direct := newVerifier(guarded.URL + "/keys")
	require.NoError(t, direct.Refresh(t.Context()))
	rotate("second")
	require.NoError(t, direct.Refresh(t.Context()), "the file is read for each request")

	point(guarded.URL + "/keys")
	require.NoError(t, newVerifier("").Refresh(t.Context()))
	point(other.URL + "/keys")
	require.NoError(t, newVerifier("").Refresh(t.Context()))
	require.Empty(t, *elsewhere.Load())
	closed.Store(true)
	require.ErrorContains(t, newVerifier("").Refresh(t.Context()), "status 401 (bearer_token_file is sent to "+strings.TrimPrefix(guarded.URL, "http://")+" only")

	require.NoError(t, os.WriteFile(path, []byte("a secret\n"), 0o600))
	err := direct.Refresh(t.Context())
	require.ErrorContains(t, err, "bearer_token_file")
	require.NotContains(t, err.Error(), "a secret")
}

// Keys of a profile with uses of its own.
func TestKeyUses(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	key := iss.Key("")
	iss.Publish(authztest.KeySet(key.With("use", "jwt-svid"), authztest.NewKey("ES256").With("use", "x509-svid"), authztest.NewKey("ES256").With("use", "sig")))
	for _, tt := range []struct {
		uses []string
		keys int
	}{{nil, 1}, {[]string{"jwt-svid"}, 1}, {[]string{"sig", "jwt-svid"}, 2}} {
		v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.KeyUses = tt.uses })
		require.Equal(t, tt.keys, v.Status()[0].Keys)
		_, err := v.Verify(t.Context(), iss.Mint(nil, authztest.With(key)))
		require.Equal(t, tt.uses != nil, err == nil, "%v", err)
	}
}
