package envoy

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// metrics holds the resolved counters, so that to count is one atomic addition.
type metrics struct {
	decisions   []prometheus.Counter // by reason
	duration    prometheus.Histogram
	errors      prometheus.Counter
	undecodable prometheus.Counter
	late        prometheus.Counter
	logDropped  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_decisions_total",
		Help: "Checks answered, by reason of the decision.",
	}, []string{"reason"})
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "auth_validation_duration_seconds",
			Help:    "Time from the arrival of a check to its response.",
			Buckets: []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 150e-3, 190e-3, 250e-3},
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "auth_validation_errors_total",
			Help: "Checks answered 503 because no decision was possible.",
		}),
		undecodable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_undecodable_requests_total",
			Help: "Messages answered 400 because they are not a CheckRequest of an HTTP request.",
		}),
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_late_decisions_total",
			Help: "Checks answered 503 because there was no decision before the deadline.",
		}),
		logDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_decision_log_dropped_total",
			Help: "Decisions not logged because they exceeded decision_log.per_second.",
		}),
	}
	for _, reason := range authz.Reasons() {
		m.decisions = append(m.decisions, decisions.WithLabelValues(reason.String()))
	}
	for _, c := range []prometheus.Collector{decisions, m.duration, m.errors, m.undecodable, m.late, m.logDropped} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// count records one answered check.
func (m *metrics) count(reason authz.Reason, took time.Duration) {
	if int(reason) >= len(m.decisions) {
		reason = authz.ReasonUnset
	}
	m.decisions[reason].Inc()
	m.duration.Observe(took.Seconds())
	switch reason {
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal:
		m.errors.Inc()
	}
}
