// Package httpapitest runs the HTTP port over fakes, for the tests of httpapi
// and of the packages that add endpoints to it. It holds every response to the
// OpenAPI document.
package httpapitest

import (
	"bytes"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/page"
	"jwtbouncer/authz/httpapi/receiver"
	"jwtbouncer/authz/sharedsignals"
)

// The configured issuers, an API token, and media types of request bodies.
const (
	IssuerA   = "https://a.example"
	IssuerB   = "https://b.example"
	APIToken  = "correct-horse-battery"
	FormType  = "application/x-www-form-urlencoded"
	EventType = "application/secevent+jwt"
)

// Setup is what a test may change before the handler is made.
type Setup struct {
	httpapi.Options
	Verifier receiver.Verifier // nil: the endpoints of package receiver do not exist
}

// Bench is the handler of the HTTP port over fakes.
type Bench struct {
	API     *httpapi.API
	Ledger  *Ledger
	Log     *bytes.Buffer
	Metrics *prometheus.Registry
	Setup   Setup

	t       *testing.T
	logging lockedWriter
}

// New returns a Bench with one issuer, listening on loopback without a token
// file, after change (nil: none).
func New(t *testing.T, change func(*Setup)) *Bench {
	t.Helper()
	b := &Bench{t: t, Log: &bytes.Buffer{}, Metrics: prometheus.NewRegistry(), Ledger: &Ledger{}}
	b.Setup = Setup{Options: httpapi.Options{
		Config: httpapi.DefaultConfig(), Listen: "127.0.0.1:9192", Issuers: authz.Issuers{Verified: []string{IssuerA}},
		Revoker: authz.NewRevoker(b.Ledger, noopPublisher{}, bubbleClock{start: time.Now()}), Lister: b.Ledger,
		Gatherer: b.Metrics, Registry: b.Metrics, Clock: authz.SystemClock{},
		Logger: slog.New(slog.NewJSONHandler(&b.logging, nil)),
	}}
	b.logging.w = b.Log
	if change != nil {
		change(&b.Setup)
	}
	var err error
	b.API, err = httpapi.New(b.Setup.Options)
	require.NoError(t, err)
	if b.Setup.Verifier != nil {
		signals, err := sharedsignals.New(sharedsignals.Options{
			Config: b.Setup.Config.Events, Verifier: b.Setup.Verifier, Revoker: b.API.Writer(),
			Registry: b.Metrics, Logger: b.API.Options().Logger, Clock: b.Setup.Clock,
		})
		require.NoError(t, err)
		require.NoError(t, receiver.Register(b.API, b.Setup.Verifier, signals))
		receiver.RegisterVerification(b.API, func(state string) bool { return state == VerifiedState })
	}
	if b.Setup.Config.Page {
		page.Register(b.API)
	}
	return b
}

// VerifiedState is the state of the only verification event that was received.
const VerifiedState = "a-state"

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// LogText returns the log while lines may still be written in the background.
func (b *Bench) LogText() string {
	b.logging.mu.Lock()
	defer b.logging.mu.Unlock()
	return b.Log.String()
}

// Request returns a request with the headers of a well-behaved caller. header
// is a list of further names and values; an empty value removes a header.
func Request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:9192"
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		if header[i+1] == "" {
			r.Header.Del(header[i])
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// Do sends a Request and checks the response against the OpenAPI document.
func (b *Bench) Do(method, target, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	w := httptest.NewRecorder()
	r := Request(method, target, body, header...)
	b.API.ServeHTTP(w, r)
	b.conform(r, body, w)
	return w
}

// Post is Do with a body of contentType.
func (b *Bench) Post(path, contentType, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.Do("POST", path, body, append([]string{"Content-Type", contentType}, header...)...)
}

// WithToken requires an API token and listens on all addresses.
func WithToken(path string) func(*Setup) {
	return func(s *Setup) { s.Config.TokenFile, s.Listen = path, "0.0.0.0:9192" }
}

// SecretFile writes text to a file that only its owner can read.
func SecretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// FormBody encodes names and values as a form.
func FormBody(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v.Encode()
}

// UnsignedJWT returns text with the form of a JWT. alg replaces RS256.
func UnsignedJWT(claims string, alg ...string) string {
	enc := base64.RawURLEncoding.EncodeToString
	header := `{"alg":"RS256","typ":"JWT"}`
	if len(alg) > 0 {
		header = `{"alg":"` + alg[0] + `","typ":"JWT"}`
	}
	return enc([]byte(header)) + "." + enc([]byte(claims)) + "." + enc([]byte("signature"))
}

// Ago returns a time before now in Unix seconds.
func Ago(d time.Duration) int64 { return time.Now().Add(-d).Unix() }

// BubbleClock returns a clock that a synctest bubble moves.
func BubbleClock() authz.Clock { return bubbleClock{start: time.Now()} }

// bubbleClock counts boot time by Go's clock, which a synctest bubble moves.
type bubbleClock struct {
	authz.SystemClock
	start time.Time
}

func (c bubbleClock) Boot() time.Duration { return time.Since(c.start) }
