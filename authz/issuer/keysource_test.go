package issuer_test

import (
	"bytes"
	"encoding/pem"
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
