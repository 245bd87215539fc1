package authz

import (
	"context"
	"fmt"
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

// Receipt is the answer to Revoke.
type Receipt struct {
	Revocations []Revocation
	// EnforcedWithin is the proven bound after Committed; normally it takes
	// milliseconds when Published.
	EnforcedWithin time.Duration
	Committed      time.Time
	Published      bool

	clock     Clock
	committed time.Duration // Clock.Boot after the commit
}

// Wait returns nil when EnforcedWithin has passed since the commit, so that no
// sidecar allows a matching token any more, or an error when ctx ends before. A
// Receipt that Revoke has not made has nothing to wait for.
func (r *Receipt) Wait(ctx context.Context) error {
	if r.clock == nil {
		return nil
	}
	timer := time.NewTimer(r.EnforcedWithin - (r.clock.Boot() - r.committed))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stored and durable, but enforcement was not awaited: %w", ctx.Err())
	}
}

// Revoker is the write path: ledger first (from the commit on it is revoked),
// then the publisher.
type Revoker struct {
	ledger    Ledger
	publisher Publisher // nil: sidecars learn by their own sync
	clock     Clock
}

// NewRevoker returns a Revoker. p may be nil.
func NewRevoker(l Ledger, p Publisher, clock Clock) *Revoker {
	return &Revoker{ledger: l, publisher: p, clock: clock}
}

// Revoke stores the revocations, all or none, and publishes them. An error
// means that success is not known; see Ledger.Append for which.
//
// The receipt's bound is the ledger's and speaks for every sidecar: neither
// this process's own max_staleness nor one read before or after the commit
// says anything about the others.
func (r *Revoker) Revoke(ctx context.Context, revocations []Revocation) (Receipt, error) {
	for i := range revocations {
		if err := revocations[i].Normalize(r.clock.Now()); err != nil {
			return Receipt{}, fmt.Errorf("revocation %d: %w", i+1, err)
		}
	}
	appended, err := r.ledger.Append(ctx, revocations)
	if err != nil {
		return Receipt{}, err
	}
	rec := Receipt{
		Revocations: appended.Revocations, EnforcedWithin: appended.MaxStaleness,
		Committed: r.clock.Now(), committed: r.clock.Boot(), clock: r.clock,
	}
	if r.publisher != nil {
		rec.Published = r.publisher.Publish(ctx, appended.Revocations)
	}
	return rec, nil
}
