package rediscache

import "github.com/prometheus/client_golang/prometheus"

// metrics count everything but lookups, which the caller of the chain counts.
type metrics struct {
	fills         *prometheus.CounterVec
	published     *prometheus.CounterVec
	pending       prometheus.Gauge
	subscribed    prometheus.Gauge
	subscriptions prometheus.Counter
	messages      *prometheus.CounterVec
	breaker       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		fills: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_fills_total",
			Help: "Verdicts of later tiers for Redis to cache, by result: written, failed, dropped.",
		}, []string{"result"}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_announcements_total",
			Help: "Revocations to publish in Redis, by result: at_once, queued, retried, dropped.",
		}, []string{"result"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_redis_announcements_pending",
			Help: "Revocations in the queue for Redis.",
		}),
		subscribed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_redis_subscribed",
			Help: "1 while this process is subscribed to published revocations, otherwise 0.",
		}),
		subscriptions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_subscriptions_total",
			Help: "Confirmed subscriptions to published revocations; each one moves the next sync with the store forward.",
		}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_messages_total",
			Help: "Messages received about published revocations, by result: complete (names all), incomplete (does not, or cannot be read; moves the next sync with the store forward).",
		}, []string{"result"}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_breaker_state",
			Help: "State of the circuit breaker in front of a dependency: 0 closed, 1 half-open, 2 open.",
			// A constant label, so that each package can register its own.
			ConstLabels: prometheus.Labels{"dependency": "redis"},
		}),
	}
	for _, r := range messageResults {
		m.messages.WithLabelValues(r)
	}
	if reg != nil {
		reg.MustRegister(m.fills, m.published, m.pending, m.subscribed, m.subscriptions, m.messages, m.breaker)
	}
	return m
}

var messageResults = map[bool]string{true: "complete", false: "incomplete"}

// message counts a message.
func (m *metrics) message(complete bool) { m.messages.WithLabelValues(messageResults[complete]).Inc() }
