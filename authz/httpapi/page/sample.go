package page

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"jwtbouncer/authz"
)

// reasons are the labels of jwt_bouncer_decisions_total, by authz.Reason.
var reasons = func() []string {
	all := authz.Reasons()
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.String()
	}
	return names
}()

// sample is what the page shows of the metrics at one moment. Counts are since the
// start of the process.
type sample struct {
	at       time.Duration // authz.Clock.Boot
	reasons  []float64     // by authz.Reason
	buckets  []bucket      // of the time to decide
	routes   []row         // in order of name
	issuers  []row
	entries  float64 // revocations in memory; negative: none are kept there
	asked    []asked
	version  string
	sections int // families that were gathered; 0: the metrics cannot be read
}

// bucket is one of a histogram, cumulative: count is that of all values up to upper.
type bucket struct{ upper, count float64 } // upper in seconds

// asked counts the answers of a dependency that has no httpapi.Condition.
type asked struct {
	name, about  string
	good, failed float64
}

// row counts the checks of one route or issuer by outcome.
type row struct {
	Name                   string
	Allowed, Denied, Error float64
}

// take reads a sample. Gathering is what costs; see httpapi.Options.Gatherer.
func take(g prometheus.Gatherer, now time.Duration) sample {
	families, _ := g.Gather() // a collector that fails omits only its own metrics
	s := sample{at: now, reasons: make([]float64, len(reasons)), entries: -1, sections: len(families)}
	for _, f := range families {
		switch f.GetName() {
		case "jwt_bouncer_decisions_total":
			for _, m := range f.GetMetric() {
				if i := slices.Index(reasons, label(m, "reason")); i >= 0 {
					s.reasons[i] = m.GetCounter().GetValue()
				}
			}
		case "auth_validation_duration_seconds":
			for _, m := range f.GetMetric() {
				for _, b := range m.GetHistogram().GetBucket() {
					s.buckets = append(s.buckets, bucket{b.GetUpperBound(), float64(b.GetCumulativeCount())})
				}
				s.buckets = append(s.buckets, bucket{0, float64(m.GetHistogram().GetSampleCount())}) // the rest
			}
		case "jwt_bouncer_route_decisions_total":
			s.routes = rows(f, "route")
		case "jwt_bouncer_issuer_decisions_total":
			s.issuers = rows(f, "issuer")
		case "jwt_bouncer_introspections_total":
			for _, m := range f.GetMetric() {
				s.count("Token introspection "+label(m, "introspection"), "asked about tokens that only their issuer can judge", label(m, "result"), m.GetCounter().GetValue())
			}
		case "jwt_bouncer_status_list_fetches_total":
			for _, m := range f.GetMetric() {
				s.count("Status lists", "published by issuers; they name tokens that are void", label(m, "result"), m.GetCounter().GetValue())
			}
		case "jwt_bouncer_replica_entries":
			for _, m := range f.GetMetric() {
				s.entries = m.GetGauge().GetValue()
			}
		case "jwt_bouncer_build_info":
			for _, m := range f.GetMetric() {
				s.version = label(m, "version")
			}
		}
	}
	return s
}

// count adds n answers of the dependency with that name.
func (s *sample) count(name, about, result string, n float64) {
	i := slices.IndexFunc(s.asked, func(a asked) bool { return a.name == name })
	if i < 0 {
		i = len(s.asked)
		s.asked = append(s.asked, asked{name: name, about: about})
	}
	switch result {
	case "ok", "active", "inactive":
		s.asked[i].good += n
	case "failed", "refused", "overloaded":
		s.asked[i].failed += n
	}
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// rows returns the counters of f by the label name, in order of name.
func rows(f *dto.MetricFamily, name string) []row {
	var out []row
	for _, m := range f.GetMetric() {
		n := label(m, name)
		i := slices.IndexFunc(out, func(r row) bool { return r.Name == n })
		if i < 0 {
			i = len(out)
			out = append(out, row{Name: n})
		}
		switch v := m.GetCounter().GetValue(); label(m, "outcome") {
		case "allowed":
			out[i].Allowed = v
		case "denied":
			out[i].Denied = v
		case "error":
			out[i].Error = v
		}
	}
	slices.SortFunc(out, func(a, b row) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// quantile estimates the q-quantile, in seconds, of what was counted after then, by
// linear interpolation within a bucket; 0: nothing was counted. Above the last bound
// it is that bound.
func quantile(now, then []bucket, q float64) float64 {
	if len(now) == 0 {
		return 0
	}
	since := func(i int) float64 {
		if i < len(then) {
			return now[i].count - then[i].count
		}
		return now[i].count
	}
	total := since(len(now) - 1)
	if total <= 0 {
		return 0
	}
	var below, lower float64
	for i := range now[:len(now)-1] {
		n := since(i)
		if n >= q*total {
			return lower + (now[i].upper-lower)*(q*total-below)/max(n-below, 1)
		}
		below, lower = n, now[i].upper
	}
	return lower
}
