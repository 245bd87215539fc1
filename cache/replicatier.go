package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jwtbouncer/authz"
)

// ReplicaTier answers from the replica while it is proven fresh.
type ReplicaTier struct{ f *Follower }

var _ authz.Tier = (*ReplicaTier)(nil)

// NewReplicaTier returns the tier over f's replica.
func NewReplicaTier(f *Follower) *ReplicaTier { return &ReplicaTier{f} }

// Name implements authz.Tier.
func (*ReplicaTier) Name() string { return "replica" }

var (
	errStale     = errors.New("replica: not fresh")
	errDropped   = fmt.Errorf("%w: the wall clock went back, and revocations of expired tokens may have been dropped", errStale)
	errNotLoaded = errors.New("replica: not loaded yet")
	errLifetime  = errors.New("replica: the token lives longer than the store's max_token_ttl, now or when it was issued: its revocation could have expired")
)

// giveUpAfter is the number of failed syncs in a row after which checks no longer
// wait for the next one: a store that is away must not delay every request.
const giveUpAfter = 2

// Lookup implements authz.Tier. A revocation in the replica denies, however old
// the replica is. Otherwise the answer needs proof of freshness. Without proof
// the check waits up to catch_up_wait for one sync that all checks share.
func (t *ReplicaTier) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	v, err := t.evaluate(q)
	if err == nil || !errors.Is(err, errStale) || t.f.config.CatchUpWait <= 0 {
		return v, err
	}
	return t.catchUp(ctx, q)
}

// LookupNow implements authz.Tier.
func (t *ReplicaTier) LookupNow(q *authz.Query) (authz.Verdict, bool) {
	v, err := t.evaluate(q)
	return v, err == nil
}

// evaluate is the proof, which rests on the order of its steps. asof is read
// first: every revocation committed by then is in the replica before asof is
// published, so the lookup after it sees them all. The clock is read last:
// however long the lookup took, or the machine slept during it, the answer is no
// older than it claims. The limits are read before the lookup as well: the
// follower raises them only after it has added the rows that were committed under
// the lower ones.
//
// When the wall clock is stepped back, an expired token becomes valid again, and
// its entry may have been dropped. The follower raises dropped before it drops,
// and lowers it only after it has reset asof. A value of dropped that was read
// between two equal readings of asof therefore held during the lookup.
func (t *ReplicaTier) evaluate(q *authz.Query) (authz.Verdict, error) {
	for range 2 {
		asof := t.f.asof.Load()
		maxStaleness, tokens := t.f.maxStaleness.Load(), t.f.tokens.Load()
		// Before the replica: what leaves the provisional revocations is there already.
		if t.f.provisional.revokes(q.Keys, q.IssuedAt) || t.f.replica.Revokes(q.Keys, q.IssuedAt) {
			return authz.Revoked, nil
		}
		dropped := t.f.dropped.Load()
		if t.f.asof.Load() != asof {
			continue // a sync has ended, and its proof is as good
		}
		now := int64(t.f.clock.Boot())
		switch {
		case asof == never && !t.f.loaded.Load():
			return authz.Unknown, errNotLoaded
		case asof == never, now-asof > maxStaleness:
			return authz.Unknown, errStale
		case !tokens.Covers(q):
			return authz.Unknown, errLifetime
		case q.Expires != 0 && q.Expires < dropped-maxLeeway:
			return authz.Unknown, errDropped
		}
		return authz.NotRevoked, nil
	}
	return authz.Unknown, errStale
}

// maxLeeway is the number of seconds after its exp for which a token may still be
// valid, by a clock that is not stepped; issuers[].leeway is at most that.
const maxLeeway = int64(authz.MaxLeeway / time.Second)

func (t *ReplicaTier) catchUp(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, t.f.config.CatchUpWait)
	defer cancel()
	start, outcome := time.Now(), "unproven"
	defer func() { t.f.metrics.catchups.WithLabelValues(outcome).Observe(time.Since(start).Seconds()) }()
	for {
		syncs := t.f.syncs.snapshot()
		// This sees a sync that ended between the first evaluation and the line above.
		v, err := t.evaluate(q)
		switch {
		case !errors.Is(err, errStale):
			outcome = "proven"
			return v, err
		case syncs.failed >= giveUpAfter:
			return authz.Unknown, fmt.Errorf("%w: %w", err, syncs.err)
		}
		t.f.syncs.request()
		if !t.f.await(ctx, syncs.next) {
			return authz.Unknown, fmt.Errorf("%w after waiting for %s", err, t.f.config.CatchUpWait)
		}
	}
}
