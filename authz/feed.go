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
	Nonce  string   // the caller's nonce, echoed from inside the query
	Epoch  string   // the authority's identity and history; a limit that changes begins a new one
	Xmax   uint64   // first id not yet assigned
	Open   []uint64 // ids below Xmax that are still running
	Proves bool     // false from a standby or inside a transaction: rows count, freshness does not
	Clock  time.Time
	// MaxStaleness and MaxTokenTTL are the fleet's limits in force; 0: unknown.
	// The expiry of each row was computed from the same MaxTokenTTL.
	MaxStaleness, MaxTokenTTL time.Duration
	// RaisedFrom was MaxTokenTTL until Raised (Unix seconds); 0: it was never
	// raised.
	RaisedFrom time.Duration
	Raised     int64
}

// TokenLimit returns the limit on the tokens for which the snapshot's rows are
// complete.
func (s *Snapshot) TokenLimit() TokenLimit {
	return TokenLimit{Max: s.MaxTokenTTL, RaisedFrom: s.RaisedFrom, Raised: s.Raised}
}

// Feed is the authority's stream of changes for followers.
type Feed interface {
	// Changes calls row for every stored revocation with XID above since.Last
	// or among since.Open, then returns the snapshot in which all of them were
	// read. After an error, rows may already have been delivered: they are true
	// and may be kept, but the position must not advance. The connection is the
	// feed's own; calls are not concurrent.
	//
	// A revocation without its own expiry is delivered with the one that follows
	// from max_token_ttl in the same snapshot. That stays sound when the limit
	// rises, although the row does not change: the rise changes the epoch, so a
	// follower reads every row again, and it learns the new limit only with the
	// snapshot of that reading. Until then it holds tokens to the former limit,
	// by which their revocations have not expired.
	Changes(ctx context.Context, since Position, nonce string, row func(Row)) (Snapshot, error)
}

// Clock tells the time. Tests and the simulator inject their own.
type Clock interface {
	Now() time.Time // wall clock, for comparison with NumericDates only
	// Boot is the time since boot, suspend included (CLOCK_BOOTTIME). Freshness
	// is measured with it: Go's monotonic clock stops while suspended.
	Boot() time.Duration
}
