package rediscache

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what happens outside of lookups; those are counted by
// whoever asks the chain.
type metrics struct {
	fills         *prometheus.CounterVec
	announced     *prometheus.CounterVec
	pending       prometheus.Gauge
	subscribed    prometheus.Gauge
	subscriptions prometheus.Counter
	messages      prometheus.Counter
	breaker       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (metrics, error) {
	m := metrics{
		fills: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_fills_total",
			Help: "Verdicts of later tiers taught to Redis, by result: written, failed, dropped.",
		}, []string{"result"}),
		announced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_announcements_total",
			Help: "Revocations handed to Redis, by result: at_once, queued, retried, dropped.",
		}, []string{"result"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_redis_announcements_pending",
			Help: "Revocations waiting to be handed to Redis.",
		}),
		subscribed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_redis_subscribed",
			Help: "1 while this process is subscribed to announcements, else 0.",
		}),
		subscriptions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_subscriptions_total",
			Help: "Confirmed subscriptions to announcements; each one triggers a catch-up.",
		}),
		messages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_redis_messages_total",
			Help: "Announcements received; each one triggers a catch-up.",
		}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_breaker_state",
			Help: "State of the circuit breaker in front of a dependency: 0 closed, 1 half-open, 2 open.",
			// A constant label, so that each package can register its own.
			ConstLabels: prometheus.Labels{"dependency": "redis"},
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.fills, m.announced, m.pending, m.subscribed, m.subscriptions, m.messages, m.breaker} {
		if err := reg.Register(c); err != nil {
			return m, fmt.Errorf("redis: register metrics: %w", err)
		}
	}
	return m, nil
}
