package page

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
)

func TestStats(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	gauge := func(name string, labels prometheus.Labels, v float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, ConstLabels: labels})
		g.Set(v)
		registry.MustRegister(g)
	}
	gauge("jwt_bouncer_replica_staleness_seconds", nil, 31)
	gauge("jwt_bouncer_replica_max_staleness_seconds", nil, 30)
	gauge("jwt_bouncer_replica_entries", nil, 7)
	gauge("jwt_bouncer_redis_subscribed", nil, 0)
	gauge("jwt_bouncer_store_breaker_state", prometheus.Labels{"store": "postgres"}, 2)
	gauge("jwt_bouncer_jwks_keys", prometheus.Labels{"issuer": "https://a.example"}, 2)
	gauge("jwt_bouncer_jwks_age_seconds", prometheus.Labels{"issuer": "https://a.example"}, 90)
	gauge("jwt_bouncer_jwks_keys", prometheus.Labels{"issuer": "https://b.example"}, 0)
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "auth_validation_duration_seconds", Buckets: []float64{.001, .01}})
	h.Observe(.0005)
	h.Observe(.005)
	h.Observe(5)
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jwt_bouncer_decisions_total"}, []string{"reason"})
	c.WithLabelValues("allowed").Add(2)
	c.WithLabelValues("revoked").Add(5)
	c.WithLabelValues("expired").Add(0)
	registry.MustRegister(h, c)
	assert.Equal(t, stats{
		Status:    "ready",
		Decisions: []decisions{{"revoked", false, 5}, {"allowed", true, 2}},
		Latency:   latency{Count: 3, Buckets: [][2]float64{{.001, 1}, {.01, 2}}},
		Parts: []partView{
			{"replica", "bad", "complete as of 31s ago (max_staleness 30s), 7 revocations"},
			{"redis notifications", "warning", "not subscribed: changes arrive with the next sync"},
			{"postgres", "bad", "unreachable (breaker open)"},
			{"keys of " + "https://a.example", "good", "2 usable, confirmed 90s ago"},
			{"keys of " + "https://b.example", "bad", "not fetched yet"},
		},
	}, newStats(registry, "ready"))
}
