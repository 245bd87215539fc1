package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the HTTP port. No label value comes from a request.
type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	revocations  *prometheus.CounterVec
	authFailures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_http_requests_total", Help: "Requests to the HTTP port, by source and status code.",
		}, []string{"source", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "jwt_bouncer_http_request_duration_seconds", Help: "Time to answer a request to the HTTP port, by source.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"source"}),
		revocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_revocations_ordered_total", Help: "Revocations requested over HTTP, by source and outcome (stored, refused, unavailable, unknown).",
		}, []string{"source", "outcome"}),
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_http_auth_failures_total", Help: "Requests to the HTTP port that were refused because they had no valid token, client secret or session.",
		}),
	}
	// All series exist from the start: rate and increase miss the first event of
	// a series that begins with it.
	for _, source := range []string{SourceAPI, SourcePage, SourceOAuth, SourceLogout, SourceEvents, SourceKeycloak} {
		for _, outcome := range []string{"stored", "refused", "unavailable", "unknown"} {
			m.revocations.WithLabelValues(source, outcome)
		}
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.revocations, m.authFailures} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// requested counts n revocations.
func (m *metrics) requested(source, outcome string, n int) {
	m.revocations.WithLabelValues(source, outcome).Add(float64(n))
}

// measure counts and times one request.
func (m *metrics) measure(e Endpoint, w http.ResponseWriter, serve func(http.ResponseWriter)) {
	start := time.Now()
	rec := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	defer func() {
		m.requests.WithLabelValues(e.Source, strconv.Itoa(rec.status)).Inc()
		m.duration.WithLabelValues(e.Source).Observe(time.Since(start).Seconds())
	}()
	serve(rec)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
