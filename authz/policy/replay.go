package policy

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"jwtbouncer/authz"
)

// SharedReplay is the ReplayStore of a sidecar that shares a store with others. It
// also remembers each proof that it has let pass, because the shared store may
// forget: Redis evicts, is flushed, and loses what it has not replicated. A proof
// that the shared store has forgotten passes at most once at each other sidecar.
type SharedReplay struct {
	own    *MemoryReplay
	shared authz.ReplayStore
	alone  bool
}

var _ authz.ReplayStore = (*SharedReplay)(nil)

// NewSharedReplay returns a SharedReplay. If alone is true, own decides while the
// shared store fails, so that a proof may pass once at each sidecar; otherwise
// Seen fails.
func NewSharedReplay(own *MemoryReplay, shared authz.ReplayStore, alone bool) *SharedReplay {
	return &SharedReplay{own: own, shared: shared, alone: alone}
}

// Seen implements ReplayStore. It asks the shared store first, so that a request
// that is denied because of an error does not count as a use here.
func (s *SharedReplay) Seen(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	switch seen, err := s.shared.Seen(ctx, key, ttl); {
	case err != nil && !s.alone:
		return false, err
	case err == nil && seen:
		return true, nil
	}
	return s.own.Seen(ctx, key, ttl)
}

// MemoryReplay is a ReplayStore in the memory of this process. It fails if it is
// full, so that no proof is forgotten early.
type MemoryReplay struct {
	mu      sync.Mutex
	clock   authz.Clock
	limit   int
	records map[[16]byte]struct{}
	oldest  expiries
}

var _ authz.ReplayStore = (*MemoryReplay)(nil)

// NewMemoryReplay returns a store of at most limit records, up to 100 bytes each.
func NewMemoryReplay(limit int, clock authz.Clock) *MemoryReplay {
	return &MemoryReplay{clock: clock, limit: limit, records: make(map[[16]byte]struct{})}
}

// Seen implements ReplayStore.
func (m *MemoryReplay) Seen(_ context.Context, key string, ttl time.Duration) (bool, error) {
	sum := sha256.Sum256([]byte(key))
	id := [16]byte(sum[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Boot()
	for len(m.oldest) > 0 && m.oldest[0].until <= now {
		delete(m.records, heap.Pop(&m.oldest).(expiry).id)
	}
	if _, seen := m.records[id]; seen {
		return true, nil
	}
	if len(m.records) >= m.limit {
		return false, errors.New("replay memory is full")
	}
	m.records[id] = struct{}{}
	heap.Push(&m.oldest, expiry{until: now + ttl, id: id})
	return false, nil
}

type expiry struct {
	until time.Duration // Clock.Boot
	id    [16]byte
}

// expiries is a heap with the next to expire on top.
type expiries []expiry

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].until < e[j].until }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(x any)        { *e = append(*e, x.(expiry)) }
func (e *expiries) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// Unrecorded is a ReplayStore that remembers nothing, so that explaining or
// testing a decision uses up no proof. It must not be used to serve requests.
type Unrecorded struct{}

var _ authz.ReplayStore = Unrecorded{}

// Seen implements ReplayStore.
func (Unrecorded) Seen(context.Context, string, time.Duration) (bool, error) { return false, nil }
