package receiver

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// quota limits how many tokens a client may have revoked although no issuer's
// signature vouches for them. Anyone can make up any number of such tokens, and
// each becomes a row of the ledger and of every replica. Each client has a token
// bucket: it holds a minute's allowance and fills evenly.
type quota struct {
	perMinute float64
	clock     authz.Clock
	outcomes  *prometheus.CounterVec

	mu      sync.Mutex
	buckets map[string]*bucket // by actor: clients and names of API tokens, so their number is bounded
}

type bucket struct {
	left float64
	at   time.Duration // Clock.Boot when left was computed
}

func newQuota(perMinute int, clock authz.Clock) *quota {
	q := &quota{perMinute: float64(perMinute), clock: clock, buckets: map[string]*bucket{}, outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_unverified_revocations_total", Help: "Tokens at /oauth2/revoke that no verified signature vouches for, by outcome (admitted, over_quota).",
	}, []string{"outcome"})}
	for _, outcome := range []string{"admitted", "over_quota"} {
		q.outcomes.WithLabelValues(outcome) // rate and increase miss the first event of a series that begins with it
	}
	return q
}

// take uses up one token of the actor's allowance, unless the revoked token is
// verified. If none is left, it returns how long the actor should wait.
func (q *quota) take(actor string, verified bool) (wait time.Duration) {
	if verified {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Boot()
	b := q.buckets[actor]
	if b == nil {
		b = &bucket{left: q.perMinute, at: now}
		q.buckets[actor] = b
	}
	b.left = min(q.perMinute, b.left+(now-b.at).Minutes()*q.perMinute)
	b.at = now
	if b.left < 1 {
		q.outcomes.WithLabelValues("over_quota").Inc()
		return time.Duration((1 - b.left) / q.perMinute * float64(time.Minute))
	}
	b.left--
	q.outcomes.WithLabelValues("admitted").Inc()
	return 0
}
