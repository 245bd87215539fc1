package issuer

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is the state of one issuer's keys.
type Status struct {
	Issuer  string
	Keys    int           // usable
	Refused int           // unusable members of the set
	Why     []string      // reasons for the first of them
	Fetched time.Time     // time of the last success; zero: never, or the keys became too old
	MaxAge  time.Duration // from which on the keys are not used
	Err     string        // of the last fetch; empty: it succeeded
}

// Status returns the state of every issuer, in order of configuration.
func (v *Verifier) Status() []Status {
	all := make([]Status, len(v.rings))
	for i, r := range v.rings {
		all[i] = r.status()
	}
	return all
}

// Ready returns nil if at least one issuer has usable keys. Otherwise it starts
// fetches as a token would, within the same bounds: a sidecar that is not ready
// receives no tokens, and the refresher may have backed off to long intervals.
func (v *Verifier) Ready() error {
	var why []string
	for _, s := range v.Status() {
		if s.Keys > 0 {
			return nil
		}
		why = append(why, s.Issuer+": "+s.Reason())
	}
	for _, r := range v.rings {
		r.refresh()
	}
	return errors.New("no issuer has usable keys: " + strings.Join(why, "; "))
}

// Reason says why the issuer has no usable keys.
func (s Status) Reason() string {
	switch {
	case s.Err != "":
		return s.Err
	case s.Fetched.IsZero():
		return "not fetched yet"
	case s.Refused == 0:
		return "fetched, and the set is empty"
	}
	return "fetched, every key refused: " + strings.Join(s.Why, "; ")
}

func (r *KeyRing) leeway() int64 { return int64(r.cfg.Leeway / time.Second) }

func (r *KeyRing) status() Status {
	s := Status{Issuer: r.cfg.Issuer, MaxAge: r.cfg.MaxKeyAge, Err: r.failure()}
	if st := r.state.Load(); st != nil {
		refused := st.set.Refused()
		s.Keys, s.Refused = st.set.Len(), len(refused)
		for _, k := range refused[:min(len(refused), 3)] {
			s.Why = append(s.Why, fmt.Sprintf("keys[%d] %s", k.Index, k.Reason))
		}
		s.Fetched = r.clock.Now().Add(time.Duration(st.confirmed.Load()) - r.clock.Boot())
	}
	return s
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("jwt_bouncer_jwks_"+name, help, append([]string{"issuer"}, labels...), nil)
}

// Metrics of the keys. Values of the label issuer are configured issuers only.
var (
	descKeys      = desc("keys", "Usable signing keys.")
	descRefused   = desc("refused_keys", "Unusable members of the key set last fetched.")
	descAge       = desc("age_seconds", "Time since the keys were last confirmed by a fetch; absent without keys.")
	descRefreshes = desc("refreshes_total", "Fetches of the key set, by result: ok or failed.", "result")
	descUnknown   = desc("token_fetches_total", "Fetches that tokens with an unknown key requested, by outcome: started, or suppressed by the cooldown.", "outcome")
	descWithdrawn = desc("withdrawals_total", "Fetches after which a key was withdrawn or changed.")
)

// Describe implements prometheus.Collector.
func (v *Verifier) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descKeys, descRefused, descAge, descRefreshes, descUnknown, descWithdrawn} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (v *Verifier) Collect(to chan<- prometheus.Metric) {
	for _, r := range v.rings {
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, kind, value, append([]string{r.cfg.Issuer}, labels...)...)
		}
		s := r.status()
		send(descKeys, prometheus.GaugeValue, float64(s.Keys))
		send(descRefused, prometheus.GaugeValue, float64(r.counts.refused.Load()))
		if st := r.state.Load(); st != nil {
			send(descAge, prometheus.GaugeValue, (r.clock.Boot() - time.Duration(st.confirmed.Load())).Seconds())
		}
		send(descRefreshes, prometheus.CounterValue, float64(r.counts.refreshed.Load()), "ok")
		send(descRefreshes, prometheus.CounterValue, float64(r.counts.failed.Load()), "failed")
		send(descUnknown, prometheus.CounterValue, float64(r.counts.requested.Load()), "started")
		send(descUnknown, prometheus.CounterValue, float64(r.counts.suppressed.Load()), "suppressed")
		send(descWithdrawn, prometheus.CounterValue, float64(r.counts.withdrawn.Load()))
	}
}
