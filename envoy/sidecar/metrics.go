package sidecar

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// reloadMetrics report whether the configuration file is in force. Names and
// meanings are those of Prometheus and Alertmanager.
type reloadMetrics struct{ successful, at prometheus.Gauge }

// newReloadMetrics counts the load at startup as the first success.
func newReloadMetrics(registry prometheus.Registerer) reloadMetrics {
	m := reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{Name: "jwt_bouncer_config_last_reload_successful", Help: "1 if the configuration file was valid when it was last read; 0 if it was invalid, so that the previous configuration is still in force."}),
		at:         prometheus.NewGauge(prometheus.GaugeOpts{Name: "jwt_bouncer_config_last_reload_success_timestamp_seconds", Help: "Unix time of the last successful reload of the configuration file."}),
	}
	registry.MustRegister(m.successful, m.at)
	m.reloaded(nil)
	return m
}

func (m reloadMetrics) reloaded(err error) {
	if err != nil {
		m.successful.Set(0)
		return
	}
	m.successful.Set(1)
	m.at.SetToCurrentTime()
}

// newTierMetrics returns the chain's observer, which counts lookups and measures
// their duration by tier. The counters are resolved in advance to keep checks fast.
func newTierMetrics(registry prometheus.Registerer, tiers []authz.Tier) func(string, authz.Verdict, error, time.Duration) {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jwt_bouncer_tier_lookups_total", Help: "Lookups by tier and result: revoked, not_revoked, unknown (a miss) or error."}, []string{"tier", "result"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "jwt_bouncer_tier_lookup_seconds", Help: "Duration of lookups that left the process, by tier.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 12)}, []string{"tier"})
	registry.MustRegister(lookups, seconds)
	type counters struct {
		byVerdict [3]prometheus.Counter
		failed    prometheus.Counter
		took      prometheus.Observer
	}
	byTier := map[string]*counters{}
	for _, t := range tiers {
		c := &counters{failed: lookups.WithLabelValues(t.Name(), "error")}
		for v := authz.Unknown; v <= authz.NotRevoked; v++ {
			c.byVerdict[v] = lookups.WithLabelValues(t.Name(), v.String())
		}
		if t.Name() != "replica" {
			c.took = seconds.WithLabelValues(t.Name())
		}
		byTier[t.Name()] = c
	}
	return func(tier string, v authz.Verdict, err error, took time.Duration) {
		c := byTier[tier]
		if c == nil {
			return
		}
		if err != nil {
			c.failed.Inc()
		} else {
			c.byVerdict[v].Inc()
		}
		if c.took != nil {
			c.took.Observe(took.Seconds())
		}
	}
}
