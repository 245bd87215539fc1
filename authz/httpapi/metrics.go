package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the HTTP door. No label comes from a request.
type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	revocations  *prometheus.CounterVec
	authFailures prometheus.Counter
	events       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_http_requests_total", Help: "Requests answered on the HTTP port, by door and status code.",
		}, []string{"door", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "jwt_bouncer_http_request_duration_seconds", Help: "Time to answer a request on the HTTP port, by door.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"door"}),
		revocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_revocations_ordered_total", Help: "Revocations ordered over HTTP, by door and outcome (stored, refused, unavailable, unknown).",
		}, []string{"door", "outcome"}),
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_http_auth_failures_total", Help: "Requests refused on the HTTP port for want of a valid token, client secret or session.",
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_security_events_total", Help: "Security Event Tokens received, by outcome (enforced, ignored, repeated, refused, postponed).",
		}, []string{"outcome"}),
	}
	// Shown from the start: of a series that begins with its first event, rate
	// and increase see no rise, and the first event would not be noticed.
	for _, door := range []string{doorAPI, doorPage, doorOAuth, doorLogout, doorEvents, doorKeycloak} {
		for _, outcome := range []string{"stored", "refused", "unavailable", "unknown"} {
			m.revocations.WithLabelValues(door, outcome)
		}
	}
	for _, outcome := range []string{"enforced", "ignored", "repeated", "refused", "postponed"} {
		m.events.WithLabelValues(outcome)
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.revocations, m.authFailures, m.events} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) ordered(door, outcome string, n int) {
	m.revocations.WithLabelValues(door, outcome).Add(float64(n))
}

func (m *metrics) measure(e endpoint, w http.ResponseWriter, serve func(http.ResponseWriter)) {
	start := time.Now()
	rec := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	defer func() {
		m.requests.WithLabelValues(e.door, strconv.Itoa(rec.status)).Inc()
		m.duration.WithLabelValues(e.door).Observe(time.Since(start).Seconds())
	}()
	serve(rec)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
