package httpapi

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxRecent bounds the memory for messages seen, about 6 MiB.
const maxRecent = 1 << 16

// recent remembers the messages that were carried out. It is this process's
// own memory: a message replayed elsewhere is carried out again, which changes
// nothing, because what it revokes depends on the message alone.
type recent struct {
	ttl time.Duration

	mu    sync.Mutex
	seen  map[[sha256.Size]byte]struct{}
	order []seenAt // oldest first
}

type seenAt struct {
	id [sha256.Size]byte
	at time.Time
}

func newRecent(ttl time.Duration) *recent {
	return &recent{ttl: ttl, seen: map[[sha256.Size]byte]struct{}{}}
}

func messageID(issuer, jti string) [sha256.Size]byte {
	return sha256.Sum256([]byte(issuer + "\x00" + jti)) // no issuer holds NUL
}

// has reports whether the message was carried out within ttl.
func (r *recent) has(id [sha256.Size]byte, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	drop := 0
	for drop < len(r.order) && now.Sub(r.order[drop].at) > r.ttl {
		delete(r.seen, r.order[drop].id)
		drop++
	}
	r.order = r.order[drop:]
	_, ok := r.seen[id]
	return ok
}

// add remembers a message. It is called after success only, so that a sender
// who was told to repeat can.
func (r *recent) add(id [sha256.Size]byte, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.seen[id]; ok {
		return
	}
	if len(r.order) >= maxRecent {
		delete(r.seen, r.order[0].id)
		r.order = r.order[1:]
	}
	r.seen[id] = struct{}{}
	r.order = append(r.order, seenAt{id, now})
}
