package introspect

import (
	"net/netip"
	"sync"

	"jwtbouncer/authz"
)

// questions are the requests under way, at most one for each token. Tokens that
// nobody has seen to be good have slots of their own, so that a flood of invented
// ones does not keep good ones waiting; and no address can take all of those.
type questions struct {
	limit int // slots of each kind

	mu       sync.Mutex
	asked    map[cacheKey]*question
	known    int                // slots taken for tokens known to be good
	unknown  int                // slots taken for other tokens
	byClient map[netip.Addr]int // of unknown, by the client's address
}

// question is one request under way.
type question struct {
	done   chan struct{} // closed when it has ended
	answer *answer       // nil: failed
	fail   *authz.Failure
}

// slot is what a question holds while it is under way.
type slot struct {
	kind   slotKind
	client netip.Addr // of slotUnknown
}

type slotKind uint8

const (
	slotUnknown slotKind = iota // a token that may be invented
	slotKnown                   // a token that was active, or whose signature was verified
	slotRenewal                 // the answer about a slotKnown token is about to end; no request waits
)

// join returns the question about a token that is under way. If there is none and
// a slot is free, it makes one, which the caller must ask (fresh). It returns nil
// if no slot is free.
func (s *questions) join(key cacheKey, want slot) (q *question, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q = s.asked[key]; q != nil {
		return q, false
	}
	if !s.take(want) {
		return nil, false
	}
	q = &question{done: make(chan struct{})}
	s.asked[key] = q
	return q, true
}

func (s *questions) take(want slot) bool {
	switch want.kind {
	case slotKnown, slotRenewal:
		// Requests that wait come before renewals, which have time.
		if s.known == s.limit || want.kind == slotRenewal && 2*s.known >= s.limit {
			return false
		}
		s.known++
	default:
		// An address may hold as many slots as it leaves free. One flooding address
		// gets half of them, two get a third each. What has no address has no bound.
		free := s.limit - s.unknown
		if free == 0 || want.client.IsValid() && s.byClient[want.client] > free {
			return false
		}
		s.unknown++
		s.byClient[want.client]++
	}
	return true
}

// end gives back the slot of q and wakes its waiters.
func (s *questions) end(key cacheKey, q *question, held slot) {
	s.mu.Lock()
	delete(s.asked, key)
	if held.kind != slotUnknown {
		s.known--
	} else {
		s.unknown--
		if s.byClient[held.client]--; s.byClient[held.client] == 0 {
			delete(s.byClient, held.client)
		}
	}
	s.mu.Unlock()
	close(q.done)
}

// clientOf reduces an address to what one client has: of IPv6, a /64 network.
func clientOf(address string) netip.Addr {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Addr{}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64) // an error is for longer prefixes than the address
		return p.Addr()
	}
	return a
}
