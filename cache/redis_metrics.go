package cache

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// redisMetrics count what happens outside of lookups; those are counted by
// whoever asks the chain.
type redisMetrics struct {
	fills         *prometheus.CounterVec
	announced     *prometheus.CounterVec
	pending       prometheus.Gauge
	subscribed    prometheus.Gauge
	subscriptions prometheus.Counter
	messages      prometheus.Counter
}

func newRedisMetrics(reg prometheus.Registerer) (redisMetrics, error) {
	m := redisMetrics{
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
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.fills, m.announced, m.pending, m.subscribed, m.subscriptions, m.messages} {
		if err := reg.Register(c); err != nil {
			return m, fmt.Errorf("redis: register metrics: %w", err)
		}
	}
	return m, nil
}
