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
	// It retries the others in the background within its own bounds. It must not
	// retain the slice.
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

// Wait returns nil when EnforcedWithin has passed since the commit: no sidecar
// allows a matching token any more. It returns an error when ctx ends earlier.
// The zero Receipt has nothing to wait for.
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

// Revoker is the write path: first the ledger, whose commit revokes, then the
// publisher.
type Revoker struct {
	ledger    Ledger
	publisher Publisher // nil: sidecars learn by their own sync
	clock     Clock
}

// NewRevoker returns a Revoker. p may be nil.
func NewRevoker(l Ledger, p Publisher, clock Clock) *Revoker {
	return &Revoker{ledger: l, publisher: p, clock: clock}
}

// Revoke stores the revocations, all or none, and publishes them. Errors are
// those of Ledger.Append.
//
// The receipt's bound is the one that the ledger read in the transaction that
// committed, because only that one holds for every sidecar.
func (r *Revoker) Revoke(ctx context.Context, revocations []Revocation) (Receipt, error) {
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
