package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"jwtbouncer/authz"
)

// simPack is a packed snapshot as it lies in the store: an image with its
// watermark. A copy of the store has the packs that were in the original.
type simPack struct {
	life     int
	position authz.Position
	chunks   [][]byte
	sums     []authz.PackSum
	entries  int
	rows     int // committed rows when it was packed: a failover that loses one of them loses the pack
}

// packs is the background work that packs.
func (s *simulation) packs() {
	for !s.over() {
		s.sleep(s.upTo(simLength / 4))
		p := s.postgres
		if s.now < p.down {
			continue
		}
		pack := simPack{life: p.life, rows: len(p.rows), entries: len(p.rows), chunks: make([][]byte, 2)}
		for _, r := range p.rows {
			pack.position.Last = max(pack.position.Last, r.XID)
			i := int(r.Key[0]) % len(pack.chunks)
			pack.chunks[i] = append(pack.chunks[i], authz.PackChunk([]authz.Entry{r.Entry})...)
		}
		for _, c := range pack.chunks {
			pack.sums = append(pack.sums, authz.SumChunk(c))
		}
		pack.position.Open = slices.DeleteFunc(slices.Clone(p.running), func(x uint64) bool { return x > pack.position.Last })
		birth := p.births
		s.sleep(s.upTo(time.Second)) // until it commits
		if p.births == birth {
			p.packs = append(p.packs, pack)
			s.logf("packed %d rows up to %d, open %v", pack.entries, pack.position.Last, pack.position.Open)
		}
	}
}

// move restores the store from a dump on another server: the rows get new ids
// there, which count from a lower number, and the packs come along.
func (p *simPostgres) move() {
	p.crash(false)
	p.life++
	p.nextXID = 100 + p.w.rng.Uint64N(p.nextXID-90)
	for i := range p.rows {
		p.rows[i].XID = p.nextXID
	}
	p.nextXID++
	p.w.logf("moved to another server, next id %d", p.nextXID)
}

// restart starts the sidecar anew, with nothing in memory.
func (s *simulation) restart(n *simNode) {
	if n.follower == nil {
		return
	}
	s.logf("%s restarts", n.name)
	s.startFollower(n)
}

// startFollower gives the node an empty replica, and a chain over it.
func (s *simulation) startFollower(n *simNode) {
	w := s.simWorld
	cfg := DefaultRevocationConfig()
	cfg.MaxStaleness, cfg.SyncInterval, cfg.SyncTimeout = simStaleness, simInterval, simTimeout
	feed := simRuledFeed{&simFeed{p: s.postgres, node: n}, n.variant.feed, new(authz.Position)}
	n.follower = NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: n.clock})
	n.follower.replica = simSet{n.follower.replica, w}
	if n.variant.message == messageReplaces {
		n.follower.replica = simReplacing{n.follower.replica, map[authz.Key]authz.Entry{}}
	}
	if n.variant.feed == liftingRow {
		n.follower.replica = simLifting{n.follower.replica, map[authz.Key]bool{}}
	}
	n.follower.jitter = w.rng.Float64
	n.follower.await = n.await
	n.chain = authz.NewChain(nil, simRuledTier{NewReplicaTier(n.follower), n.variant.tier, w}, n.redis, simPoint{s.postgres, n})
}

// Pack implements authz.PackedFeed.
func (f simRuledFeed) Pack(_ context.Context, nonce string) (*authz.Pack, error) {
	feed := f.Feed.(*simFeed)
	p, w := feed.p, feed.p.w
	switch f.rule {
	case 0, replacingPack, mixedPacks, ignorePackEpoch:
	default:
		return nil, nil // what is wrong with the other schemes shows without
	}
	w.travel()
	if w.now < p.down || w.now < feed.node.cut || w.chance(2) {
		return nil, errSimAway
	}
	packs, standby := p.packs, w.now < feed.node.onStandby
	if standby {
		packs = p.standbyPacks
	}
	for _, k := range slices.Backward(packs) {
		if k.life != p.life && f.rule != ignorePackEpoch {
			continue
		}
		pack := &authz.Pack{Nonce: nonce, Primary: !standby, Position: k.position, Entries: k.entries, Sums: slices.Clone(k.sums)}
		pack.Position.Epoch = p.epoch()
		if f.rule == mixedPacks { // whatever comes as a chunk of that number is taken for it
			for i := range pack.Sums {
				other := packs[w.rng.IntN(len(packs))]
				pack.Entries += (len(other.chunks[i]) - len(k.chunks[i])) / 32
				pack.Sums[i] = other.sums[i]
			}
		}
		w.travel()
		return pack, nil
	}
	return nil, nil
}

// Chunks implements authz.PackedFeed. Some are missing, torn, or another pack's.
func (f simRuledFeed) Chunks(_ context.Context, pack *authz.Pack, chunk func(authz.PackSum, []byte) error) error {
	feed := f.Feed.(*simFeed)
	p, n, w := feed.p, feed.node, feed.p.w
	if f.rule == replacingPack {
		n.follower.replica = simSet{NewReplica(), w}
	}
	all := slices.Concat(p.packs, p.standbyPacks)
	for i, sum := range pack.Sums {
		w.travel()
		if w.now < n.cut || w.chance(1) {
			return errSimAway
		}
		j := slices.IndexFunc(all, func(k simPack) bool { return k.sums[i] == sum })
		if j < 0 || w.chance(3) {
			continue // it has been packed anew meanwhile, or the standby does not have it yet
		}
		data := all[j].chunks[i]
		switch {
		case w.chance(3):
			data = data[:len(data)/64*32]
		case w.chance(3):
			data = all[w.rng.IntN(len(all))].chunks[i]
		}
		if err := chunk(sum, data); err != nil {
			return err
		}
	}
	return nil
}

func (p *simPostgres) epoch() string { return fmt.Sprintf("t%d/%d", p.timeline, p.life) }

var _ authz.PackedFeed = simRuledFeed{}
