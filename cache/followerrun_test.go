package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// bubbleClock is the clock of the synctest bubble that uses it.
type bubbleClock struct{ start time.Time }

func (bubbleClock) Now() time.Time        { return time.Now() }
func (c bubbleClock) Boot() time.Duration { return time.Since(c.start) }

// running starts a follower in a bubble and stops it at the end of the test.
func running(t *testing.T, change ...func(*RevocationConfig)) (*Follower, *fakeFeed) {
	t.Helper()
	c := bubbleClock{time.Now()}
	feed := newFakeFeed(c)
	cfg := DefaultRevocationConfig()
	for _, f := range change {
		f(&cfg)
	}
	f := NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: c})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done, "Run")
	})
	return f, feed
}

// stall makes readings wait until they are given up or released.
func stall(feed *fakeFeed) (release func()) {
	gate := make(chan struct{})
	feed.set(func(f *fakeFeed) {
		f.during = func(ctx context.Context) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return func() { feed.set(func(f *fakeFeed) { f.during = nil }); close(gate) }
}

func TestRunSyncsWithJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t)
		if !f.Ready() || len(feed.asked()) != 1 {
			t.Fatalf("ready %v after %d syncs", f.Ready(), len(feed.asked()))
		}
		var times []time.Time
		feed.set(func(f *fakeFeed) {
			f.during = func(context.Context) error { times = append(times, time.Now()); return nil }
		})
		time.Sleep(10 * time.Minute)
		feed.set(func(f *fakeFeed) { f.during = nil })
		synctest.Wait()
		least, most := time.Hour, time.Duration(0)
		for i := 1; i < len(times); i++ {
			least, most = min(least, times[i].Sub(times[i-1])), max(most, times[i].Sub(times[i-1]))
		}
		assert.GreaterOrEqualf(t, least, 1500*time.Millisecond, "%d syncs, to %v apart; want 2s spread by a quarter", len(times), most)
		assert.LessOrEqualf(t, most, 2500*time.Millisecond, "%d syncs, %v to %v apart; want 2s spread by a quarter", len(times), least, most)
		assert.GreaterOrEqualf(t, most-least, 500*time.Millisecond, "%d syncs, %v to %v apart; want 2s spread by a quarter", len(times), least, most)
	})
}

func TestNotificationsAreMerged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t)
		time.Sleep(minGap)
		release := stall(feed)
		f.Notify() // begins a sync
		synctest.Wait()
		for range 1000 {
			f.Notify() // while the sync runs: one more sync for all
		}
		before := len(feed.asked())
		release()
		time.Sleep(2 * minGap)
		synctest.Wait()
		got := len(feed.asked()) - before
		assert.Equalf(t, 1, got, "1000 notifications led to %d syncs", got)
		// The gap bounds a flood of notifications, and none of them is lost.
		before = len(feed.asked())
		for i := range 1000 {
			feed.commit(entry(i))
			f.Notify()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(minGap)
		got = len(feed.asked()) - before
		assert.LessOrEqualf(t, got, 52, "%d syncs in a second full of notifications", got)
		assert.GreaterOrEqualf(t, got, 30, "%d syncs in a second full of notifications", got)
		if f.replica.Len() != 1000 {
			t.Errorf("%d of 1000 entries", f.replica.Len())
		}
	})
}

// synced waits until a sync that began after the call has ended, and returns its
// error, or ctx's. All callers share one sync.
func (f *Follower) synced(ctx context.Context) error {
	begun := f.syncs.snapshot().begun
	for {
		now := f.syncs.snapshot()
		if now.ended > begun {
			return now.err
		}
		f.syncs.request()
		select {
		case <-now.next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A sync whose snapshot was taken before a request does not answer the request.
func TestRequestsShareALaterSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t)
		time.Sleep(minGap)
		release := stall(feed)
		f.Notify()
		synctest.Wait()       // this reading's snapshot is taken
		feed.commit(entry(1)) // too late for it
		done := make(chan error)
		for range 50 {
			go func() { done <- f.synced(t.Context()) }()
		}
		synctest.Wait()
		before := len(feed.asked())
		release()
		for range 50 {
			assert.NoError(t, <-done)
		}
		assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)), "after the sync")
		got := len(feed.asked()) - before
		assert.Equalf(t, 1, got, "50 callers shared %d syncs", got)
		stall(feed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.ErrorIs(t, f.synced(ctx), context.DeadlineExceeded, "with a silent store")
		feed.set(func(f *fakeFeed) { f.during, f.err = nil, errors.New("away") })
		assert.Error(t, f.synced(t.Context()), "with the store away: no error")
	})
}

func TestLookupsShareOneSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t, func(c *RevocationConfig) { c.SyncTimeout = time.Hour; c.MaxStaleness = 4 * time.Second })
		release := stall(feed)
		time.Sleep(10 * time.Second) // a sync runs and is silent
		tier := NewReplicaTier(f)
		verdicts := make(chan authz.Verdict)
		for i := range 100 {
			go func() {
				v, _ := tier.Lookup(t.Context(), query(entry(i%2).Key))
				verdicts <- v
			}()
		}
		start := time.Now()
		for range 100 {
			assert.Equal(t, authz.Unknown, <-verdicts, "not fresh, but")
		}
		waited := time.Since(start)
		assert.Equalf(t, 150*time.Millisecond, waited, "gave up after %v, want 150ms", waited)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start = time.Now()
		v, err := tier.Lookup(ctx, query(entry(1).Key))
		if assert.Equalf(t, authz.Unknown, v, "short of time: %v after %v", err, time.Since(start)) {
			if assert.Errorf(t, err, "short of time: %v %v after %v", v, err, time.Since(start)) {
				assert.Equalf(t, 20*time.Millisecond, time.Since(start), "short of time: %v %v after %v", v, err, time.Since(start))
			}
		}
		// The running sync began ten seconds ago and proves too little: one more is needed.
		before := len(feed.asked())
		feed.commit(entry(1))
		for i := range 100 {
			go func() {
				v, err := tier.Lookup(t.Context(), query(entry(i%2).Key))
				assert.Equalf(t, []authz.Verdict{authz.NotRevoked, authz.Revoked}[i%2], v, "entry %d: (%v)", i%2, err)
				verdicts <- v
			}()
		}
		synctest.Wait()
		release()
		for range 100 {
			<-verdicts
		}
		got := len(feed.asked()) - before
		assert.Equalf(t, 1, got, "100 checks shared %d syncs", got)
	})
}

func TestRunBacksOffAndHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t)
		feed.set(func(f *fakeFeed) { f.err = errors.New("away") })
		time.Sleep(40 * time.Second)
		before := len(feed.asked())
		tier := NewReplicaTier(f)
		start := time.Now()
		for range 10_000 { // checks in an outage
			f.Notify()
			v, err := tier.Lookup(t.Context(), query(entry(1).Key))
			require.Equalf(t, authz.Unknown, v, "stale, but: %v", err)
			require.Errorf(t, err, "stale, but: %v %v", v, err)
		}
		waited := time.Since(start)
		assert.Zerof(t, waited, "checks waited %v for a store known to be away", waited)
		time.Sleep(60 * time.Second)
		got := len(feed.asked()) - before
		assert.GreaterOrEqualf(t, got, 20, "%d tries in a minute of outage with 10,000 checks", got)
		assert.LessOrEqualf(t, got, 60, "%d tries in a minute of outage with 10,000 checks", got)
		feed.set(func(f *fakeFeed) { f.err = nil })
		time.Sleep(3 * time.Second)
		v, err := tier.Lookup(t.Context(), query(entry(1).Key))
		assert.Equalf(t, authz.NotRevoked, v, "3 s after healing: %v", err)
	})
}

func TestSilentStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed := running(t)
		time.Sleep(minGap)
		stall(feed)
		start := time.Now()
		err := f.synced(t.Context())
		assert.ErrorIsf(t, err, errSilent, "%v after %v", err, time.Since(start))
		assert.LessOrEqualf(t, time.Since(start), f.config.SyncTimeout+minGap, "%v after %v", err, time.Since(start))
		feed.set(func(f *fakeFeed) { f.during = nil })
		time.Sleep(2 * time.Second)
		if f.seconds() > 3 {
			t.Errorf("staleness %v after the silence ended", f.seconds())
		}
	})
}

// A load may take as long as it needs while rows arrive. The first row may take
// longer than in a small sync, and after failures even longer.
func TestLongLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := bubbleClock{time.Now()}
		first := 25 * time.Second // and a row every 20 ms from then on
		feed := feedFunc(func(ctx context.Context, _ authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
			select {
			case <-time.After(first):
			case <-ctx.Done():
				return authz.Snapshot{}, ctx.Err()
			}
			for i := range 20 * 1024 {
				if i%1024 == 1023 {
					time.Sleep(20 * time.Second)
				}
				if ctx.Err() != nil {
					return authz.Snapshot{}, ctx.Err()
				}
				row(authz.Row{Entry: authz.Entry{Key: numbered(i), NotBefore: authz.Always, Expires: now32}, XID: uint64(i + 1)})
			}
			return authz.Snapshot{Nonce: nonce, Epoch: "a", Xmax: 1 << 20, Proves: true}, nil
		})
		cfg := DefaultRevocationConfig()
		f := NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: c})
		err := f.Sync(t.Context())
		if assert.NoError(t, err, "long load") {
			assert.Truef(t, f.Ready(), "long load: %v", err)
		}
		f = NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: c})
		first = 200 * time.Second
		tries := 1
		for ; f.Sync(t.Context()) != nil && tries < 10; tries++ {
			require.False(t, f.Ready(), "ready without a load")
		}
		// patience 30 s, 60 s, 120 s, 240 s
		assert.Equalf(t, 4, tries, "loaded at try %d, want 4", tries)
	})
}

type feedFunc func(context.Context, authz.Position, string, func(authz.Row)) (authz.Snapshot, error)

func (f feedFunc) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	return f(ctx, since, nonce, row)
}

// TestChecksDuringSyncs runs checks concurrently with a follower. Once a sync has
// covered a revocation, every check denies.
func TestChecksDuringSyncs(t *testing.T) {
	t.Parallel()
	clock := authz.SystemClock{}
	feed := newFakeFeed(clock)
	reg := prometheus.NewRegistry()
	cfg := DefaultRevocationConfig()
	f := NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: clock, Registry: reg})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	require.NoError(t, f.synced(ctx))
	const n = 30
	var covered atomic.Int64
	tier := NewReplicaTier(f)
	for g := range 4 {
		rng := rand.New(rand.NewPCG(uint64(g), 3))
		wg.Go(func() {
			for ctx.Err() == nil {
				done := int(covered.Load())
				i := rng.IntN(n)
				v, err := tier.Lookup(context.Background(), query(entry(i).Key))
				if !assert.Falsef(t, v == authz.Unknown || i < done && v != authz.Revoked || err != nil, "entry %d of %d covered: %v %v", i, done, v, err) {
					return
				}
			}
		})
	}
	for i := range n {
		feed.commit(entry(i))
		assert.NoError(t, f.synced(ctx))
		covered.Store(int64(i + 1))
	}
	assert.Equal(t, float64(n), metric(t, reg, "jwt_bouncer_replica_entries"), "jwt_bouncer_replica_entries")
	for _, name := range []string{"jwt_bouncer_replica_syncs_total", "jwt_bouncer_replica_rows_total", "jwt_bouncer_replica_bytes", "jwt_bouncer_replica_max_staleness_seconds", "jwt_bouncer_replica_sync_duration_seconds"} {
		assert.Greaterf(t, metric(t, reg, name), float64(0), "%s is not above zero", name)
	}
	cancel()
	wg.Wait()
}

func TestRevocationConfigFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func(*RevocationConfig)
		want   []string
	}{
		{func(*RevocationConfig) {}, nil},
		{func(c *RevocationConfig) { c.SyncInterval = 16 * time.Second }, []string{"sync_interval"}},
		{func(c *RevocationConfig) { c.MaxStaleness = 0 }, []string{"max_staleness"}},
		{func(c *RevocationConfig) { c.CatchUpWait = 0 }, nil},
		{func(c *RevocationConfig) { *c = RevocationConfig{CatchUpWait: -1} }, []string{"max_staleness", "sync_interval", "sync_timeout", "catch_up_wait", "max_token_ttl", "sweep_interval", "on_revocation_unknown"}},
		{func(c *RevocationConfig) { c.OnRevocationUnknown = "open" }, []string{"on_revocation_unknown"}},
	} {
		cfg := DefaultRevocationConfig()
		c.change(&cfg)
		var got []string
		cfg.Validate(func(path, _ string, _ ...any) { got = append(got, path) })
		assert.Equalf(t, fmt.Sprint(c.want), fmt.Sprint(got), "%+v: faults at %v, want %v", cfg, got, c.want)
	}
	for _, c := range []TokenCacheConfig{{Enabled: true}, {Enabled: true, MaxBytes: 1 << 50, TTL: time.Millisecond}} {
		n := 0
		c.Validate(func(string, string, ...any) { n++ })
		assert.Equalf(t, 2, n, "%+v: faults", c)
	}
	for _, c := range []TokenCacheConfig{{}, DefaultTokenCacheConfig()} {
		c.Validate(func(path, format string, args ...any) { t.Errorf("%+v: %s: %s", c, path, fmt.Sprintf(format, args...)) })
	}
}

// Before the first load there is no age to report: the metric is above every limit,
// and the log says so in words.
func TestFollowerThatNeverLoaded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := bubbleClock{time.Now()}
		f := NewFollower(newFakeFeed(c), NewReplica(), FollowerOptions{Config: DefaultRevocationConfig(), Clock: c})
		s, age := f.seconds(), f.age().String()
		assert.Truef(t, math.IsInf(s, 1), "before the first load: %v, %s", s, age)
		assert.Equalf(t, "staleness=never loaded", age, "before the first load: %v", s)
		require.NoError(t, f.Sync(t.Context()))
		time.Sleep(2 * time.Second)
		s, age = f.seconds(), f.age().String()
		assert.Equalf(t, float64(2), s, "after it, %s", age)
		assert.Equalf(t, "staleness_seconds=2", age, "after it: %v", s)
	})
}
