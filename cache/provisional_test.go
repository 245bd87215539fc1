package cache

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// What a message names is denied at once, without a question to the store, and
// proves nothing.
func TestLearnedRevocationDeniesAtOnce(t *testing.T) {
	t.Parallel()
	f, feed, c := newTestFollower(t)
	f.Learn([]authz.Entry{entry(1)}, true)
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)), "before the first load")
	assert.Equal(t, authz.Unknown, lookup(t, f, query(entry(2).Key)), "a message is no load")
	sync1(t, f)
	c.advance(30 * time.Second)
	asof, position := f.asof.Load(), f.position
	f.Learn([]authz.Entry{entry(3)}, true)
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(3).Key)))
	assert.Equal(t, authz.NotRevoked, lookup(t, f, query(entry(2).Key)))
	assert.Equal(t, asof, f.asof.Load(), "a message proves no freshness")
	assert.Equal(t, position, f.position)
	c.advance(1)
	f.Learn([]authz.Entry{entry(4)}, true)
	assert.Equal(t, authz.Unknown, lookup(t, f, query(entry(2).Key)), "beyond the bound")
	assert.Len(t, feed.asked(), 1, "messages that name all cost the store nothing")
	assert.Empty(t, f.syncs.soon)
	f.Learn(nil, false)
	assert.Len(t, f.syncs.soon, 1)
}

// A message weakens nothing: neither its own entry's predecessor nor the store's.
func TestLearnedRevocationWeakensNothing(t *testing.T) {
	t.Parallel()
	f, feed, _ := newTestFollower(t)
	strict, weak := entry(1), entry(1)
	weak.NotBefore, weak.Expires = 1, 1_800_000_001
	feed.commit(strict)
	sync1(t, f)
	for _, m := range []authz.Entry{weak, {Key: strict.Key, Expires: 1_800_000_001}} {
		f.Learn([]authz.Entry{m}, true)
		assert.Equal(t, authz.Revoked, lookup(t, f, query(strict.Key)))
	}
	strict, weak = entry(2), entry(2)
	weak.NotBefore = 1
	f.Learn([]authz.Entry{strict}, true)
	f.Learn([]authz.Entry{weak}, true)
	assert.Equal(t, authz.Revoked, lookup(t, f, query(strict.Key)))
}

// The store decides about what was learned, with the first sync that begins after
// it has arrived: a lie ends, a revocation stays. No other answer decides.
func TestStoreDecidesAboutWhatWasLearned(t *testing.T) {
	t.Parallel()
	f, feed, c := newTestFollower(t)
	sync1(t, f)
	truth, lie, late := entry(1), entry(2), entry(3)
	denied := func(e authz.Entry) bool { return lookup(t, f, query(e.Key)) == authz.Revoked }
	f.Learn([]authz.Entry{truth, lie}, true)
	for name, change := range map[string]func(*fakeFeed){
		"error": func(f *fakeFeed) { f.err = errors.New("away") }, "standby": func(f *fakeFeed) { f.standby = true },
		"answer of a cache": func(f *fakeFeed) { f.reuse = true }, "clock": func(f *fakeFeed) { f.skew = 2 * authz.MaxClockLag },
	} {
		feed.set(change)
		require.Errorf(t, f.Sync(t.Context()), "%s", name)
		assert.Truef(t, denied(truth) && denied(lie), "%s: an answer without proof decides nothing", name)
		feed.set(func(f *fakeFeed) { f.err, f.standby, f.reuse, f.skew = nil, false, false, 0 })
	}
	feed.commit(truth)
	h := hook(f)
	h.adding = func() { // while the answer is read
		h.adding = nil
		feed.commit(late)
		f.Learn([]authz.Entry{late}, true)
	}
	sync1(t, f)
	assert.True(t, denied(truth), "the store has it")
	assert.False(t, denied(lie), "the store does not have it")
	assert.True(t, denied(late), "the question was sent before it arrived")
	c.advance(time.Second)
	f.Learn([]authz.Entry{lie}, true)
	feed.set(func(f *fakeFeed) { f.epoch = "b" }) // so that everything is read again
	sync1(t, f)
	assert.True(t, denied(truth) && denied(late))
	assert.False(t, denied(lie), "a lie does not outlive a full load either")
	assert.Nil(t, f.provisional.set.Load(), "nothing is left")
}

// A token that was denied by a message is not allowed by a check that runs while
// the sync that confirms the revocation ends.
func TestConfirmedRevocationIsDeniedThroughout(t *testing.T) {
	t.Parallel()
	f, feed, _ := newTestFollower(t)
	sync1(t, f)
	feed.commit(entry(1))
	f.Learn([]authz.Entry{entry(1)}, true)
	h := hook(f)
	h.looked = func() { h.looked = nil; sync1(t, f) } // after the replica was asked; the clock stands still
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)))
	h.looked = nil
	sync1(t, f)
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)))
}

// The same with real concurrency.
func TestLearnWhileSyncing(t *testing.T) {
	t.Parallel()
	f, feed, c := newTestFollower(t)
	sync1(t, f)
	const n = 2000
	var learned atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for learned.Load() < n {
			assert.NoError(t, f.Sync(t.Context()))
			c.advance(1)
		}
	})
	wg.Go(func() {
		for learned.Load() < n {
			i := rand.IntN(int(learned.Load()) + 1)
			if i < int(learned.Load()) && !assert.Equalf(t, authz.Revoked, lookup(t, f, query(entry(i).Key)), "entry %d", i) {
				return
			}
		}
	})
	for i := range n {
		feed.commit(entry(i))
		f.Learn([]authz.Entry{entry(i)}, true)
		learned.Store(int64(i + 1))
	}
	wg.Wait()
	sync1(t, f)
	assert.Nil(t, f.provisional.set.Load())
	assert.EqualValues(t, n, f.replica.Len())
}

// However much is sent, the memory for it is bounded, and what does not fit makes
// the next sync come earlier.
func TestLearnIsBounded(t *testing.T) {
	t.Parallel()
	f, feed, _ := newTestFollower(t)
	sync1(t, f)
	batch := make([]authz.Entry, 500)
	for i := range 4 * maxProvisional / len(batch) {
		for j := range batch {
			batch[j] = authz.Entry{Key: numbered(i*len(batch) + j), NotBefore: authz.Always, Expires: now32 + 60}
		}
		f.Learn(batch, true)
	}
	assert.EqualValues(t, maxProvisional, f.provisional.mark())
	set := f.provisional.set.Load()
	assert.EqualValues(t, maxProvisional, set.Len())
	bytes := set.Bytes() + int64(cap(f.provisional.log))*32
	assert.Lessf(t, bytes, int64(5<<20), "%d bytes", bytes)
	assert.Len(t, f.syncs.soon, 1, "a sync was requested")
	assert.Len(t, feed.asked(), 1, "but none was made")
	assert.Zero(t, f.replica.Len(), "the replica holds what the store has")
	sync1(t, f)
	assert.Nil(t, f.provisional.set.Load())
	f.Learn([]authz.Entry{{Key: numbered(0), NotBefore: authz.Always, Expires: now32 - dropAfter - 1}}, true)
	assert.Zero(t, f.provisional.mark(), "no token under it is valid any more")
}

// The whole fleet hears the same message. What it has to read from the store then,
// it reads at random times.
func TestIncompleteMessagesAreSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const fleet = 200
		var followers []*Follower
		var feeds []*fakeFeed
		for range fleet {
			f, feed := running(t)
			followers, feeds = append(followers, f), append(feeds, feed)
		}
		asked := func() (n int) {
			for _, feed := range feeds {
				n += len(feed.asked())
			}
			return n
		}
		syncs := func(steps int, message func()) (per []int) { // in each tenth of a second
			for range steps {
				before := asked()
				message()
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				per = append(per, asked()-before)
			}
			return per
		}
		tell := func(complete bool) func() {
			return func() {
				for _, f := range followers {
					f.Learn([]authz.Entry{entry(1)}, complete)
				}
			}
		}
		time.Sleep(time.Minute) // the syncs of the fleet have drifted apart
		sum := func(per []int) (n int) {
			for _, k := range per {
				n += k
			}
			return n
		}
		idle := sum(syncs(200, func() {}))
		complete := sum(syncs(200, tell(true)))
		assert.InDelta(t, idle, complete, float64(idle)/10, "messages that name all cost nothing")
		first := true
		once := syncs(10, func() {
			if first {
				tell(false)()
			}
			first = false
		})
		assert.GreaterOrEqualf(t, sum(once), fleet, "all within half of the interval: %v", once)
		for _, k := range once {
			assert.LessOrEqualf(t, k, fleet/4, "not in the same instant: %v", once)
		}
		flood := sum(syncs(200, tell(false)))
		assert.Lessf(t, flood, 45*idle/10, "a flood costs four times what idling does; idle: %d", idle)
		t.Logf("%d followers: %d syncs in 20 s idle, %d with messages that name all, %d in a flood of others; after one: %v", fleet, idle, complete, flood, once)
	})
}

// While the store is away, messages do not defeat the backoff.
func TestIncompleteMessagesInAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t)
		feed.set(func(f *fakeFeed) { f.err = errors.New("away") })
		time.Sleep(40 * time.Second)
		before := len(feed.asked())
		for range 6000 {
			f.Learn(nil, false)
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, len(feed.asked())-before, 60)
	})
}
