package issuer

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// IssuerStatus is the state of one issuer's keys.
type Status struct {
	Issuer  string
	Keys    int       // usable
	Refused int       // members of the set that are not used
	Fetched time.Time // last success; zero: never
	Err     string    // why the last fetch failed; empty: it did not
}

// Status returns the state of every issuer, in order of configuration.
func (v *Verifier) Status() []Status {
	all := make([]Status, len(v.rings))
	for i, r := range v.rings {
		all[i] = r.status()
	}
	return all
}

// Ready returns nil when at least one issuer has usable keys, otherwise why
// none has. Then it asks for them as a token would, within the same bounds: no
// token comes to do so while nothing sends any to a sidecar that is not ready,
// and the refresher has become slow if they have been away for long.
func (v *Verifier) Ready() error {
	var why []string
	for _, s := range v.Status() {
		if s.Keys > 0 {
			return nil
		}
		why = append(why, s.Issuer+": "+cmp.Or(s.Err, "not fetched yet"))
	}
	for _, r := range v.rings {
		r.ask()
	}
	return errors.New("no issuer has usable keys: " + strings.Join(why, "; "))
}

func (r *KeyRing) leeway() int64 { return int64(r.cfg.Leeway / time.Second) }

func (r *KeyRing) status() Status {
	s := Status{Issuer: r.cfg.Issuer}
	if st := r.state.Load(); st != nil {
		s.Keys, s.Refused = st.set.Len(), len(st.set.Refused())
		s.Fetched = time.Unix(st.wall.Load(), 0)
	}
	r.mu.Lock()
	s.Err = r.lastFail
	r.mu.Unlock()
	return s
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("jwt_bouncer_jwks_"+name, help, append([]string{"issuer"}, labels...), nil)
}

// The metrics of the keys. The issuer label holds configured issuers only.
var (
	descKeys      = desc("keys", "Usable signing keys.")
	descRefused   = desc("refused_keys", "Members of the key set last fetched that are not used.")
	descAge       = desc("age_seconds", "Time since the keys were last confirmed by a fetch; absent without keys.")
	descRefreshes = desc("refreshes_total", "Fetches of the key set.", "result")
	descUnknown   = desc("token_fetches_total", "Fetches that tokens with an unknown key asked for: started, or suppressed by the cooldown.", "outcome")
	descWithdrawn = desc("withdrawals_total", "Fetches that found a key withdrawn or changed.")
	allDescs      = []*prometheus.Desc{descKeys, descRefused, descAge, descRefreshes, descUnknown, descWithdrawn}
)

// Describe implements prometheus.Collector.
func (v *Verifier) Describe(to chan<- *prometheus.Desc) {
	for _, d := range allDescs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (v *Verifier) Collect(to chan<- prometheus.Metric) {
	for _, r := range v.rings {
		iss := r.cfg.Issuer
		gauge := func(d *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, iss)
		}
		count := func(d *prometheus.Desc, n uint64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{iss}, labels...)...)
		}
		s := r.status()
		gauge(descKeys, float64(s.Keys))
		gauge(descRefused, float64(r.counts.refused.Load()))
		if st := r.state.Load(); st != nil {
			gauge(descAge, (r.clock.Boot() - time.Duration(st.confirmed.Load())).Seconds())
		}
		count(descRefreshes, r.counts.refreshed.Load(), "ok")
		count(descRefreshes, r.counts.failed.Load(), "failed")
		count(descUnknown, r.counts.asked.Load(), "started")
		count(descUnknown, r.counts.suppressed.Load(), "suppressed")
		count(descWithdrawn, r.counts.withdrawn.Load())
	}
}
