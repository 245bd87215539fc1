package authz

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Publisher tells other sidecars about committed revocations. It makes
// enforcement fast and is never part of the proof.
type Publisher interface {
	// Publish reports whether all revocations were published before it returned.
	// Those that were not are retried in the background within the publisher's
	// own bounds. It must not keep revocations after it returns.
	Publish(ctx context.Context, revocations []Revocation) (published bool)
}

// Wait says when Revoke returns.
type Wait uint8

// WaitCommitted returns after the commit; WaitEnforced when max_staleness has
// passed since, so that no sidecar can allow the token any more.
const (
	WaitCommitted Wait = iota
	WaitEnforced
)

// Receipt is the answer to Revoke.
type Receipt struct {
	Revocations []Revocation
	// EnforcedWithin is the proven bound after Committed; normally it takes
	// milliseconds when Published.
	EnforcedWithin time.Duration
	Committed      time.Time
	Published      bool
}

// Fleet is a Ledger that keeps the fleet's max_staleness: no sidecar takes
// longer, and so many as are configured for less take less.
type Fleet interface {
	FleetStaleness(ctx context.Context) (time.Duration, error)
}

// Revoker is the write path: ledger first (from the commit on it is revoked),
// then the publisher.
type Revoker struct {
	ledger    Ledger
	publisher Publisher // nil: sidecars learn by their own sync
	bound     time.Duration
	told      atomic.Int64 // the fleet's max_staleness when the ledger was asked last
	clock     Clock
}

// NewRevoker returns a Revoker. Its receipts promise the fleet's max_staleness
// where the ledger is a Fleet, else bound.
func NewRevoker(l Ledger, p Publisher, bound time.Duration, clock Clock) *Revoker {
	return &Revoker{ledger: l, publisher: p, bound: bound, clock: clock}
}

// Revoke stores the revocations, all or none, and publishes them. An error
// means that success is not known; see Ledger.Append for which.
func (r *Revoker) Revoke(ctx context.Context, revocations []Revocation, wait Wait) (Receipt, error) {
	for i := range revocations {
		if err := revocations[i].Normalize(r.clock.Now()); err != nil {
			return Receipt{}, fmt.Errorf("revocation %d: %w", i+1, err)
		}
	}
	before := r.askBefore(ctx)
	stored, err := r.ledger.Append(ctx, revocations)
	if err != nil {
		return Receipt{}, err
	}
	committed := r.clock.Boot()
	rec := Receipt{Revocations: stored, Committed: r.clock.Now()}
	if r.publisher != nil {
		rec.Published = r.publisher.Publish(ctx, stored)
	}
	rec.EnforcedWithin = r.promise(ctx, before)
	if wait != WaitEnforced {
		return rec, nil
	}
	timer := time.NewTimer(rec.EnforcedWithin - (r.clock.Boot() - committed))
	defer timer.Stop()
	select {
	case <-timer.C:
		return rec, nil
	case <-ctx.Done():
		return rec, fmt.Errorf("stored and durable, but not waited for enforcement: %w", ctx.Err())
	}
}

// askBefore asks for the fleet's max_staleness while nothing is stored yet:
// after the commit it may be too late, and another sidecar may have raised it
// since it was asked last. Once it has been told, it does not hold an order up
// for long. 0: no answer.
func (r *Revoker) askBefore(ctx context.Context) time.Duration {
	if r.told.Load() != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	d, err := r.ask(ctx)
	if err != nil {
		return 0
	}
	return d
}

// ask returns the fleet's max_staleness, or the caller's own where the ledger
// knows of no fleet.
func (r *Revoker) ask(ctx context.Context) (time.Duration, error) {
	fleet, ok := r.ledger.(Fleet)
	if !ok {
		return r.bound, nil
	}
	d, err := fleet.FleetStaleness(ctx)
	if err == nil {
		r.told.Store(int64(d))
	}
	return d, err
}

// promise is the time after which no sidecar can allow what was committed. The
// caller's own max_staleness says nothing about the others'. before is what
// was told before the commit.
func (r *Revoker) promise(ctx context.Context, before time.Duration) time.Duration {
	d, err := r.ask(ctx)
	if err != nil { // it is committed all the same; promise no less than ever
		return max(r.bound, before, time.Duration(r.told.Load()))
	}
	return max(d, before)
}
