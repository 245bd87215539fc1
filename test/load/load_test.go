package load

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every server answers every check correctly, and the driver counts them.
func TestDriver(t *testing.T) {
	w := newWorld(t)
	good := w.checks("RS256", "smoke", 20)
	forged := Check{Wire: Wire(w.token("RS256", "forged", 1)[:700]), Allow: false}
	tests := []struct {
		server   *server
		verifies bool
	}{
		{w.baseline(t, "floor"), false},
		{w.baseline(t, "noop"), false},
		{w.tuned(t, "floor"), false},
		{w.tuned(t, "noop"), false},
		{w.baseline(t, "verify"), true},
		{w.baseline(t, "redis"), true},
		{w.baseline(t, "postgres"), true},
		{w.product(t, "", "", ""), true},
	}
	for _, tt := range tests {
		t.Run(tt.server.name, func(t *testing.T) {
			d := tt.server.driver(t, 2)
			before, err := UsageOf(tt.server.pid)
			require.NoError(t, err)
			checks := good
			if tt.verifies {
				checks = append([]Check{forged}, good...)
			}
			for _, l := range []Load{
				{Duration: 20 * time.Second, Checks: 2000, InFlight: 8},
				{Duration: 20 * time.Second, Checks: 500, InFlight: 8, Rate: 5000},
			} {
				l.Source = InTurn(checks)
				r := d.Run(context.Background(), l)
				assert.Equalf(t, l.Checks, r.Checks, "%d checks answered of %d, %d wrong, %d errors", r.Checks, l.Checks, r.Wrong, r.Errors)
				assert.Zerof(t, r.Wrong, "%d checks answered of %d, wrong, %d errors", r.Checks, l.Checks, r.Errors)
				assert.Zerof(t, r.Errors, "%d checks answered of %d, %d wrong, errors", r.Checks, l.Checks, r.Wrong)
				if n := r.Latency.TotalCount(); n != l.Checks || r.Quantile(0.5) <= 0 || r.Quantile(0.5) > r.Quantile(0.999) {
					t.Errorf("latencies of %d checks: %v", n, r.Latency.CumulativeDistribution())
				}
			}
			after, err := UsageOf(tt.server.pid)
			require.NoError(t, err)
			assert.GreaterOrEqualf(t, after.CPU, before.CPU, "usage: %+v, then %+v", before, after)
			assert.Greaterf(t, after.Peak, int64(0), "usage: %+v, then %+v", before, after)
			assert.LessOrEqualf(t, after.RSS, after.Peak, "usage: %+v, then %+v", before, after)
		})
	}
}

// The driver counts wrong answers and RPC errors.
func TestDriverSeesWrongAnswers(t *testing.T) {
	w := newWorld(t)
	s := w.baseline(t, "noop")
	d := s.driver(t, 1)
	r := d.Run(context.Background(), Load{Duration: 10 * time.Second, Checks: 100, InFlight: 4, Source: InTurn([]Check{{Wire: Wire("x"), Allow: false}})})
	assert.Equalf(t, int64(100), r.Wrong, "wrong, %d errors; want 100 and 0", r.Errors)
	assert.Zerof(t, r.Errors, "%d wrong, errors; want 100 and 0", r.Wrong)
	r = d.Run(context.Background(), Load{Duration: 10 * time.Second, Checks: 100, InFlight: 4, Source: InTurn([]Check{{Wire: []byte{0xff}, Allow: true}})})
	assert.Equalf(t, int64(100), r.Errors, "errors, %d answers; want 100 and 0", r.Checks)
	assert.Zerof(t, r.Checks, "%d errors, answers; want 100 and 0", r.Errors)
}

// The HTTP driver tells right answers, wrong answers and errors apart.
func TestHTTPDriver(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer good":
			_, _ = io.WriteString(w, "ok")
		case "Bearer bad":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	d, err := NewHTTPDriver(s.Listener.Addr().String(), 4)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	good, bad := Check{Wire: HTTPWire("good"), Allow: true}, Check{Wire: HTTPWire("bad")}
	wrong, broken := Check{Wire: HTTPWire("bad"), Allow: true}, Check{Wire: HTTPWire("other")}
	l := Load{Duration: 20 * time.Second, Checks: 400, InFlight: 4, Source: InTurn([]Check{good, bad, wrong, broken})}
	for _, l.Rate = range []float64{0, 4000} {
		r := d.Run(context.Background(), l)
		assert.Equal(t, int64(300), r.Checks)
		assert.Equal(t, int64(100), r.Wrong)
		assert.Equal(t, int64(100), r.Errors)
		require.ErrorContains(t, r.First, "503")
	}
}

func TestZipf(t *testing.T) {
	checks := make([]Check, 1000)
	for i := range checks {
		checks[i].Wire = []byte{byte(i), byte(i >> 8)}
	}
	count := map[int]int{}
	s := Zipf(checks, 1)
	for n := range int64(100_000) {
		c := s(n)
		count[int(c.Wire[0])|int(c.Wire[1])<<8]++
	}
	assert.GreaterOrEqualf(t, count[0], 10*count[100], "%d distinct, first, hundredth %d", len(count), count[100])
	assert.GreaterOrEqualf(t, len(count), 900, "distinct, first %d, hundredth %d", count[0], count[100])
}
