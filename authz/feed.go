package authz

import (
	"context"
	"time"
)

// Position is how far a follower has come in the authority's changes: the
// anchored watermark. The zero Position asks for everything.
type Position struct {
	Epoch string   // authority's identity and history; on a change everything is reloaded
	Last  uint64   // L: the highest finished transaction id among the rows received
	Open  []uint64 // X: ids at or below Last still running at the last snapshot
}

// Row is an entry with the transaction that wrote it.
type Row struct {
	Entry
	XID uint64
}

// Snapshot describes the instant at which a Feed was read.
type Snapshot struct {
	Nonce  string   // the caller's nonce, echoed from inside the query
	Epoch  string   // as in Position; a changed limit begins a new one
	Xmax   uint64   // first id not yet assigned
	Open   []uint64 // ids below Xmax that are still running
	Proves bool     // false from a standby or inside a transaction: rows count, freshness does not
	Clock  time.Time
	// MaxStaleness and MaxTokenTTL are the fleet's limits in force; 0: unknown.
	// The expiry of each row was computed from the same MaxTokenTTL.
	MaxStaleness, MaxTokenTTL time.Duration
	RaisedFrom                time.Duration // MaxTokenTTL before it was raised; 0: never raised
	Raised                    int64         // when, in Unix seconds
}

// TokenLimit returns the limit on the tokens for which the snapshot's rows are
// complete.
func (s *Snapshot) TokenLimit() TokenLimit {
	return TokenLimit{Max: s.MaxTokenTTL, RaisedFrom: s.RaisedFrom, Raised: s.Raised}
}

// Feed is the authority's stream of changes for followers.
type Feed interface {
	// Changes calls row for every stored revocation with XID above since.Last or
	// among since.Open, then returns the snapshot in which it read all of them.
	// Rows delivered before an error are true and may be retained, but the
	// position must not advance. The feed has its own connection; calls are not
	// concurrent.
	//
	// A revocation without its own expiry is delivered with the one that follows
	// from max_token_ttl in the same snapshot. A raised limit changes no row but
	// the epoch, so a follower reads every row again and gets the new limit with
	// the snapshot of that reading. Until then it applies the previous limit, by
	// which the revocations have not expired.
	Changes(ctx context.Context, since Position, nonce string, row func(Row)) (Snapshot, error)
}
