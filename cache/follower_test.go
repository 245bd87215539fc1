package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jwtbouncer/authz"
)

// fakeClock is a Clock whose hands are moved by the test.
type fakeClock struct {
	mu   sync.Mutex
	wall time.Time
	boot time.Duration
	hook func() // called before Boot is read
}

func newFakeClock() *fakeClock {
	return &fakeClock{wall: time.Unix(1_800_000_000, 0), boot: time.Hour}
}

func (c *fakeClock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.wall }

func (c *fakeClock) Boot() time.Duration {
	c.mu.Lock()
	hook := c.hook
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.boot = c.wall.Add(d), c.boot+d
}

// fakeFeed is a transactional authority with knobs for failure.
type fakeFeed struct {
	mu      sync.Mutex
	clock   authz.Clock
	rows    []authz.Row // committed
	open    []uint64
	xmax    uint64
	epoch   string
	standby bool
	reuse   bool
	err     error
	limits  authz.Snapshot
	skew    time.Duration
	calls   []authz.Position
	during  func(ctx context.Context) error // runs inside Changes, before the rows are delivered
}

func newFakeFeed(c authz.Clock) *fakeFeed { return &fakeFeed{clock: c, xmax: 10, epoch: "a"} }

func (f *fakeFeed) commit(entries ...authz.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		f.rows = append(f.rows, authz.Row{Entry: e, XID: f.xmax})
		f.xmax++
	}
}

func (f *fakeFeed) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	f.mu.Lock()
	f.calls = append(f.calls, since)
	rows, during := slices.Clone(f.rows), f.during
	s := authz.Snapshot{Nonce: nonce, Epoch: f.epoch, Xmax: f.xmax, Open: slices.Clone(f.open), Proves: !f.standby,
		Clock: f.clock.Now().Add(f.skew), MaxStaleness: f.limits.MaxStaleness, MaxTokenTTL: f.limits.MaxTokenTTL}
	if f.reuse {
		s.Nonce = "old"
	}
	err := f.err
	f.mu.Unlock()
	if during != nil {
		if err := during(ctx); err != nil {
			return authz.Snapshot{}, err
		}
	}
	for _, r := range rows {
		if r.XID > since.Last || slices.Contains(since.Open, r.XID) {
			row(r)
		}
	}
	return s, err
}

func (f *fakeFeed) set(change func(*fakeFeed)) { f.mu.Lock(); defer f.mu.Unlock(); change(f) }

func entry(i int) authz.Entry {
	return authz.Entry{Key: authz.RevocationKey(authz.KindJTI, "iss", fmt.Sprint(i)), NotBefore: authz.Always, Expires: 1_800_003_600}
}

func query(keys ...authz.Key) *authz.Query {
	return &authz.Query{Keys: keys, TokenKey: keys[len(keys)-1], IssuedAt: 1_800_000_000 - 60, Expires: 1_800_000_000 + 600}
}

func newTestFollower(t *testing.T) (*Follower, *fakeFeed, *fakeClock) {
	t.Helper()
	c := newFakeClock()
	feed := newFakeFeed(c)
	cfg := DefaultRevocationConfig()
	cfg.CatchUpWait = 0
	return NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: c}), feed, c
}

func lookup(t *testing.T, f *Follower, q *authz.Query) authz.Verdict {
	t.Helper()
	v, err := NewReplicaTier(f).Lookup(t.Context(), q)
	if v != authz.Unknown && err != nil {
		t.Errorf("verdict %v with error %v", v, err)
	}
	return v
}

func TestFollowerFreshness(t *testing.T) {
	t.Parallel()
	f, feed, c := newTestFollower(t)
	if got := lookup(t, f, query(entry(1).Key)); got != authz.Unknown || f.Ready() {
		t.Fatalf("before the first load: %v, ready %v", got, f.Ready())
	}
	feed.commit(entry(1))
	if err := f.Sync(t.Context()); err != nil || !f.Ready() {
		t.Fatal(err)
	}
	if got := lookup(t, f, query(entry(1).Key)); got != authz.Revoked {
		t.Errorf("revoked token: %v", got)
	}
	if got := lookup(t, f, query(entry(2).Key)); got != authz.NotRevoked {
		t.Errorf("other token: %v", got)
	}
	c.advance(30 * time.Second)
	if got := lookup(t, f, query(entry(2).Key)); got != authz.NotRevoked {
		t.Errorf("at the bound: %v", got)
	}
	c.advance(1)
	if got := lookup(t, f, query(entry(2).Key)); got != authz.Unknown {
		t.Errorf("beyond the bound: %v", got)
	}
	if got := lookup(t, f, query(entry(1).Key)); got != authz.Revoked {
		t.Errorf("revoked token beyond the bound: %v", got)
	}
}

func TestFollowerRunHintCatchUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, feed, _ := newTestFollower(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		time.Sleep(minGap)
		feed.commit(entry(1))
		start := time.Now()
		if err := f.CatchUp(ctx); err != nil || time.Since(start) > minGap {
			t.Errorf("catch-up: %v after %v", err, time.Since(start))
		}
		if got := lookup(t, f, query(entry(1).Key)); got != authz.Revoked {
			t.Errorf("after catch-up: %v", got)
		}
		feed.set(func(f *fakeFeed) { f.err = errors.New("away") })
		if err := f.CatchUp(ctx); err == nil {
			t.Error("catch-up with the store away must fail")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
