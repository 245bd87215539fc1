package cache

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

const now32 = int64(1_800_000_000)

// numbered returns a key that is cheap to compute and unique for every i.
func numbered(i int) (k authz.Key) {
	binary.LittleEndian.PutUint64(k[:], uint64(i)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(k[8:], uint64(i))
	return k
}

// allNotBefore are the values of which the tests merge every pair.
var allNotBefore = []int64{math.MinInt64, -1, 0, 1, now32 - 1, now32, now32 + 1, math.MaxUint32 - 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64 - 1, authz.Always}

func TestReplicaRevokesAsItsEntriesDo(t *testing.T) {
	t.Parallel()
	iats := []int64{math.MinInt64, -1, 0, 1, now32 - 2, now32 - 1, now32, now32 + 1, math.MaxUint32 - 2}
	for i, a := range allNotBefore {
		for j, b := range allNotBefore {
			r := NewReplica()
			k := numbered(i*100 + j)
			r.Add(authz.Entry{Key: k, NotBefore: a, Expires: now32})
			r.Add(authz.Entry{Key: k, NotBefore: b, Expires: now32})
			for _, iat := range iats {
				want := authz.Entry{NotBefore: a}.Merge(authz.Entry{NotBefore: b}).Revokes(iat)
				got := r.Revokes([]authz.Key{numbered(-1), k}, iat)
				// A token from before 1970 may be denied without need, never allowed.
				assert.Falsef(t, got != want && (want || iat >= 0), "not_before %d and %d, iat %d: got %v, want %v", a, b, iat, got, want)
			}
		}
	}
}

func TestReplicaDropsFiveMinutesAfterExpiry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		expires []int64 // merged
		now     int64
		kept    bool
	}{
		{[]int64{now32}, now32, true},
		{[]int64{now32}, now32 + 300, true},
		{[]int64{now32}, now32 + 301, false},
		{[]int64{now32, now32 + 10}, now32 + 310, true},
		{[]int64{now32 + 10, now32}, now32 + 310, true},
		{[]int64{now32 + 10, now32}, now32 + 311, false},
		{[]int64{-5}, now32, false},
		{[]int64{math.MaxUint32 - 1}, math.MaxUint32 + 299, true},
		{[]int64{math.MaxUint32 - 1}, math.MaxUint32 + 300, false},
		{[]int64{math.MaxUint32}, math.MaxInt64, true}, // 2106 and later: never
		{[]int64{math.MaxInt64}, math.MaxInt64, true},
	} {
		r := NewReplica()
		for _, e := range c.expires {
			r.Add(authz.Entry{Key: numbered(1), NotBefore: authz.Always, Expires: e})
		}
		r.Sweep(c.now, replicaShards)
		if kept := r.Revokes([]authz.Key{numbered(1)}, 0); kept != c.kept || (r.Len() == 1) != c.kept || (r.Bytes() > 0) != c.kept {
			t.Errorf("%+v: kept %v, %d entries, %d bytes", c, kept, r.Len(), r.Bytes())
		}
	}
}

// TestReplicaAgainstMap does the same random work on a replica and on a map.
func TestReplicaAgainstMap(t *testing.T) {
	t.Parallel()
	seeds := uint64(20)
	if raceEnabled {
		seeds = 4
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		r, model := NewReplica(), map[int]authz.Entry{}
		keys := 1 << (4 + 3*seed%13)
		now := now32
		for range 4 * keys {
			switch i := rng.IntN(keys); rng.IntN(64) {
			case 0:
				now += rng.Int64N(200)
			case 1:
				if rng.IntN(8) == 0 {
					r.Sweep(now, replicaShards)
					for i, e := range model {
						if e.Expires < now-dropAfter {
							delete(model, i)
						}
					}
				}
			default:
				e := authz.Entry{Key: numbered(i), NotBefore: now + rng.Int64N(10), Expires: now + rng.Int64N(3000)}
				r.Add(e)
				if old, ok := model[i]; ok {
					e = e.Merge(old)
				}
				model[i] = e
			}
		}
		require.Equalf(t, int64(len(model)), r.Len(), "seed %d: entries, want %d", seed, len(model))
		for i := range keys {
			e, ok := model[i]
			at := r.Revokes([]authz.Key{numbered(i)}, e.NotBefore)
			before := r.Revokes([]authz.Key{numbered(i)}, e.NotBefore-1)
			require.Falsef(t, at, "seed %d: key %d: revokes %v at its not_before, %v before, want false, %v", seed, i, at, before, ok)
			require.Equalf(t, ok, before, "seed %d: key %d: revokes %v at its not_before, before, want false", seed, i, at)
		}
		r.Sweep(math.MaxUint32, replicaShards)
		if r.Len() != 0 || r.Bytes() != 0 {
			t.Fatalf("seed %d: %d entries and %d bytes are left when all have expired", seed, r.Len(), r.Bytes())
		}
	}
}

// TestReplicaMemory checks that the tables never take more than 32 bytes per entry
// while growing and shrinking, including the copy of a shard. It runs alone, so
// that the heap can be measured.
func TestReplicaMemory(t *testing.T) {
	n := 10_000_000
	if raceEnabled || testing.Short() {
		n = 500_000
	}
	const limit = 32
	before := heap()
	r := NewReplica()
	worst := 0.0
	for i := range n {
		k := numbered(i)
		old := r.shards[r.hash(&k)>>(64-shardBits)].table.Load()
		bytes := r.Bytes()
		r.Add(authz.Entry{Key: k, NotBefore: authz.Always, Expires: now32 + int64(i)})
		if r.Bytes() != bytes && i > 200_000 {
			worst = max(worst, float64(r.Bytes()+old.bytes())/float64(r.Len()))
		}
	}
	measured := float64(heap()-before) / float64(n) // allocations are rounded up to pages
	claimed := float64(r.Bytes()) / float64(n)
	t.Logf("%d entries: %.1f bytes/entry at the end, %.1f on the heap, %.1f at worst while growing", n, claimed, measured, worst)
	if r.Len() != int64(n) || worst == 0 || worst > limit || measured > limit || measured > claimed*1.15 {
		t.Errorf("%d entries: %.1f bytes/entry claimed, %.1f on the heap, %.1f at worst while growing; want at most %d", r.Len(), claimed, measured, worst, limit)
	}
	for left := n; left > 200_000; left /= 2 {
		r.Sweep(now32+dropAfter+int64(n-left/2), replicaShards)
		if got := float64(r.Bytes()) / float64(r.Len()); r.Len() != int64(left/2) || got > limit {
			t.Errorf("%d entries left, want %d: %.1f bytes/entry", r.Len(), left/2, got)
		}
	}
	r.Sweep(math.MaxUint32+dropAfter, replicaShards)
	gained := heap() - before
	assert.LessOrEqual(t, gained, int64(1<<20), "all have expired, but bytes remain")
	assert.Zerof(t, r.Bytes(), "all have expired, but %d bytes remain", gained)
	runtime.KeepAlive(r)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestReplicaConcurrent reads while entries are merged, moved by growth and
// dropped. An added entry must be found from then on, with a not_before that only
// rises and is never that of another entry.
func TestReplicaConcurrent(t *testing.T) {
	t.Parallel()
	const keys, rounds = 8_000, 6
	r := NewReplica()
	var level [keys]atomic.Int64 // not_before that is in the table
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var checks atomic.Int64
	for g := range 3 {
		rng := rand.New(rand.NewPCG(uint64(g), 2))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rng.IntN(keys)
				floor := level[i].Load()
				if !assert.Falsef(t, floor > 0 && !r.Revokes([]authz.Key{numbered(i)}, floor-1), "key %d: lost, or its not_before fell below %d", i, floor) {
					return
				}
				// Every key has values of its own residue, so that a value of another key shows.
				if !assert.Falsef(t, r.Revokes([]authz.Key{numbered(i)}, int64(rounds*keys+i)), "key %d: revokes above its highest not_before", i) {
					return
				}
				checks.Add(1)
			}
		})
	}
	for round := range rounds {
		for i := range keys {
			nb := int64(round*keys + i)
			r.Add(authz.Entry{Key: numbered(i), NotBefore: nb, Expires: now32})
			level[i].Store(nb)
			// Short-lived entries make shards grow, shrink and drop.
			r.Add(authz.Entry{Key: numbered(1_000_000 + round*keys + i), NotBefore: authz.Always, Expires: now32 - 1000})
		}
		r.Sweep(now32, replicaShards)
	}
	close(stop)
	wg.Wait()
	if r.Len() != keys || checks.Load() == 0 {
		t.Errorf("%d entries, want %d, after %d checks", r.Len(), keys, checks.Load())
	}
}

func BenchmarkReplica(b *testing.B) {
	for _, n := range []int{1_000_000, 10_000_000} {
		var r *Replica
		b.Run(fmt.Sprintf("%dM/load", n/1_000_000), func(b *testing.B) {
			for b.Loop() {
				r = filled(n)
			}
			b.ReportMetric(float64(r.Bytes())/float64(n), "bytes/entry")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1e9/float64(n), "ns/entry")
		})
		queries := make([][6]authz.Key, 1<<12)
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range queries {
			for j := range queries[i] {
				queries[i][j] = numbered(-1 - rng.IntN(1<<40))
			}
		}
		b.Run(fmt.Sprintf("%dM/miss6", n/1_000_000), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if r.Revokes(queries[i&(1<<12-1)][:], now32) {
					b.Fatal("revoked")
				}
			}
		})
		b.Run(fmt.Sprintf("%dM/hit1", n/1_000_000), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				k := [1]authz.Key{numbered(int(uint(i) * 7919 % uint(n)))}
				if !r.Revokes(k[:], now32) {
					b.Fatal("not revoked")
				}
			}
		})
		b.Run(fmt.Sprintf("%dM/miss6-while-adding", n/1_000_000), func(b *testing.B) {
			stop, done := make(chan struct{}), make(chan int)
			go func() { // an endless sync: new entries, growing shards, dropped entries
				added := 0
				for ; ; added++ {
					select {
					case <-stop:
						done <- added
						return
					default:
					}
					r.Add(authz.Entry{Key: numbered(1<<40 + added), NotBefore: authz.Always, Expires: now32 - 1000})
					if added%200_000 == 199_999 {
						r.Sweep(now32, replicaShards)
					}
				}
			}()
			i := 0
			for b.Loop() {
				i++
				if r.Revokes(queries[i&(1<<12-1)][:], now32) {
					b.Fatal("revoked")
				}
			}
			close(stop)
			b.ReportMetric(float64(<-done)/b.Elapsed().Seconds(), "adds/s")
		})
		b.Run(fmt.Sprintf("%dM/sweep", n/1_000_000), func(b *testing.B) {
			for b.Loop() {
				r.Sweep(now32, replicaShards)
			}
		})
	}
}

func filled(n int) *Replica {
	r := NewReplica()
	for i := range n {
		r.Add(authz.Entry{Key: numbered(i), NotBefore: authz.Always, Expires: now32 + 3600})
	}
	return r
}
