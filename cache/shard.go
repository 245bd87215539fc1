package cache

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// shard is one part of the replica: an open-addressing table that one writer
// at a time fills and any number of readers probe without locks.
type shard struct {
	table atomic.Pointer[table] // nil: empty
	mu    sync.Mutex            // writers only
	used  int                   // slots taken, the dropped ones included
	live  int                   // slots taken by entries
}

// table is an array of groups of eight slots. A tag byte per slot (seven bits
// of the hash) lets one load rule out a whole group, and the tags of a hundred
// thousand entries fit where the processor can reach them fast.
//
// A slot is written before its tag and never used for another entry, hence a
// reader that sees the tag sees hash and value as well. Values change by one
// atomic store. To drop entries or to grow, a writer fills another table and
// swaps the pointer; readers finish on the old one.
type table struct {
	tags  []atomic.Uint64 // one word per group
	slots []slot
}

type slot struct{ hash, value atomic.Uint64 }

const (
	groupSlots = 8
	groupFull  = 7 // a group holds this many on average when the table grows: load 7/8
	// growLoad is the load in percent after growing. With 17 bytes a slot,
	// the table takes between 19.4 and 24.3 bytes an entry.
	growLoad = 70
	// shrinkLoad is the load in percent below which a sweep makes the table
	// smaller: at most 28.3 bytes an entry remain.
	shrinkLoad = 60

	tagFull    = 0x80 // the upper bit of a tag: the slot holds an entry
	tagDropped = 0x01 // the slot held one; probing goes on behind it
	lowBits    = 0x0101010101010101
	highBits   = 0x8080808080808080
)

func newTable(entries int) *table {
	groups := (entries*100 + growLoad*groupSlots - 1) / (growLoad * groupSlots)
	groups = max(groups, (entries+groupFull-1)/groupFull, 1)
	return &table{tags: make([]atomic.Uint64, groups), slots: make([]slot, groups*groupSlots)}
}

func (t *table) bytes() int64 {
	if t == nil {
		return 0
	}
	return int64(unsafe.Sizeof(*t)) + int64(cap(t.tags))*8 + int64(cap(t.slots))*int64(unsafe.Sizeof(slot{}))
}

// home is the group a hash's probing begins with. The bits that chose the
// shard are shifted out; the product's upper half is even over any number of
// groups and keeps the order of hashes, so that growing walks memory forwards.
func (t *table) home(h uint64) int {
	hi, _ := bits.Mul64(h<<shardBits, uint64(len(t.tags)))
	return int(hi)
}

// tagOf takes bits that neither the shard nor the group was chosen by.
func tagOf(h uint64) uint64 { return tagFull | h&0x7f }

// zeroBytes marks the zero bytes of w by their upper bit. Bytes above the
// lowest zero byte may be marked wrongly; whether there is one, and which is
// the lowest, is exact.
func zeroBytes(w uint64) uint64 { return (w - lowBits) &^ w & highBits }

// probe is a search for a hash that has loaded its first group's tags.
type probe struct {
	table *table
	hash  uint64
	group int
	tags  uint64
}

func (t *table) start(h uint64) probe {
	g := t.home(h)
	return probe{t, h, g, t.tags[g].Load()}
}

// find returns the slot of the hash, nil if the table has none.
func (p *probe) find() *slot {
	t, tag := p.table, tagOf(p.hash)*lowBits
	for g, w := p.group, p.tags; ; w = t.tags[g].Load() {
		for m := zeroBytes(w ^ tag); m != 0; m &= m - 1 {
			if s := &t.slots[g*groupSlots+bits.TrailingZeros64(m)/8]; s.hash.Load() == p.hash {
				return s
			}
		}
		if zeroBytes(w) != 0 {
			return nil
		}
		if g++; g == len(t.tags) {
			g = 0
		}
	}
}

func (t *table) find(h uint64) *slot {
	p := t.start(h)
	return p.find()
}

// insert adds a hash that the table does not hold. The table must have an
// empty slot.
func (t *table) insert(h uint64, v packed) {
	for g := t.home(h); ; {
		w := t.tags[g].Load()
		if m := zeroBytes(w); m != 0 {
			i := bits.TrailingZeros64(m) / 8
			s := &t.slots[g*groupSlots+i]
			s.hash.Store(h)
			s.value.Store(uint64(v))
			t.tags[g].Store(w | tagOf(h)<<(8*i))
			return
		}
		if g++; g == len(t.tags) {
			g = 0
		}
	}
}

// each calls f for every entry, in the order of the groups.
func (t *table) each(f func(g, i int, s *slot)) {
	for g := range t.tags {
		for m := t.tags[g].Load() & highBits; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m) / 8
			f(g, i, &t.slots[g*groupSlots+i])
		}
	}
}

// add merges v into the entry of h and returns by how much the numbers of
// entries and of bytes changed.
func (s *shard) add(h uint64, v packed) (entries, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	if t != nil {
		if at := t.find(h); at != nil {
			at.value.Store(uint64(packed(at.value.Load()).merge(v)))
			return 0, 0
		}
	}
	if t == nil || s.used >= len(t.tags)*groupFull {
		bytes = s.rebuild(s.live + 1)
		t = s.table.Load()
	}
	t.insert(h, v)
	s.used++
	s.live++
	return 1, bytes
}

// rebuild moves the entries into a new table with room for n.
func (s *shard) rebuild(n int) (bytes int64) {
	old := s.table.Load()
	var t *table
	if n > 0 {
		t = newTable(n)
	}
	if old != nil && t != nil {
		old.each(func(_, _ int, at *slot) { t.insert(at.hash.Load(), packed(at.value.Load())) })
	}
	s.used = s.live
	s.table.Store(t)
	return t.bytes() - old.bytes()
}

// sweep drops the entries that expired before t.
func (s *shard) sweep(t int64) (entries, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tab := s.table.Load()
	if tab == nil {
		return 0, 0
	}
	tab.each(func(g, i int, at *slot) {
		if packed(at.value.Load()).expired(t) {
			w := tab.tags[g].Load() &^ (0xff << (8 * i))
			tab.tags[g].Store(w | tagDropped<<(8*i))
			entries--
		}
	})
	s.live += int(entries)
	if entries != 0 && s.live*100 < len(tab.slots)*shrinkLoad {
		bytes = s.rebuild(s.live)
	}
	return entries, bytes
}
