package cache

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type followerMetrics struct {
	syncs    *prometheus.CounterVec
	duration prometheus.Histogram
	reloads  *prometheus.CounterVec
	rows     prometheus.Counter
	catchups *prometheus.HistogramVec
}

func newFollowerMetrics(reg prometheus.Registerer, f *Follower) *followerMetrics {
	m := &followerMetrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_replica_syncs_total",
			Help: "Syncs with the store by result: ok, error, timeout, unproven (answer of a standby), reused (answer of a cache), clock (wall clock far behind the store's).",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jwt_bouncer_replica_sync_duration_seconds",
			Help:    "Duration of syncs with the store, successful or not.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_replica_reloads_total",
			Help: "Full reloads after the first load, by cause: epoch, xmax (transaction ids went back), clock (wall clock went back).",
		}, []string{"cause"}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "jwt_bouncer_replica_rows_total",
			Help: "Revocations received from the store, including repeated ones.",
		}),
		catchups: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "jwt_bouncer_replica_catchup_wait_seconds",
			Help:    "Time that checks waited because the replica was not fresh, by outcome: proven or unproven.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .15, .2},
		}, []string{"outcome"}),
	}
	for _, r := range []string{"ok", "error", "timeout", "unproven", "reused", "clock"} {
		m.syncs.WithLabelValues(r)
	}
	for _, c := range []string{"epoch", "xmax", "clock"} {
		m.reloads.WithLabelValues(c)
	}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	reg.MustRegister(m.syncs, m.duration, m.reloads, m.rows, m.catchups,
		gauge("jwt_bouncer_replica_entries", "Revocations in memory.", func() float64 { return float64(f.replica.Len()) }),
		gauge("jwt_bouncer_replica_bytes", "Memory of the replica's tables.", func() float64 { return float64(f.replica.Bytes()) }),
		gauge("jwt_bouncer_replica_provisional_entries", "Revocations that messages have named and no sync has confirmed yet.", func() float64 { return float64(f.provisional.mark()) }),
		gauge("jwt_bouncer_replica_staleness_seconds", "Age of the replica's knowledge, +Inf before the first load. Above jwt_bouncer_replica_max_staleness_seconds it proves nothing.", f.seconds),
		gauge("jwt_bouncer_replica_max_staleness_seconds", "Effective max_staleness.", func() float64 { return time.Duration(f.maxStaleness.Load()).Seconds() }),
	)
	return m
}

func (m *followerMetrics) synced(err error, took time.Duration) {
	result := "error"
	switch {
	case err == nil:
		result = "ok"
	case errors.Is(err, errSilent), errors.Is(err, context.DeadlineExceeded):
		result = "timeout"
	case errors.Is(err, errUnproven):
		result = "unproven"
	case errors.Is(err, errReused):
		result = "reused"
	case errors.Is(err, errBehind):
		result = "clock"
	}
	m.syncs.WithLabelValues(result).Inc()
	m.duration.Observe(took.Seconds())
}
