package httpapi

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"jwtbouncer/authz"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuerA  = "https://a.example"
	issuerB  = "https://b.example"
	apiToken = "correct-horse-battery"
)

// fakeLedger keeps revocations in memory and fails on demand.
type fakeLedger struct {
	mu     sync.Mutex
	stored []authz.Revocation
	fail   error
	now    func() time.Time
}

func (f *fakeLedger) setFail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fakeLedger) all() []authz.Revocation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stored)
}

func (f *fakeLedger) Append(ctx context.Context, revocations []authz.Revocation) ([]authz.Revocation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if f.fail != nil {
		return nil, f.fail
	}
	out := make([]authz.Revocation, len(revocations))
	for i, r := range revocations {
		at := slices.IndexFunc(f.stored, func(s authz.Revocation) bool { return s.Key() == r.Key() && s.NotBefore.Equal(r.NotBefore) })
		if at < 0 {
			r.ID, r.RevokedAt = strconv.Itoa(len(f.stored)+1), f.now()
			if r.ExpiresAt.IsZero() {
				r.ExpiresAt = f.now().Add(24 * time.Hour)
			}
			f.stored = append(f.stored, r)
			at = len(f.stored) - 1
		}
		out[i] = f.stored[at]
	}
	return out, nil
}

func (f *fakeLedger) List(_ context.Context, filter authz.Filter) ([]authz.Revocation, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, "", f.fail
	}
	after := len(f.stored) + 1
	if filter.After != "" {
		n, err := strconv.Atoi(filter.After)
		if err != nil {
			return nil, "", authz.ErrInvalid
		}
		after = n
	}
	limit := filter.Limit
	if limit == 0 {
		limit = 100
	}
	var page []authz.Revocation
	for i := len(f.stored) - 1; i >= 0; i-- {
		r := f.stored[i]
		if id, _ := strconv.Atoi(r.ID); id >= after || filter.Kind != 0 && r.Kind != filter.Kind ||
			filter.Issuer != "" && r.Issuer != filter.Issuer || filter.Value != "" && r.Value != filter.Value ||
			!filter.IncludeExpired && !r.ExpiresAt.After(f.now()) {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].ID, nil
		}
		page = append(page, r)
	}
	return page, "", nil
}

type fakePublisher struct{ away bool }

func (f fakePublisher) Publish(context.Context, []authz.Revocation) bool { return !f.away }

// bench is a handler over fakes.
type bench struct {
	t       *testing.T
	handler http.Handler
	ledger  *fakeLedger
	log     *bytes.Buffer
	metrics *prometheus.Registry
	o       Options
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, log: &bytes.Buffer{}, metrics: prometheus.NewRegistry()}
	b.ledger = &fakeLedger{now: time.Now}
	b.o = Options{
		Config: DefaultConfig(), Listen: "127.0.0.1:9192", Issuers: []string{issuerA},
		Revoker: authz.NewRevoker(b.ledger, fakePublisher{}, 30*time.Second, authz.SystemClock{}), Lister: b.ledger,
		Gatherer: b.metrics, Registry: b.metrics, Clock: authz.SystemClock{},
		Logger: slog.New(slog.NewJSONHandler(&lockedWriter{w: b.log}, nil)),
	}
	if change != nil {
		change(&b.o)
	}
	var err error
	b.handler, err = New(b.o)
	require.NoError(t, err)
	return b
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// request makes one with the headers of a well-behaved caller; header is a
// list of names and values that come on top (an empty value removes one).
func (b *bench) request(method, target, body string, header ...string) *http.Request {
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

// endpoints lists what the bench serves.
func (b *bench) endpoints() []endpoint { return b.handler.(*router).endpoints }

func (b *bench) do(method, target, body string, header ...string) *recorder {
	w := newRecorder()
	r := b.request(method, target, body, header...)
	b.handler.ServeHTTP(w, r)
	b.conform(r, body, w)
	return w
}

type recorder = httptest.ResponseRecorder

func newRecorder() *recorder { return httptest.NewRecorder() }
