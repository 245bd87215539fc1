package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// stats is the part of the metrics that the page shows.
type stats struct {
	Status    string      `json:"status"`
	Decisions []decisions `json:"decisions"`
	Latency   latency     `json:"latency"`
	Parts     []partView  `json:"parts"`
}

type decisions struct {
	Reason  string  `json:"reason"`
	Allowed bool    `json:"allowed"`
	Count   float64 `json:"count"`
}

// latency is a histogram of the time to decide, cumulative since the start.
type latency struct {
	Count   float64      `json:"count"`
	Buckets [][2]float64 `json:"buckets"` // upper bound in seconds, count; without +Inf
}

// partView is one line of the freshness table: a tier or an issuer's keys.
type partView struct {
	Name   string `json:"name"`
	State  string `json:"state"` // good, warning or bad
	Detail string `json:"detail"`
}

// families are metric families by name.
type families map[string]*dto.MetricFamily

func (f families) each(name string, visit func(label func(string) string, m *dto.Metric)) {
	for _, m := range f[name].GetMetric() {
		visit(func(want string) string {
			for _, l := range m.GetLabel() {
				if l.GetName() == want {
					return l.GetValue()
				}
			}
			return ""
		}, m)
	}
}

// value returns the first sample of a counter or gauge.
func (f families) value(name string) (float64, bool) {
	for _, m := range f[name].GetMetric() {
		return number(m), true
	}
	return 0, false
}

// number returns the value of a counter or gauge; the other one is 0.
func number(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }

func (p *page) stats() stats { return newStats(p.api.Options().Gatherer, p.api.Status()) }

func newStats(g prometheus.Gatherer, status string) stats {
	list, _ := g.Gather() // a collector that fails omits only its own metrics
	f := make(families, len(list))
	for _, family := range list {
		f[family.GetName()] = family
	}
	s := stats{Status: status, Decisions: []decisions{}, Latency: latency{Buckets: [][2]float64{}}}
	f.each("jwt_bouncer_decisions_total", func(label func(string) string, m *dto.Metric) {
		if n := number(m); n > 0 {
			reason := label("reason")
			s.Decisions = append(s.Decisions, decisions{reason, strings.HasPrefix(reason, "allowed"), n})
		}
	})
	slices.SortFunc(s.Decisions, func(x, y decisions) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Reason, y.Reason))
	})
	f.each("auth_validation_duration_seconds", func(_ func(string) string, m *dto.Metric) {
		h := m.GetHistogram()
		s.Latency.Count += float64(h.GetSampleCount())
		for i, b := range h.GetBucket() {
			if i == len(s.Latency.Buckets) {
				s.Latency.Buckets = append(s.Latency.Buckets, [2]float64{b.GetUpperBound(), 0})
			}
			s.Latency.Buckets[i][1] += float64(b.GetCumulativeCount())
		}
	})
	s.Parts = slices.Concat(f.replica(), f.redis(), f.breakers(), f.keys())
	return s
}

func (f families) replica() []partView {
	age, ok := f.value("jwt_bouncer_replica_staleness_seconds")
	if !ok {
		return nil
	}
	maxStaleness, _ := f.value("jwt_bouncer_replica_max_staleness_seconds")
	entries, _ := f.value("jwt_bouncer_replica_entries")
	v := partView{Name: "replica", State: "good", Detail: fmt.Sprintf("complete as of %s ago (max_staleness %s), %.0f revocations", seconds(age), seconds(maxStaleness), entries)}
	switch {
	case age > 1e8:
		v.State, v.Detail = "bad", "not loaded yet"
	case age > maxStaleness:
		v.State = "bad"
	case age > maxStaleness/2:
		v.State = "warning"
	}
	return []partView{v}
}

func (f families) redis() []partView {
	subscribed, ok := f.value("jwt_bouncer_redis_subscribed")
	if !ok {
		return nil
	}
	pending, _ := f.value("jwt_bouncer_redis_announcements_pending")
	v := partView{Name: "redis notifications", State: "good", Detail: "subscribed"}
	if subscribed == 0 {
		v.State, v.Detail = "warning", "not subscribed: changes arrive with the next sync"
	}
	if pending > 0 {
		v.State = "warning"
		v.Detail += fmt.Sprintf(", %.0f notifications pending", pending)
	}
	return []partView{v}
}

func (f families) breakers() []partView {
	var out []partView
	for _, name := range []string{"jwt_bouncer_breaker_state", "jwt_bouncer_store_breaker_state"} {
		f.each(name, func(label func(string) string, m *dto.Metric) {
			dependency := cmp.Or(label("store"), label("tier"), label("dependency"), label("breaker"), label("name"), "dependency")
			v := partView{dependency, "good", "reachable (breaker closed)"}
			switch number(m) {
			case 1:
				v = partView{dependency, "warning", "probing (breaker half-open)"}
			case 2:
				v = partView{dependency, "bad", "unreachable (breaker open)"}
			}
			out = append(out, v)
		})
	}
	return out
}

func (f families) keys() []partView {
	keys := map[string]float64{}
	f.each("jwt_bouncer_jwks_keys", func(label func(string) string, m *dto.Metric) { keys[label("issuer")] = number(m) })
	var out []partView
	f.each("jwt_bouncer_jwks_age_seconds", func(label func(string) string, m *dto.Metric) {
		iss := label("issuer")
		v := partView{Name: "keys of " + iss, State: "good", Detail: fmt.Sprintf("%.0f usable, confirmed %s ago", keys[iss], seconds(number(m)))}
		if keys[iss] == 0 {
			v.State, v.Detail = "bad", "none: every token of this issuer is denied"
		}
		out = append(out, v)
	})
	for iss, n := range keys {
		if n == 0 && !slices.ContainsFunc(out, func(v partView) bool { return v.Name == "keys of "+iss }) {
			out = append(out, partView{"keys of " + iss, "bad", "not fetched yet"})
		}
	}
	slices.SortFunc(out, func(x, y partView) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// seconds formats a number of seconds for people.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", s)
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", s)
	}
	return d.Round(time.Minute).String()
}
