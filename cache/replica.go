package cache

import (
	"hash/maphash"
	"math"
	"sync/atomic"
	"time"

	"jwtbouncer/authz"
)

// Replica is the set of live revocations in memory. Readers never lock and
// never wait; entries are added and, long after they expired, dropped.
//
// An entry is found by a 64-bit hash of its key. The seed of the hash is drawn per
// process, so that nobody outside can construct two keys that collide. Keys that
// collide by chance are merged, which can only deny.
type Replica struct {
	seed    maphash.Seed
	shards  [replicaShards]shard
	entries atomic.Int64
	bytes   atomic.Int64
	next    int // shard that the next Sweep begins with
}

const (
	shardBits     = 8 // a shard is the unit of growth: 1/256 of the table exists twice for a moment
	replicaShards = 1 << shardBits
	dropAfter     = int64(authz.ExpiryGrace / time.Second) // seconds that an entry is retained after its expiry, for leeway and clock differences
)

// NewReplica returns an empty replica.
func NewReplica() *Replica { return &Replica{seed: maphash.MakeSeed()} }

// Add merges e into the replica. It may be called concurrently.
func (r *Replica) Add(e authz.Entry) {
	h := r.hash(&e.Key)
	entries, bytes := r.shards[h>>(64-shardBits)].add(h, packEntry(e))
	if entries != 0 {
		r.entries.Add(entries)
	}
	if bytes != 0 {
		r.bytes.Add(bytes)
	}
}

// Revokes reports whether an entry under one of the keys revokes a token
// issued at iat (Unix seconds, rounded down, 0 when the token has none).
func (r *Replica) Revokes(keys []authz.Key, iat int64) bool {
	for ; len(keys) > lookahead; keys = keys[lookahead:] {
		if r.revokes(keys[:lookahead], iat) {
			return true
		}
	}
	return r.revokes(keys, iat)
}

// lookahead is the number of keys looked up at once. Most tokens have no more.
const lookahead = 8

// revokes answers for at most lookahead keys. It loads the first tags of all keys
// before it looks at any, so that the waits for memory overlap.
func (r *Replica) revokes(keys []authz.Key, iat int64) bool {
	var probes [lookahead]probe
	n := 0
	for i := range keys {
		h := r.hash(&keys[i])
		if t := r.shards[h>>(64-shardBits)].table.Load(); t != nil {
			probes[n] = t.start(h)
			n++
		}
	}
	for i := range probes[:n] {
		if s := probes[i].find(); s != nil && packed(s.value.Load()).revokes(iat) {
			return true
		}
	}
	return false
}

func (r *Replica) hash(k *authz.Key) uint64 { return maphash.Bytes(r.seed, k[:]) }

// Len returns the number of entries.
func (r *Replica) Len() int64 { return r.entries.Load() }

// Bytes returns the memory of the tables.
func (r *Replica) Bytes() int64 { return r.bytes.Load() }

// Sweep drops the entries of the next n shards (at most all) that expired more
// than five minutes before now (Unix seconds), frees the memory they leave
// empty, and returns the number of dropped entries. It does not disturb readers.
// Calls must not overlap.
func (r *Replica) Sweep(now int64, n int) (dropped int64) {
	for range min(n, replicaShards) {
		entries, bytes := r.shards[r.next].sweep(now - dropAfter)
		dropped -= entries
		r.entries.Add(entries)
		r.bytes.Add(bytes)
		r.next = (r.next + 1) % replicaShards
	}
	return dropped
}

// packed is an entry's not_before (upper half) and expiry (lower half), each in
// whole Unix seconds of 32 bits. One word is read and written at once, so that no
// reader ever sees half of a change.
//
// A time that 32 bits cannot hold is rounded to the side that denies: a not_before
// after 2106-02-07 becomes Always, one before 1970 becomes 0 (no token with an
// iat is that old), and an expiry after 2106 becomes never.
type packed uint64

const always32 = math.MaxUint32

func packEntry(e authz.Entry) packed {
	return packed(clamp32(e.NotBefore)<<32 | clamp32(e.Expires))
}

func clamp32(s int64) uint64 { return uint64(min(max(s, 0), always32)) }

// expired reports whether the expiry is before t.
func (p packed) expired(t int64) bool {
	exp := int64(p & always32)
	return exp != always32 && exp < t
}

func (p packed) revokes(iat int64) bool {
	nb := int64(p >> 32)
	return nb == always32 || iat < nb
}

// merge is authz.Entry.Merge on packed entries.
func (p packed) merge(o packed) packed {
	return max(p>>32, o>>32)<<32 | max(p&always32, o&always32)
}
