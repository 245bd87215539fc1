package envoy

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
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
	openStreams prometheus.Gauge
	routes      *outcomes
	issuers     *outcomes

	streamsEnded *prometheus.CounterVec // by reason
}

func newMetrics(r prometheus.Registerer, issuers authz.Issuers) (*metrics, error) {
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
		openStreams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jwt_bouncer_open_streams",
			Help: "Requests in progress on routes with end_streams; 0 with ext_authz.",
		}),
		streamsEnded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_streams_ended_total",
			Help: "Open streams ended (end_streams), by the reason for which a new request with the token would be denied; 0 with ext_authz.",
		}, []string{"reason"}),
		routes: newOutcomes("jwt_bouncer_route_decisions_total", "route",
			`Checks answered, by the matched route ("" without one) and outcome (allowed, denied, error).`),
		issuers: newOutcomes("jwt_bouncer_issuer_decisions_total", "issuer",
			"Checks of verified or introspected tokens that were answered, by configured issuer and outcome (allowed, denied, error)."),
	}
	m.routes.add("") // the metric exists from the start
	m.streamsEnded.WithLabelValues(authz.ReasonRevoked.String())
	m.issuers.fix(issuers.All(), issuers.Templates)
	for _, reason := range authz.Reasons() {
		m.decisions = append(m.decisions, decisions.WithLabelValues(reason.String()))
	}
	for _, c := range []prometheus.Collector{decisions, m.duration, m.errors, m.undecodable, m.late, m.logDropped, m.openStreams, m.streamsEnded, m.routes.total, m.issuers.total} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// count records one answered check.
func (m *metrics) count(d *authz.Decision, took time.Duration) {
	reason := d.Reason
	if int(reason) >= len(m.decisions) {
		reason = authz.ReasonUnset
	}
	m.decisions[reason].Inc()
	m.duration.Observe(took.Seconds())
	outcome := outcomeDenied
	switch reason {
	case authz.ReasonAllowed, authz.ReasonAllowedAnonymous:
		outcome = outcomeAllowed
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal:
		outcome = outcomeError
		m.errors.Inc()
	}
	m.routes.of(d.Route)[outcome].Inc()
	if d.Token != nil {
		m.issuers.of(d.Token.Issuer)[outcome].Inc()
	}
}

const (
	outcomeAllowed = iota
	outcomeDenied
	outcomeError // answered 503
	outcomeCount
)

var outcomeNames = [outcomeCount]string{"allowed", "denied", "error"}

// maxNames is how many names outcomes tells apart; it counts any more together. A
// configuration with more routes than that is reached by reloads, if at all.
const maxNames = 256

// outcomes counts checks by a configured name and by outcome.
type outcomes struct {
	total     *prometheus.CounterVec
	fixed     bool     // fix has named all of them: none is added
	templates []string // names with authz.TenantPlaceholder, for all of their tenants

	mu     sync.Mutex // held to add a name
	byName atomic.Pointer[map[string]*[outcomeCount]prometheus.Counter]
	other  *[outcomeCount]prometheus.Counter
}

// newOutcomes returns the counters of a metric with one label besides outcome. It
// adds a name with the first check that has it.
func newOutcomes(metric, label, help string) *outcomes {
	o := &outcomes{total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: metric, Help: help}, []string{label, "outcome"})}
	o.byName.Store(&map[string]*[outcomeCount]prometheus.Counter{})
	return o
}

// fix says that there are no other names than these and the tenants of templates:
// what a token says must not become a label.
func (o *outcomes) fix(names, templates []string) {
	byName := make(map[string]*[outcomeCount]prometheus.Counter, len(names))
	for _, name := range slices.Concat(names, templates) {
		byName[name] = o.counters(name)
	}
	o.fixed, o.templates = true, templates
	o.byName.Store(&byName)
}

func (o *outcomes) counters(name string) *[outcomeCount]prometheus.Counter {
	var c [outcomeCount]prometheus.Counter
	for i, outcome := range outcomeNames {
		c[i] = o.total.WithLabelValues(name, outcome)
	}
	return &c
}

// of returns the counters of a name.
func (o *outcomes) of(name string) *[outcomeCount]prometheus.Counter {
	byName := *o.byName.Load()
	if c := byName[name]; c != nil {
		return c
	}
	for _, template := range o.templates {
		if authz.Tenant(template, name) != "" {
			return byName[template]
		}
	}
	return o.add(name)
}

func (o *outcomes) add(name string) *[outcomeCount]prometheus.Counter {
	o.mu.Lock()
	defer o.mu.Unlock()
	byName := *o.byName.Load()
	if c := byName[name]; c != nil {
		return c
	}
	if o.fixed || len(byName) >= maxNames {
		if o.other == nil {
			o.other = o.counters("other")
		}
		return o.other
	}
	more := maps.Clone(byName)
	more[name] = o.counters(name)
	o.byName.Store(&more)
	return more[name]
}
