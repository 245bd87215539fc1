package cache

import (
	"slices"
	"sync"
	"sync/atomic"

	"jwtbouncer/authz"
)

// maxProvisional bounds the provisional revocations: they take at most 4 MB.
const maxProvisional = 1 << 16

// provisional holds the revocations that messages have named and no sync has
// confirmed yet. They are kept apart from the replica, because the sender of a
// message may be anyone with access to Redis: what it names can only deny, and
// only until the next sync that proves freshness. A revocation is committed before
// a message names it, so a sync that begins after the message arrived has it, and
// what that sync does not have is not in the store.
type provisional struct {
	set atomic.Pointer[Replica] // nil: empty

	mu  sync.Mutex
	log []authz.Entry // what set holds, in the order of arrival
}

// add adds the entries for which there is room and reports whether that was all.
func (p *provisional) add(entries []authz.Entry) (all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	room := min(len(entries), maxProvisional-len(p.log))
	if room > 0 {
		p.log = append(p.log, entries[:room]...)
		p.show(p.set.Load(), entries[:room])
	}
	return room == len(entries)
}

// show adds the entries to the set, or to a new one if it is nil.
func (p *provisional) show(set *Replica, entries []authz.Entry) {
	if set == nil {
		set = NewReplica()
	}
	for _, e := range entries {
		set.Add(e)
	}
	p.set.Store(set)
}

// mark returns the number of entries; for confirmed, those added until now.
func (p *provisional) mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.log)
}

// confirmed drops what was added before the mark: the store's revocations among it
// are in the replica by now. Only the newest mark may be passed, and only once.
func (p *provisional) confirmed(mark int) {
	if mark == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = slices.Clone(p.log[mark:])
	if len(p.log) == 0 {
		p.set.Store(nil)
		return
	}
	p.show(nil, p.log)
}

// revokes is Replica.Revokes.
func (p *provisional) revokes(keys []authz.Key, iat int64) bool {
	set := p.set.Load()
	return set != nil && set.Revokes(keys, iat)
}
