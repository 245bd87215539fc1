package authz

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
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

// Pack is a packed snapshot: every revocation in the authority's table at one
// snapshot, in chunks, and the watermark from which a follower goes on.
type Pack struct {
	Nonce    string   // the caller's nonce, echoed from inside the query
	Primary  bool     // false: a standby described it, whose history may be another one
	Position Position // to follow from once all chunks have been added
	Entries  int      // in all chunks
	Sums     []PackSum
}

// PackSum is the SHA-256 of a chunk. Whoever serves the chunk, the pack's
// description tells whether it is the right one.
type PackSum [32]byte

// packedEntry is the length of an entry in a chunk in bytes: key, not_before,
// expires.
const packedEntry = 32

// UnpackChunk calls add for each entry of the chunk that sum names, and returns
// their number. It returns an error and adds nothing if data is another chunk.
func UnpackChunk(sum PackSum, data []byte, add func(Entry)) (int, error) {
	if SumChunk(data) != sum || len(data)%packedEntry != 0 {
		return 0, errors.New("the chunk of a packed snapshot is not the one that its description names")
	}
	for b := data; len(b) > 0; b = b[packedEntry:] {
		add(Entry{Key: Key(b), NotBefore: int64(binary.BigEndian.Uint64(b[16:])), Expires: int64(binary.BigEndian.Uint64(b[24:]))})
	}
	return len(data) / packedEntry, nil
}

// SumChunk returns the sum under which a pack names the chunk.
func SumChunk(data []byte) PackSum { return sha256.Sum256(data) }

// PackChunk returns entries as a chunk, for feeds that are not a database.
func PackChunk(entries []Entry) []byte {
	var b []byte
	for _, e := range entries {
		b = append(b, e.Key[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(e.NotBefore))
		b = binary.BigEndian.AppendUint64(b, uint64(e.Expires))
	}
	return b
}

// PackedFeed is a feed that may offer a packed snapshot for a full load.
type PackedFeed interface {
	Feed
	// Pack describes the newest pack of the authority's life; nil: there is none.
	Pack(ctx context.Context, nonce string) (*Pack, error)
	// Chunks calls chunk with data that claims to be one of p's chunks, in any
	// order, perhaps more than once, until chunk returns an error or none is left.
	// A chunk that cannot be had is left out. The data is valid during the call.
	Chunks(ctx context.Context, p *Pack, chunk func(PackSum, []byte) error) error
}

// ErrTurn is the error of a full load that has to wait for its turn, because as
// many others are loading as the authority admits at once.
var ErrTurn = fmt.Errorf("%w: other sidecars are loading, this one waits for its turn", ErrUnavailable)
