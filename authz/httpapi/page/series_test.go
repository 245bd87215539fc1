package page

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// recorder is a registry with the metrics that the page reads.
type recorder struct {
	registry  *prometheus.Registry
	decisions *prometheus.CounterVec
	asked     *prometheus.CounterVec
	took      prometheus.Histogram
	series    *series
	at        time.Duration
}

func newRecorder() *recorder {
	r := &recorder{
		registry:  prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jwt_bouncer_decisions_total"}, []string{"reason"}),
		asked:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jwt_bouncer_introspections_total"}, []string{"introspection", "result"}),
		took:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "auth_validation_duration_seconds", Buckets: []float64{.0001, .001, .01}}),
		series:    newSeries(), at: time.Hour,
	}
	routes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jwt_bouncer_route_decisions_total"}, []string{"route", "outcome"})
	routes.WithLabelValues("api", "allowed").Add(7)
	routes.WithLabelValues("api", "error").Add(2)
	routes.WithLabelValues("", "denied").Add(1)
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "jwt_bouncer_build_info", ConstLabels: prometheus.Labels{"version": "v1.2.3"}})
	r.registry.MustRegister(r.decisions, r.asked, r.took, routes, build)
	return r
}

// pass lets a sample's time pass and takes one.
func (r *recorder) pass() sample {
	r.at += sampleEvery
	s := take(r.registry, r.at)
	r.series.add(s)
	return s
}

func TestSample(t *testing.T) {
	t.Parallel()
	s := newRecorder().pass()
	assert.Equal(t, []row{{Name: "", Denied: 1}, {Name: "api", Allowed: 7, Error: 2}}, s.routes)
	assert.Equal(t, "v1.2.3", s.version)
	assert.Len(t, s.reasons, len(authz.Reasons()))
}

func TestSeries(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	r.decisions.WithLabelValues("allowed").Add(1e6) // before the first sample: belongs to no point
	r.pass()
	assert.Zero(t, r.series.window(1, 1)[0].seconds)
	r.decisions.WithLabelValues("allowed").Add(50)
	r.decisions.WithLabelValues("expired").Add(10)
	for range 99 {
		r.took.Observe(.00005)
	}
	r.took.Observe(.005)
	r.pass()
	p := r.series.window(1, 1)[0]
	assert.InDelta(t, 5, p.seconds, 1e-6)
	assert.InDelta(t, 10, p.rates[authz.ReasonAllowed], 1e-6)
	assert.InDelta(t, 2, p.rates[authz.ReasonExpired], 1e-6)
	assert.InDelta(t, .00005, p.p50, .00002)
	assert.InDelta(t, .0001, p.p99, .00001)
	r.pass() // nothing happens
	quiet := r.series.window(2, 1)
	assert.Equal(t, p.p50, quiet[0].p50)
	assert.Zero(t, quiet[1].rates[authz.ReasonAllowed])
	assert.Zero(t, quiet[1].p99)
	both := r.series.window(2, 2)
	require.Len(t, both, 1)
	assert.InDelta(t, 5, both[0].rates[authz.ReasonAllowed], 1e-6, "the mean")
	assert.Equal(t, p.p99, both[0].p99, "the highest")
}

// However long the process runs, an hour of points is kept, in the memory of the start.
func TestSeriesIsBounded(t *testing.T) {
	r := newRecorder()
	s := take(r.registry, 0)
	counts := [2][]float64{make([]float64, len(reasons)), make([]float64, len(reasons))}
	n := 0
	add := func() {
		n++
		s.at, s.reasons = time.Duration(n)*sampleEvery, counts[n%2]
		s.reasons[authz.ReasonAllowed] = counts[(n+1)%2][authz.ReasonAllowed] + float64(5*n)
		r.series.add(s)
	}
	for range 3 * retained {
		add()
	}
	assert.Zero(t, testing.AllocsPerRun(100, add))
	points := r.series.window(retained, 1)
	assert.Len(t, points, retained)
	for i := range points {
		assert.InDelta(t, float64(n-retained+1+i), points[i].rates[authz.ReasonAllowed], 1)
	}
	assert.Less(t, retained*(len(reasons)*4+48), 150<<10, "bytes; docs/operations.md says how many")
}

func TestSourcesThatAreAsked(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	r.asked.WithLabelValues("legacy", "active")
	got := r.series.sources(r.pass())
	require.Len(t, got, 1)
	assert.Equal(t, []string{"Token introspection legacy", "not asked yet", "never"}, []string{got[0].Name, got[0].Word, got[0].Age})
	r.asked.WithLabelValues("legacy", "inactive").Inc()
	r.pass()
	got = r.series.sources(r.pass())
	assert.Equal(t, []string{"good", "working", "5 s ago"}, []string{got[0].State, got[0].Word, got[0].Age})
	r.asked.WithLabelValues("legacy", "failed").Inc()
	got = r.series.sources(r.pass())
	assert.Equal(t, []string{"warning", "failing", "10 s ago"}, []string{got[0].State, got[0].Word, got[0].Age})
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	now := []bucket{{.001, 50}, {.01, 100}, {0, 100}}
	assert.InDelta(t, .001, quantile(now, nil, .5), 1e-9)
	assert.InDelta(t, .0055, quantile(now, nil, .75), 1e-9)
	assert.InDelta(t, .01, quantile([]bucket{{.001, 0}, {.01, 0}, {0, 3}}, nil, .99), 1e-9, "beyond the last bound")
	assert.Zero(t, quantile(now, now, .5))
	assert.Zero(t, quantile(nil, nil, .5))
}

// Every chart has a scale and says in words what it draws.
func TestCharts(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	r.pass()
	for i := range 20 {
		r.decisions.WithLabelValues("allowed").Add(100)
		for j, reason := range []string{"expired", "revoked", "bad_signature", "wrong_audience", "unknown_key", "no_credential", "policy_denied"} {
			r.decisions.WithLabelValues(reason).Add(float64(40 - j - i))
		}
		r.decisions.WithLabelValues("revocation_unknown").Add(3)
		r.took.Observe(.0005)
		r.pass()
	}
	all := charts(spans[0], spans[0].points(r.series))
	require.Len(t, all, 3)
	requests, denials, latency := all[0], all[1], all[2]
	assert.Equal(t, []string{"100", "50", "0"}, requests.Y)
	assert.Equal(t, []string{"−5 min", "−2.5 min", "now"}, requests.X)
	assert.Equal(t, []string{"allowed", "denied", "answered 503"}, names(requests.Areas))
	assert.Equal(t, "20/s", requests.Areas[0].Value)
	assert.Equal(t, []string{"no credential", "unknown key", "bad signature", "expired", "wrong audience", "revoked", "other reasons"}[6], denials.Areas[len(denials.Areas)-1].Name)
	assert.Len(t, denials.Areas, 6)
	assert.Equal(t, []string{"1 ms", "100 µs", "10 µs"}, latency.Y)
	assert.Equal(t, []string{"99 % within", "90 % within", "half within"}, names(latency.Lines))
	for _, c := range all {
		assert.Contains(t, c.Summary, "over the last 5 min, in "+c.Unit+". Now: ")
		for _, trace := range append(c.Areas, c.Lines...) {
			assert.NotContains(t, trace.Path, "NaN")
			assert.NotContains(t, trace.Path, "Inf")
			assert.Positive(t, strings.Count(trace.Path, "L"))
		}
	}
}

func names(all []trace) (out []string) {
	for _, t := range all {
		out = append(out, t.Name)
	}
	return out
}

func TestChartsWithoutData(t *testing.T) {
	t.Parallel()
	for _, s := range spans {
		points := s.points(newSeries())
		assert.LessOrEqual(t, len(points), 120)
		for _, c := range charts(s, points) {
			assert.Empty(t, c.Areas)
			assert.Empty(t, c.Lines)
			assert.Equal(t, "The first numbers come within ten seconds of the start.", c.Empty, c.ID)
		}
	}
	r := newRecorder()
	r.pass()
	r.pass()
	all := charts(spans[0], spans[0].points(r.series))
	assert.Equal(t, []string{"", "Nothing was denied.", "Nothing was decided."}, []string{all[0].Empty, all[1].Empty, all[2].Empty})
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", .3: "0.3", 9.96: "10.0", 12: "12", 999: "999", 1234567: "1,234,567"} {
		assert.Equal(t, want, amount(v), v)
	}
	for v, want := range map[float64]string{1e-5: "10 µs", 1e-4: "100 µs", 1.23e-4: "123 µs", .0012: "1.2 ms", .25: "250 ms", 2.5: "2.5 s", 100: "100 s", .001: "1 ms"} {
		assert.Equal(t, want, duration(v), v)
	}
	for v, want := range map[float64]float64{0: 1, .2: 1, 1: 1, 1.1: 2, 3: 5, 6: 10, 11: 20, 999: 1000} {
		assert.InDelta(t, want, niceAbove(v), 1e-9, fmt.Sprint(v))
	}
	for v, want := range map[time.Duration]string{-1: "never", math.MaxInt64: "never", 400 * time.Millisecond: "0.4 s ago", 44 * time.Second: "44 s ago", 3 * time.Minute: "3 min ago", 5 * time.Hour: "5 h ago", 72 * time.Hour: "3 days ago"} {
		assert.Equal(t, want, ago(v), v)
	}
}
