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
	errStale   = errors.New("replica: not fresh")
	errDropped = fmt.Errorf("%w: the wall clock went back, and revocations of tokens that had expired may have been dropped", errStale)
	errUnread  = errors.New("replica: not loaded yet")
	errLong    = errors.New("replica: the token lives longer than the store's max_token_ttl, or than that was when the token was issued: its revocation could have expired")
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
//
// That an expired entry is dropped may be seen by the lookup of a token that is
// good once more, when the wall clock has been stepped back. Whoever drops says
// so first, and takes it back only after asof: what is read between two equal
// readings of asof is what held at the lookup.
func (t *ReplicaTier) evaluate(q *authz.Query) (authz.Verdict, error) {
	for range 2 {
		asof := t.f.asof.Load()
		if t.f.replica.Revokes(q.Keys, q.IssuedAt) {
			return authz.Revoked, nil
		}
		dropped := t.f.dropped.Load()
		if t.f.asof.Load() != asof {
			continue // a sync has ended: its proof serves as well
		}
		now := int64(t.f.clock.Boot())
		switch {
		case asof == never:
			return authz.Unknown, t.unproven()
		case now-asof > t.f.bound.Load():
			return authz.Unknown, errStale
		case !t.f.tokens.Load().Covers(q):
			return authz.Unknown, errLong
		case q.Expires != 0 && q.Expires < dropped-maxLeeway:
			return authz.Unknown, errDropped
		}
		return authz.NotRevoked, nil
	}
	return authz.Unknown, errStale
}

// maxLeeway is how many seconds after its exp a token may still be good
// (issuers[].leeway is at most that), by a clock that is not stepped.
const maxLeeway = int64(authz.MaxLeeway / time.Second)

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
			return authz.Unknown, fmt.Errorf("%w: %w", err, syncs.err)
		}
		t.f.turn.ask()
		if !t.f.await(ctx, syncs.next) {
			t.f.metrics.caughtUp(false, time.Since(start))
			return authz.Unknown, fmt.Errorf("%w after waiting %s", err, t.f.config.CatchUpWait)
		}
	}
}
