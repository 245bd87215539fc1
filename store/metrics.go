package store

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// metrics are those of one store. Their label values form a closed set.
type metrics struct {
	operations *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	rows       prometheus.Counter
	collected  prometheus.Counter
	breaker    prometheus.Gauge
	waiting    prometheus.Gauge
	connects   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, store string) *metrics {
	l := prometheus.Labels{"store": store}
	m := &metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_store_operations_total", ConstLabels: l,
			Help: "Operations on the revocation store by kind (append, list, lookup, changes, gc) and outcome (ok, invalid, unavailable, unknown, canceled).",
		}, []string{"operation", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "jwt_bouncer_store_operation_duration_seconds", ConstLabels: l,
			Help:    "Duration of operations on the revocation store.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"operation"}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_store_feed_rows_total", ConstLabels: l,
			Help: "Revocations delivered to the follower.",
		}),
		collected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_store_gc_rows_total", ConstLabels: l,
			Help: "Expired revocations deleted by this process.",
		}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_store_breaker_state", ConstLabels: l,
			Help: "Circuit breaker around point lookups: 0 closed, 1 half open, 2 open.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_store_lookups_pending", ConstLabels: l,
			Help: "Point lookups running or waiting for a connection.",
		}),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_store_connects_total", ConstLabels: l,
			Help: "Connection attempts to the server: tried counts all, ok the successful ones.",
		}, []string{"outcome"}),
	}
	if reg != nil {
		for _, c := range []prometheus.Collector{m.operations, m.seconds, m.rows, m.collected, m.breaker, m.waiting, m.connects} {
			// Opening the same store twice in a process keeps the first one's metrics.
			if err := reg.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
				panic(err) // a name or label clash is a programming error
			}
		}
	}
	return m
}

// done counts an operation that began at start; call it deferred.
func (m *metrics) done(operation string, start time.Time, err *error) {
	m.seconds.WithLabelValues(operation).Observe(time.Since(start).Seconds())
	m.operations.WithLabelValues(operation, outcome(*err)).Inc()
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, authz.ErrInvalid):
		return "invalid"
	case errors.Is(err, authz.ErrOutcomeUnknown):
		return "unknown"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "unavailable"
}
