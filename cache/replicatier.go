package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jwtbouncer/authz"
)

// ReplicaTier answers from the replica, as long as it is proven fresh.
type ReplicaTier struct{ f *Follower }

var _ authz.Tier = (*ReplicaTier)(nil)

// NewReplicaTier returns the tier of f's replica.
func NewReplicaTier(f *Follower) *ReplicaTier { return &ReplicaTier{f} }

// Name implements authz.Tier.
func (*ReplicaTier) Name() string { return "replica" }

var (
	errStale  = errors.New("replica: not fresh")
	errUnread = errors.New("replica: not loaded yet")
	errLong   = errors.New("replica: the token lives longer than the store's max_token_ttl, its revocation could have expired")
)

// giveUpAfter is the number of failed syncs in a row from which on no check
// waits for the next: an authority that is away must not cost every request
// its patience.
const giveUpAfter = 2

// Lookup implements authz.Tier. A revocation in the replica denies however old
// the replica is. Otherwise it takes proof of freshness; when there is none,
// the check waits for one sync shared by all, up to catch_up_wait.
func (t *ReplicaTier) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	v, err := t.evaluate(q)
	if err == nil || !errors.Is(err, errStale) || t.f.config.CatchUpWait <= 0 {
		return v, err
	}
	return t.catchUp(ctx, q)
}

// evaluate is the proof, and its order is what it rests on. asof is read
// first: every revocation committed by then is in the replica before asof is
// published, hence in what the lookup after it sees. The clock is read last:
// however long the lookup took, or the machine slept in it, the answer is no
// older than it claims.
func (t *ReplicaTier) evaluate(q *authz.Query) (authz.Verdict, error) {
	asof := t.f.asof.Load()
	if t.f.replica.Revokes(q.Keys, q.IssuedAt) {
		return authz.Revoked, nil
	}
	now := int64(t.f.clock.Boot())
	switch {
	case asof == never:
		return authz.Unknown, t.unproven()
	case now-asof > t.f.bound.Load():
		return authz.Unknown, errStale
	case q.Lifetime() > time.Duration(t.f.ttl.Load())*time.Second+authz.LifetimeSlack:
		return authz.Unknown, errLong
	}
	return authz.NotRevoked, nil
}

func (t *ReplicaTier) unproven() error {
	if t.f.loaded.Load() {
		return errStale
	}
	return errUnread
}

func (t *ReplicaTier) catchUp(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, t.f.config.CatchUpWait)
	defer cancel()
	start := time.Now()
	for {
		syncs := t.f.turn.state()
		// What ended between the first evaluation and the line above is seen here.
		v, err := t.evaluate(q)
		switch {
		case !errors.Is(err, errStale):
			t.f.metrics.caughtUp(true, time.Since(start))
			return v, err
		case syncs.failed >= giveUpAfter:
			t.f.metrics.caughtUp(false, time.Since(start))
			return authz.Unknown, fmt.Errorf("%w: %w", errStale, syncs.err)
		}
		t.f.turn.ask()
		if !t.f.await(ctx, syncs.next) {
			t.f.metrics.caughtUp(false, time.Since(start))
			return authz.Unknown, fmt.Errorf("%w after waiting %s", errStale, t.f.config.CatchUpWait)
		}
	}
}
