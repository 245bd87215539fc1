package sharedsignals

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxSeen bounds the memory for processed messages, about 6 MiB.
const maxSeen = 1 << 16

// Seen remembers the messages that this process has processed. Another process
// may process a replayed message again, which changes nothing: the revocations
// depend on the message alone.
type Seen struct {
	ttl time.Duration

	mu    sync.Mutex
	ids   map[[sha256.Size]byte]struct{}
	queue []seenAt // oldest first
}

type seenAt struct {
	id [sha256.Size]byte
	at time.Time
}

// NewSeen returns a memory that forgets a message after ttl.
func NewSeen(ttl time.Duration) *Seen {
	return &Seen{ttl: ttl, ids: map[[sha256.Size]byte]struct{}{}}
}

// MessageID identifies a message by its issuer and the id that the issuer gave it.
func MessageID(issuer, jti string) [sha256.Size]byte {
	return sha256.Sum256([]byte(issuer + "\x00" + jti)) // issuers contain no NUL
}

// Has reports whether the message was processed within ttl.
func (s *Seen) Has(id [sha256.Size]byte, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := 0
	for drop < len(s.queue) && now.Sub(s.queue[drop].at) > s.ttl {
		delete(s.ids, s.queue[drop].id)
		drop++
	}
	s.queue = s.queue[drop:]
	_, ok := s.ids[id]
	return ok
}

// Add remembers a message. It is called after success only, so that a sender
// that was told to retry can.
func (s *Seen) Add(id [sha256.Size]byte, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.ids[id]; ok {
		return
	}
	if len(s.queue) >= maxSeen {
		delete(s.ids, s.queue[0].id)
		s.queue = s.queue[1:]
	}
	s.ids[id] = struct{}{}
	s.queue = append(s.queue, seenAt{id, now})
}
