package cache

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// shard is one part of the replica: an open-addressing table with one writer at a
// time and any number of readers, which take no lock.
type shard struct {
	table atomic.Pointer[table] // nil: empty
	mu    sync.Mutex            // writers only
	used  int                   // slots taken, including those of dropped entries
	live  int                   // slots taken by entries
}

// table is an array of groups of eight slots. A tag byte per slot (seven bits of
// the hash) lets one load rule out a whole group, and the tags of a hundred
// thousand entries fit into the processor's cache.
//
// A slot is written before its tag and never reused for another entry, so a
// reader that sees the tag also sees hash and value. A value changes by one
// atomic store. To grow or to free memory, a writer fills another table and swaps
// the pointer; readers finish on the old table.
type table struct {
	tags  []atomic.Uint64 // one word per group
	slots []slot
}

type slot struct{ hash, value atomic.Uint64 }

const (
	groupSlots = 8
	groupFull  = 7 // average number of slots taken in a group when the table grows: load 7/8
	// growLoad is the load in percent after growing. With 17 bytes per slot, the
	// table takes between 19.4 and 24.3 bytes per entry.
	growLoad = 70
	// shrinkLoad is the load in percent below which a sweep shrinks the table: at
	// most 28.3 bytes per entry remain.
	shrinkLoad = 60

	tagFull    = 0x80 // upper bit of a tag: the slot holds an entry
	tagDropped = 0x01 // the entry of the slot was dropped; probing goes on behind it
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

// home returns the group at which probing for a hash begins. The bits that chose
// the shard are shifted out. The upper half of the product is evenly distributed
// over any number of groups and keeps the order of hashes, so that growing walks
// memory forwards.
func (t *table) home(h uint64) int {
	hi, _ := bits.Mul64(h<<shardBits, uint64(len(t.tags)))
	return int(hi)
}

// tagOf uses bits that choose neither the shard nor the group.
func tagOf(h uint64) uint64 { return tagFull | h&0x7f }

// zeroBytes marks the zero bytes of w by their upper bit. Bytes above the lowest
// zero byte may be marked wrongly, but whether there is a zero byte and which is
// the lowest is exact.
func zeroBytes(w uint64) uint64 { return (w - lowBits) &^ w & highBits }

// probe is a search for a hash whose first group's tags have been loaded.
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

// find returns the slot of the hash, or nil.
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

// insert adds a hash that is not in the table. The table must have an empty slot.
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

// each calls f for every entry, group by group.
func (t *table) each(f func(g, i int, s *slot)) {
	for g := range t.tags {
		for m := t.tags[g].Load() & highBits; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m) / 8
			f(g, i, &t.slots[g*groupSlots+i])
		}
	}
}

// add merges v into the entry of h and returns the changes in the numbers of
// entries and bytes.
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

// rebuild moves the entries into a new table with room for n entries.
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
