package cache

import (
	"context"
	"errors"
	"slices"
	"time"

	"jwtbouncer/authz"
)

// simPostgres is the store as far as concurrency goes. Transactions get their ids
// at the first write and become visible at commit, in any order. A snapshot is
// (xmin, xmax, xip). A crash ends running transactions and may set the counter of
// ids back to just above the highest id that survived.
type simPostgres struct {
	w            *simWorld
	nextXID      uint64
	nextID       uint64 // identity column, drawn at insert rather than in order of commit
	running      []uint64
	rows         []simRow // committed
	timeline     int
	down         time.Duration // no answers until then
	births       int           // number of crashes and failovers; no transaction survives one
	standby      []simRow      // rows of a lagging standby
	life         int           // identity of the server, and meta.epoch
	packs        []simPack
	standbyPacks []simPack       // of the lagging standby
	revocations  []simRevocation // every revocation ever begun
}

type simRow struct {
	authz.Row
	id    uint64
	order int // index in revocations
}

// simRevocation is a revocation and the time of its commit.
type simRevocation struct {
	entry     authz.Entry
	committed time.Duration // simNever: not committed
}

const simNever = time.Duration(1 << 62)

var errSimAway = errors.New("sim: no connection")

func newSimPostgres(w *simWorld) *simPostgres { return &simPostgres{w: w, nextXID: 100, timeline: 1} }

// transact writes entries in one transaction, which commits or rolls back after
// takes. It reports whether it committed.
func (p *simPostgres) transact(entries []authz.Entry, takes time.Duration, rollback bool) (committed bool) {
	if p.w.now < p.down {
		return false
	}
	birth, xid := p.births, p.nextXID
	p.nextXID++
	p.running = append(p.running, xid)
	rows := make([]simRow, len(entries))
	for i, e := range entries {
		p.nextID++
		rows[i] = simRow{authz.Row{Entry: e, XID: xid}, p.nextID, len(p.revocations)}
		p.revocations = append(p.revocations, simRevocation{e, simNever})
	}
	p.w.logf("begin %d", xid)
	p.w.sleep(takes)
	if p.births != birth {
		return false
	}
	p.running = slices.DeleteFunc(p.running, func(x uint64) bool { return x == xid })
	if rollback {
		p.w.logf("roll back %d", xid)
		return false
	}
	p.rows = append(p.rows, rows...)
	for _, r := range rows {
		p.revocations[r.order].committed = p.w.now
	}
	p.w.logf("commit %d", xid)
	return true
}

// lift takes back a committed revocation by a row of its own, as one might think of:
// an entry that revokes nothing.
func (p *simPostgres) lift() {
	if len(p.rows) == 0 {
		return
	}
	target := p.rows[p.w.rng.IntN(len(p.rows))]
	if !p.transact([]authz.Entry{{Key: target.Key, Expires: target.Expires}}, p.w.upTo(simStaleness/4), false) {
		return
	}
	p.rows = slices.DeleteFunc(p.rows, func(r simRow) bool { return r.order == target.order })
	p.revocations[target.order].committed = simNever
	p.w.logf("lifted %x", target.Key[:4])
}

// simLifting is the set of a scheme in which such a row removes its key.
type simLifting struct {
	revocationSet
	lifted map[authz.Key]bool
}

func (l simLifting) Add(e authz.Entry) {
	l.lifted[e.Key] = e.NotBefore == 0
	l.revocationSet.Add(e)
}

func (l simLifting) Revokes(keys []authz.Key, iat int64) bool {
	return l.revocationSet.Revokes(slices.DeleteFunc(slices.Clone(keys), func(k authz.Key) bool { return l.lifted[k] }), iat)
}

// crash loses no committed row. The counter of ids falls back to any value above
// the highest committed one. A failover may go to a replica that lacks the last
// commits. The guarantee does not cover those, but it covers later revocations
// under ids that have been used before.
func (p *simPostgres) crash(failover bool) {
	p.births++
	p.running = nil
	if failover && p.w.chance(60) {
		kept := len(p.rows) - p.w.rng.IntN(min(3, len(p.rows)+1))
		for _, r := range p.rows[kept:] {
			p.revocations[r.order].committed = simNever
		}
		p.rows = slices.Clone(p.rows[:kept])
		p.packs = slices.DeleteFunc(p.packs, func(k simPack) bool { return k.rows > kept })
	}
	least := uint64(100)
	for _, r := range p.rows {
		least = max(least, r.XID+1)
	}
	if p.nextXID > least {
		p.nextXID = least + p.w.rng.Uint64N(p.nextXID-least+1)
	}
	p.down = p.w.now + p.w.upTo(2*time.Second)
	if failover {
		p.timeline++
		if p.w.chance(20) { // the new primary counts from another number
			p.nextXID += p.w.rng.Uint64N(1000)
		}
	}
	p.w.logf("crash, failover %v, next id %d", failover, p.nextXID)
}

// Append implements authz.Ledger for the product's Revoker.
func (p *simPostgres) Append(_ context.Context, revocations []authz.Revocation) (authz.Appended, error) {
	p.w.travel()
	entries := make([]authz.Entry, len(revocations))
	for i := range revocations {
		revocations[i].ExpiresAt = simEpoch.Add(24 * time.Hour)
		entries[i] = revocations[i].Entry()
	}
	takes := p.w.upTo(5 * time.Millisecond)
	if p.w.chance(10) {
		takes = p.w.upTo(2 * simStaleness)
	}
	ok := p.transact(entries, takes, p.w.chance(3))
	p.w.travel()
	switch {
	case p.w.chance(3):
		return authz.Appended{}, authz.ErrOutcomeUnknown
	case !ok:
		return authz.Appended{}, authz.ErrUnavailable
	}
	return authz.Appended{Revocations: revocations, MaxStaleness: simStaleness}, nil
}

// simFeed is one sidecar's connection to the store.
type simFeed struct {
	p    *simPostgres
	node *simNode
	last *simAnswer // for a proxy that answers from memory
}

type simAnswer struct {
	rows []authz.Row
	snap authz.Snapshot
}

// Changes implements authz.Feed.
func (f *simFeed) Changes(_ context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	w := f.p.w
	w.travel()
	if w.now < f.p.down || w.now < f.node.cut || w.chance(2) {
		if w.chance(20) { // black hole: the follower gives up after sync_timeout
			w.sleep(simTimeout)
		}
		return authz.Snapshot{}, errSimAway
	}
	var a simAnswer
	switch {
	case f.last != nil && w.now < f.node.proxied:
		a = *f.last
	case w.now < f.node.onStandby:
		a = f.read(since, nonce, f.p.standby)
		a.snap.Proves = false
		if w.chance(50) { // standbys cannot name their timeline
			a.snap.Epoch = "standby"
		}
	default:
		a = f.read(since, nonce, f.p.rows)
	}
	f.last = &a
	w.travel()
	for i, r := range a.rows {
		if w.chance(1) {
			w.logf("answer cut after %d of %d rows", i, len(a.rows))
			return authz.Snapshot{}, errSimAway
		}
		row(r)
	}
	w.logf("changes since (%d, %v): %d rows, xmax %d, open %v, epoch %s, proves %v", since.Last, since.Open, len(a.rows), a.snap.Xmax, a.snap.Open, a.snap.Epoch, a.snap.Proves)
	return a.snap, nil
}

func (f *simFeed) read(since authz.Position, nonce string, from []simRow) (a simAnswer) {
	p := f.p
	for _, r := range from {
		if f.node.variant.feed == naiveSequence {
			r.XID = r.id
		}
		if r.XID > since.Last || slices.Contains(since.Open, r.XID) {
			a.rows = append(a.rows, r.Row)
		}
	}
	p.w.rng.Shuffle(len(a.rows), func(i, j int) { a.rows[i], a.rows[j] = a.rows[j], a.rows[i] })
	a.snap = authz.Snapshot{Nonce: nonce, Epoch: p.epoch(), Xmax: p.nextXID,
		Open: slices.Clone(p.running), Proves: true, Clock: simEpoch.Add(p.w.now)}
	if f.node.variant.feed == naiveSequence {
		a.snap.Open, a.snap.Xmax, a.snap.Epoch = nil, p.nextID+1, "t"
	}
	return a
}

// simPoint is the tier that asks the store about one token.
type simPoint struct {
	p    *simPostgres
	node *simNode
}

func (simPoint) Name() string { return "postgres" }

func (simPoint) LookupNow(*authz.Query) (authz.Verdict, bool) { return authz.Unknown, false }

func (t simPoint) Lookup(_ context.Context, q *authz.Query) (authz.Verdict, error) {
	w := t.p.w
	w.travel()
	if w.now < t.p.down || w.now < t.node.cut || w.chance(2) {
		return authz.Unknown, errSimAway
	}
	v := authz.NotRevoked
	for _, r := range t.p.rows {
		if slices.Contains(q.Keys, r.Key) && r.Revokes(q.IssuedAt) {
			v = authz.Revoked
		}
	}
	w.travel()
	if w.chance(1) {
		return authz.Unknown, errSimAway
	}
	return v, nil
}

var (
	_ authz.Ledger = (*simPostgres)(nil)
	_ authz.Feed   = (*simFeed)(nil)
	_ authz.Tier   = simPoint{}
)
