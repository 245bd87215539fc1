package cache

import (
	"slices"
	"time"

	"jwtbouncer/authz"
)

// simMessage is a message on the channel of published revocations.
type simMessage struct {
	text string
	// What the product's messages do not carry and wrong schemes rely on.
	sent time.Duration
	last uint64 // the store's highest transaction id
}

// publish sends a message to all subscribers. It may be lost, late, doubled, cut or
// changed, and an older one, perhaps of a store before its failover, may follow it.
func (s *simRedis) publish(text string) {
	s.sent = append(s.sent, simMessage{text, s.w.now, s.store.nextXID - 1})
	for _, n := range s.subscribers {
		deliver := func(m simMessage) {
			at := s.w.now + s.w.upTo(20*time.Millisecond)
			if s.w.chance(10) {
				at = s.w.now + s.w.upTo(2*simStaleness)
			}
			s.w.spawn(n.name+"/message", n, at, func() { n.hear(m) })
		}
		m := s.sent[len(s.sent)-1]
		switch r := s.w.rng.IntN(100); {
		case r < 15: // lost
		case r < 20:
			m.text = m.text[:s.w.rng.IntN(len(m.text))]
			deliver(m)
		case r < 25:
			m.text = string(byte(s.w.rng.IntN(256))) + m.text[1:]
			deliver(m)
		default:
			deliver(m)
			if s.w.chance(10) {
				deliver(m)
			}
		}
		if s.w.chance(10) {
			deliver(s.sent[s.w.rng.IntN(len(s.sent))])
		}
	}
}

// beat sends the heartbeat of a wrong scheme, a message without entries.
func (s *simRedis) beat() {
	for !s.w.over() {
		if s.w.now >= s.store.down {
			s.publish("\x01\x00\x00\x00")
		}
		s.w.sleep(simInterval)
	}
}

// hear does what Subscribe and Run do about a message, or what a wrong scheme does.
func (n *simNode) hear(m simMessage) {
	f := n.follower
	entries, complete := n.redis.Decode(m.text)
	n.w.logf("message with %d entries, complete %v", len(entries), complete)
	switch n.variant.message {
	case messageReplaces:
		f.replica.(simReplacing).replace(entries)
		return
	case messageProves:
		f.asof.Store(max(f.asof.Load(), int64(n.clock.Boot())))
	case messagePosition:
		if f.loaded.Load() && len(f.position.Open) == 0 && m.last <= f.position.Last {
			f.asof.Store(max(f.asof.Load(), int64(n.clock.base+m.sent)))
		}
	}
	f.Learn(entries, complete)
	select {
	case <-f.syncs.soon:
		n.w.hurry(n.syncer, f.spread())
	default:
	}
}

// simReplacing is the set of a scheme in which a message replaces what is known
// about its keys.
type simReplacing struct {
	revocationSet
	replaced map[authz.Key]authz.Entry
}

func (r simReplacing) replace(entries []authz.Entry) {
	for _, e := range entries {
		r.replaced[e.Key] = e
	}
}

func (r simReplacing) Add(e authz.Entry) {
	if old, ok := r.replaced[e.Key]; ok {
		r.replaced[e.Key] = e.Merge(old)
	}
	r.revocationSet.Add(e)
}

func (r simReplacing) Revokes(keys []authz.Key, iat int64) bool {
	if slices.ContainsFunc(keys, func(k authz.Key) bool { e, ok := r.replaced[k]; return ok && e.Revokes(iat) }) {
		return true
	}
	others := slices.DeleteFunc(slices.Clone(keys), func(k authz.Key) bool { _, ok := r.replaced[k]; return ok })
	return r.revocationSet.Revokes(others, iat)
}
