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
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_http_auth_failures_total", Help: "Requests to the HTTP port that were refused because they had no valid token, client secret or session.",
		}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.authFailures} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
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
