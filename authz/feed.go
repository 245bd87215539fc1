package authz

import (
	"context"
	"time"
)

// Position is how far a follower has come in the authority's changes: the
// anchored watermark. The zero Position asks for everything.
type Position struct {
	Epoch string   // authority's identity and history; on a change everything is reloaded
	Last  uint64   // L: the highest transaction id among rows received that was finished
	Open  []uint64 // X: ids at or below Last that were still running at the last snapshot
}

// Row is an entry with the transaction that wrote it.
type Row struct {
	Entry
	XID uint64
}

// Snapshot describes the instant at which a Feed was read, and whether that
// reading can prove freshness.
type Snapshot struct {
	Nonce  string // the caller's nonce, echoed from inside the query
	Epoch  string // (system id, timeline, meta.epoch)
	Xmin   uint64
	Xmax   uint64   // first id not yet assigned
	Open   []uint64 // ids below Xmax still running (xip)
	Proves bool     // false from a standby or inside a transaction: rows count, freshness does not
	Clock  time.Time
	// MaxStaleness and MaxTokenTTL are the fleet-wide limits of the authority; 0: none stored.
	MaxStaleness, MaxTokenTTL time.Duration
	// RaisedFrom was MaxTokenTTL until Raised (Unix seconds); 0: never raised, or not told.
	RaisedFrom time.Duration
	Raised     int64
}

// TokenLimit is how long the authority keeps the revocations that a token may
// live for.
func (s *Snapshot) TokenLimit() TokenLimit {
	return TokenLimit{Max: s.MaxTokenTTL, RaisedFrom: s.RaisedFrom, Raised: s.Raised}
}

// Feed is the authority's stream of changes for followers.
type Feed interface {
	// Changes calls row for every stored revocation with XID above since.Last
	// or among since.Open, then returns the snapshot all of them were read in.
	// On an error rows may already have been delivered: they are true and may
	// be kept, but the position must not advance. The connection is the
	// feed's own; calls are not concurrent.
	Changes(ctx context.Context, since Position, nonce string, row func(Row)) (Snapshot, error)
}

// MaxClockLag is how far a wall clock may be behind the authority's for its
// owner to prove anything. The authority deletes revocations an hour after they
// expired; those whose clocks are right may have deleted what still matters to
// a slower one.
const MaxClockLag = 30 * time.Minute

// Clock tells the time. Tests and the simulator inject their own.
type Clock interface {
	Now() time.Time // wall clock, for comparison with NumericDates only
	// Boot is the time since boot, suspend included (CLOCK_BOOTTIME). Freshness
	// is measured with it: Go's monotonic clock stops while suspended.
	Boot() time.Duration
}
