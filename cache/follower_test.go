package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// fakeClock is a Clock that the test moves.
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
	after   int                             // number of rows before the error
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
		Clock: f.clock.Now().Add(f.skew), MaxStaleness: f.limits.MaxStaleness, MaxTokenTTL: f.limits.MaxTokenTTL,
		RaisedFrom: f.limits.RaisedFrom, Raised: f.limits.Raised}
	if f.reuse {
		s.Nonce = "old"
	}
	err, after := f.err, f.after
	f.mu.Unlock()
	if during != nil {
		if err := during(ctx); err != nil {
			return authz.Snapshot{}, err
		}
	}
	for _, r := range rows {
		if r.XID > since.Last || slices.Contains(since.Open, r.XID) {
			if after--; err != nil && after < 0 {
				return authz.Snapshot{}, err
			}
			row(r)
		}
	}
	if err != nil {
		return authz.Snapshot{}, err
	}
	return s, nil
}

func (f *fakeFeed) set(change func(*fakeFeed)) { f.mu.Lock(); defer f.mu.Unlock(); change(f) }

func entry(i int) authz.Entry {
	return authz.Entry{Key: authz.RevocationKey(authz.KindJTI, "iss", fmt.Sprint(i)), NotBefore: authz.Always, Expires: 1_800_003_600}
}

func query(keys ...authz.Key) *authz.Query {
	return &authz.Query{Keys: keys, TokenKey: keys[len(keys)-1], IssuedAt: 1_800_000_000 - 60, Expires: 1_800_000_000 + 600}
}

func (f *fakeFeed) asked() []authz.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func newTestFollower(t *testing.T, change ...func(*RevocationConfig)) (*Follower, *fakeFeed, *fakeClock) {
	t.Helper()
	c := newFakeClock()
	feed := newFakeFeed(c)
	cfg := DefaultRevocationConfig()
	cfg.CatchUpWait = 0
	for _, f := range change {
		f(&cfg)
	}
	return NewFollower(feed, NewReplica(), FollowerOptions{Config: cfg, Clock: c}), feed, c
}

// hooked calls a test in the middle of a lookup or an add.
type hooked struct {
	revocationSet
	looked, adding func()
}

func (h *hooked) Revokes(keys []authz.Key, iat int64) bool {
	v := h.revocationSet.Revokes(keys, iat)
	if h.looked != nil {
		h.looked()
	}
	return v
}

func (h *hooked) Add(e authz.Entry) {
	if h.adding != nil {
		h.adding()
	}
	h.revocationSet.Add(e)
}

func hook(f *Follower) *hooked {
	h := &hooked{revocationSet: f.replica}
	f.replica = h
	return h
}

func sync1(t *testing.T, f *Follower) {
	t.Helper()
	require.NoError(t, f.Sync(t.Context()))
}

func lookup(t *testing.T, f *Follower, q *authz.Query) authz.Verdict {
	t.Helper()
	v, err := NewReplicaTier(f).Lookup(t.Context(), q)
	assert.Falsef(t, v != authz.Unknown && err != nil, "verdict %v with error %v", v, err)
	return v
}

func TestFollowerFreshness(t *testing.T) {
	t.Parallel()
	f, feed, c := newTestFollower(t)
	if got := lookup(t, f, query(entry(1).Key)); got != authz.Unknown || f.Ready() {
		t.Fatalf("before the first load: %v, ready %v", got, f.Ready())
	}
	feed.commit(entry(1))
	err := f.Sync(t.Context())
	require.NoError(t, err)
	require.Truef(t, f.Ready(), "%v", err)
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)), "revoked token")
	assert.Equal(t, authz.NotRevoked, lookup(t, f, query(entry(2).Key)), "other token")
	c.advance(30 * time.Second)
	assert.Equal(t, authz.NotRevoked, lookup(t, f, query(entry(2).Key)), "at the bound")
	c.advance(1)
	assert.Equal(t, authz.Unknown, lookup(t, f, query(entry(2).Key)), "beyond the bound")
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)), "revoked token beyond the bound")
}

func TestFollowerWatermark(t *testing.T) {
	t.Parallel()
	f, feed, _ := newTestFollower(t)
	row := func(i int, xid uint64) authz.Row { return authz.Row{Entry: entry(i), XID: xid} }
	for i, step := range []struct {
		name string
		rows []authz.Row // committed by this reading, besides those before
		open []uint64
		xmax uint64
		want authz.Position // afterwards
	}{
		{"empty: every later id is above", nil, []uint64{7}, 10, authz.Position{Epoch: "a"}},
		{"running ids above the highest row need no note", []authz.Row{row(1, 10)}, []uint64{7, 12}, 14, authz.Position{Epoch: "a", Last: 10, Open: []uint64{7}}},
		{"no rows: the counter is no watermark", nil, []uint64{7, 12}, 100, authz.Position{Epoch: "a", Last: 10, Open: []uint64{7}}},
		{"late commits, below and above", []authz.Row{row(2, 7), row(3, 12)}, []uint64{11}, 100, authz.Position{Epoch: "a", Last: 12, Open: []uint64{11}}},
		{"rolled back", nil, nil, 100, authz.Position{Epoch: "a", Last: 12}},
		{"a row the snapshot cannot hold", []authz.Row{row(4, 200)}, []uint64{150}, 120, authz.Position{Epoch: "a", Last: 12}},
	} {
		feed.set(func(f *fakeFeed) { f.rows = append(f.rows, step.rows...); f.open, f.xmax = step.open, step.xmax })
		sync1(t, f)
		assert.Equalf(t, step.want.Epoch, f.position.Epoch, "%d %s: at %+v, want %+v", i, step.name, f.position, step.want)
		assert.Equalf(t, step.want.Last, f.position.Last, "%d %s: at %+v, want %+v", i, step.name, f.position, step.want)
		assert.Truef(t, slices.Equal(f.position.Open, step.want.Open), "%d %s: at %+v, want %+v", i, step.name, f.position, step.want)
		for _, r := range step.rows {
			assert.Equalf(t, authz.Revoked, lookup(t, f, query(r.Key)), "%d %s: row of %d is missing", i, step.name, r.XID)
		}
	}
}

func TestFollowerKeepsRowsOfReadingsThatProveNothing(t *testing.T) {
	t.Parallel()
	away := errors.New("connection reset")
	for name, c := range map[string]struct {
		knob func(*fakeFeed)
		want error
	}{
		"standby":         {func(f *fakeFeed) { f.standby, f.epoch = true, "standby" }, errUnproven},
		"answer reused":   {func(f *fakeFeed) { f.reuse = true }, errReused},
		"cut in the rows": {func(f *fakeFeed) { f.err, f.after = away, 1 }, away},
		"cut at the end":  {func(f *fakeFeed) { f.err, f.after = away, 99 }, away},
		"far ahead clock": {func(f *fakeFeed) { f.skew = authz.MaxClockLag + time.Second }, errBehind},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, feed, clock := newTestFollower(t)
			sync1(t, f)
			before, asof := f.position, f.asof.Load()
			clock.advance(time.Second)
			feed.commit(entry(1), entry(2))
			feed.set(c.knob)
			assert.ErrorIs(t, f.Sync(t.Context()), c.want)
			assert.Equal(t, asof, f.asof.Load(), "it proved freshness")
			assert.Falsef(t, !errors.Is(c.want, errBehind) && (f.position.Last != before.Last || f.position.Epoch != before.Epoch), "the position moved to %+v", f.position)
			assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)), "its row was not added")
			feed.set(func(f *fakeFeed) { f.standby, f.reuse, f.err, f.skew, f.epoch = false, false, nil, 0, "a" })
			sync1(t, f)
			got := lookup(t, f, query(entry(2).Key))
			assert.Equal(t, authz.Revoked, got, "after healing")
			assert.Greaterf(t, f.asof.Load(), asof, "after healing: %v", got)
		})
	}
}

func TestFollowerReloadsAndAdds(t *testing.T) {
	t.Parallel()
	for name, knob := range map[string]func(*fakeFeed){
		"epoch": func(f *fakeFeed) { f.epoch = "b" },
		"xmax":  func(f *fakeFeed) { f.xmax = 11 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, feed, clock := newTestFollower(t)
			feed.commit(entry(1), entry(2))
			sync1(t, f)
			clock.advance(time.Second)
			feed.set(func(f *fakeFeed) {
				f.rows = []authz.Row{{Entry: entry(3), XID: 10}} // another history, with a smaller counter
				f.calls = nil
				knob(f)
			})
			sync1(t, f)
			calls := feed.asked()
			if assert.Len(t, calls, 2, "asked") {
				if assert.Equalf(t, uint64(11), calls[0].Last, "asked %+v", calls) {
					if assert.Zerof(t, calls[1].Last, "asked %+v", calls) {
						assert.Emptyf(t, calls[1].Epoch, "asked %+v", calls)
					}
				}
			}
			for i := 1; i <= 3; i++ {
				assert.Equalf(t, authz.Revoked, lookup(t, f, query(entry(i).Key)), "entry %d", i)
			}
			if f.seconds() != 0 {
				t.Errorf("staleness %v after the reload", f.seconds())
			}
		})
	}
}

func TestFollowerCountsFromBeforeTheQuestion(t *testing.T) {
	t.Parallel()
	f, feed, clock := newTestFollower(t)
	feed.set(func(f *fakeFeed) {
		f.during = func(context.Context) error { clock.advance(31 * time.Second); return nil }
	})
	sync1(t, f)
	assert.Equal(t, authz.Unknown, lookup(t, f, query(entry(1).Key)), "the answer took 31 s, but")
	feed.set(func(f *fakeFeed) {
		f.during = func(context.Context) error { clock.advance(10 * time.Second); return nil }
	})
	sync1(t, f)
	assert.Equal(t, float64(10), f.seconds(), "staleness, want 10s")
}

func TestFollowerClocks(t *testing.T) {
	t.Parallel()
	step := func(c *fakeClock, wall, boot time.Duration) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wall, c.boot = c.wall.Add(wall), c.boot+boot
	}
	for name, c := range map[string]struct {
		wall, boot time.Duration
		want       authz.Verdict
	}{
		"wall clock an hour on":       {time.Hour, time.Second, authz.NotRevoked},
		"wall clock an hour back":     {-time.Hour, time.Second, authz.NotRevoked},
		"suspended for an hour":       {time.Hour, time.Hour, authz.Unknown},
		"suspended, wall clock stood": {0, time.Hour, authz.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _, clock := newTestFollower(t)
			sync1(t, f)
			step(clock, c.wall, c.boot)
			assert.Equal(t, c.want, lookup(t, f, query(entry(1).Key)))
			sync1(t, f)
			assert.Equal(t, authz.NotRevoked, lookup(t, f, query(entry(1).Key)), "after the next sync")
		})
	}
}

func TestFollowerDropsByBothClocks(t *testing.T) {
	t.Parallel()
	const over = time.Hour + time.Duration(dropAfter)*time.Second + time.Second // entry(1) may go after it
	for name, c := range map[string]struct {
		here, there time.Duration
		kept        bool
	}{
		"both later":                {over, over, false},
		"stepped forward here":      {over, 0, true},
		"stepped forward there":     {0, authz.MaxClockLag, true},
		"here a little behind":      {over - 2*time.Second, over, true},
		"there a little behind":     {over, over - 2*time.Second, true},
		"neither":                   {over - 2*time.Second, over - 2*time.Second, true},
		"both, the authority ahead": {over, over + time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, feed, clock := newTestFollower(t)
			feed.commit(entry(1))
			sync1(t, f)
			clock.mu.Lock()
			clock.wall, clock.boot = clock.wall.Add(c.here), clock.boot+2*time.Minute
			clock.mu.Unlock()
			feed.set(func(f *fakeFeed) { f.skew = c.there - c.here })
			sync1(t, f)
			assert.Equal(t, c.kept, f.replica.Len() == 1, "kept")
		})
	}
}

func TestFollowerReloadsWhenTheWallClockGoesBackBehindWhatWasDropped(t *testing.T) {
	t.Parallel()
	f, feed, clock := newTestFollower(t)
	feed.commit(entry(1), authz.Entry{Key: entry(2).Key, NotBefore: authz.Always, Expires: now32 + 1<<20})
	sync1(t, f)
	clock.advance(2 * time.Hour)
	sync1(t, f)
	require.Equal(t, int64(1), f.replica.Len(), "not dropped")
	step := func(d time.Duration) {
		clock.mu.Lock()
		defer clock.mu.Unlock()
		clock.wall = clock.wall.Add(d)
	}
	step(-2 * time.Minute) // less than entries are retained after their expiry
	sync1(t, f)
	assert.Equal(t, int64(1), f.replica.Len(), "reloaded without need")
	old := query(entry(1).Key)
	step(-time.Hour)
	for expires, want := range map[int64]authz.Verdict{
		old.Expires:                      authz.Unknown, // it had expired and is valid again
		now32 + 2*3600 - maxLeeway - 121: authz.Unknown,
		now32 + 2*3600 - maxLeeway:       authz.NotRevoked, // no entry of it can have been dropped
	} {
		q := query(entry(1).Key)
		q.Expires = expires
		if got := lookup(t, f, q); got != want {
			t.Errorf("before any sync, the token expires in %s: %v, want %v", time.Duration(expires-clock.Now().Unix())*time.Second, got, want)
		}
	}
	feed.set(func(f *fakeFeed) { f.skew, f.err = 0, errors.New("away") })
	require.Error(t, f.Sync(t.Context()), "no error")
	assert.Equal(t, authz.Unknown, lookup(t, f, query(entry(3).Key)), "dropped entries may matter again, but")
	feed.set(func(f *fakeFeed) { f.err = nil })
	sync1(t, f)
	assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(1).Key)), "dropped entry after the reload")
}

func TestFollowerTakesTheStricterLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ stored, want time.Duration }{{0, 30 * time.Second}, {5 * time.Second, 5 * time.Second}, {time.Hour, 30 * time.Second}} {
		f, feed, clock := newTestFollower(t)
		feed.limits.MaxStaleness = c.stored
		sync1(t, f)
		assert.Equalf(t, c.want, time.Duration(f.maxStaleness.Load()), "stored %v: bound", c.stored)
		clock.advance(c.want + 1)
		assert.Equalf(t, authz.Unknown, lookup(t, f, query(entry(1).Key)), "stored %v: beyond the bound", c.stored)
		p := f.pause(0)
		assert.LessOrEqualf(t, p, c.want*5/12, "stored %v: the next sync after %v is too late for %v", c.stored, p, c.want)
	}
	for _, c := range []struct {
		stored time.Duration
		life   int64
		want   authz.Verdict
	}{{0, 24 * 3600, authz.NotRevoked}, {time.Hour, 3600, authz.NotRevoked}, {time.Hour, 2 * 3600, authz.Unknown}, {48 * time.Hour, 25 * 3600, authz.Unknown}} {
		f, feed, _ := newTestFollower(t)
		feed.limits.MaxTokenTTL = c.stored
		sync1(t, f)
		q := query(entry(1).Key)
		q.Expires = q.IssuedAt + c.life
		assert.Equalf(t, c.want, lookup(t, f, q), "max_token_ttl %v in the store, token lives %ds", c.stored, c.life)
	}
}

// About a token that was issued before max_token_ttl was raised, and lives
// longer than was allowed then, the absence of a revocation says nothing.
func TestFollowerKnowsOfARaise(t *testing.T) {
	t.Parallel()
	const hour, minute = 3600, 60
	for _, c := range []struct {
		issued, life int64 // from the raise; seconds
		want         authz.Verdict
	}{
		{-hour, hour, authz.NotRevoked},
		{-hour, 2 * hour, authz.Unknown},
		{minute, 2 * hour, authz.Unknown}, // an issuer whose clock is ahead
		{2 * minute, 2 * hour, authz.NotRevoked},
		{2 * minute, 5 * hour, authz.Unknown},
		{-hour, 5 * hour, authz.Unknown},
	} {
		f, feed, clock := newTestFollower(t)
		feed.limits = authz.Snapshot{MaxTokenTTL: 4 * time.Hour, RaisedFrom: time.Hour, Raised: clock.Now().Unix()}
		sync1(t, f)
		q := query(entry(1).Key)
		q.IssuedAt = feed.limits.Raised + c.issued
		q.Expires = q.IssuedAt + c.life
		assert.Equalf(t, c.want, lookup(t, f, q), "issued %d s after the raise, lives %d s", c.issued, c.life)
	}
}

// TestLookupOrder fails if the tier does not read asof, look up, and read the
// clock in this order.
func TestLookupOrder(t *testing.T) {
	t.Parallel()
	t.Run("asof is read before the lookup", func(t *testing.T) {
		t.Parallel()
		f, feed, clock := newTestFollower(t)
		sync1(t, f)
		clock.advance(31 * time.Second)
		// During the lookup a sync brings the revocation and fresh proof.
		hook(f).looked = sync.OnceFunc(func() {
			feed.commit(entry(1))
			sync1(t, f)
		})
		v, _ := NewReplicaTier(f).evaluate(query(entry(1).Key))
		assert.NotEqual(t, authz.NotRevoked, v, "proof from after the lookup was used for it")
		v, _ = NewReplicaTier(f).evaluate(query(entry(1).Key))
		assert.Equal(t, authz.Revoked, v, "next")
	})
	t.Run("the clock is read after the lookup", func(t *testing.T) {
		t.Parallel()
		f, _, clock := newTestFollower(t)
		sync1(t, f)
		hook(f).looked = func() { clock.advance(31 * time.Second) } // suspended meanwhile
		v, _ := NewReplicaTier(f).evaluate(query(entry(1).Key))
		assert.NotEqual(t, authz.NotRevoked, v, "the duration of the lookup was not counted")
	})
	t.Run("the limits are read before the lookup", func(t *testing.T) {
		t.Parallel()
		f, feed, clock := newTestFollower(t, func(c *RevocationConfig) { c.MaxStaleness = time.Minute })
		feed.set(func(f *fakeFeed) { f.limits.MaxStaleness = 30 * time.Second })
		sync1(t, f)
		clock.advance(31 * time.Second)
		// After the lookup a sync brings a revocation, and the higher limit that was
		// set after it; its proof is not published yet.
		hook(f).looked = sync.OnceFunc(func() {
			asof := f.asof.Load()
			feed.commit(entry(1))
			feed.set(func(f *fakeFeed) { f.limits.MaxStaleness = time.Minute })
			sync1(t, f)
			f.asof.Store(asof)
		})
		v, _ := NewReplicaTier(f).evaluate(query(entry(1).Key))
		assert.NotEqual(t, authz.NotRevoked, v, "a limit from after the lookup was used for it")
	})
	t.Run("dropped is read after the lookup", func(t *testing.T) {
		t.Parallel()
		f, feed, clock := newTestFollower(t)
		feed.commit(entry(1))
		sync1(t, f)
		clock.advance(2 * time.Hour)
		sync1(t, f) // drops the entry
		clock.mu.Lock()
		clock.wall = clock.wall.Add(-2 * time.Hour)
		clock.mu.Unlock()
		tries := 0
		hook(f).looked = func() {
			// During the lookup a sync finds that the clock went back and reloads
			// everything.
			if tries++; tries == 1 {
				clock.advance(time.Millisecond)
				feed.set(func(f *fakeFeed) { f.skew = 0 })
				sync1(t, f)
			}
		}
		v, _ := NewReplicaTier(f).evaluate(query(entry(1).Key))
		assert.Equalf(t, authz.Revoked, v, "%v at try %d", v, tries)
		assert.Equalf(t, 2, tries, "%v at try %d", v, tries)
	})
	t.Run("asof is published after the rows", func(t *testing.T) {
		t.Parallel()
		f, feed, clock := newTestFollower(t)
		sync1(t, f)
		clock.advance(31 * time.Second)
		feed.commit(entry(1))
		hook(f).adding = func() {
			v, _ := NewReplicaTier(f).evaluate(query(entry(1).Key))
			assert.NotEqual(t, authz.NotRevoked, v, "fresh before the rows were added")
		}
		sync1(t, f)
	})
}

// Whoever waits for revocations hears of every way by which one becomes known, once it
// can be looked up, and of nothing else.
func TestFollowerTellsOfRevocations(t *testing.T) {
	t.Parallel()
	f, feed, _ := newTestFollower(t)
	told := func(n int) bool {
		select {
		case <-f.Revoked():
			assert.Equal(t, authz.Revoked, lookup(t, f, query(entry(n).Key)), "told before it can be looked up")
			return true
		default:
			return false
		}
	}
	sync1(t, f)
	assert.False(t, told(0), "nothing was read")
	feed.commit(entry(1))
	sync1(t, f)
	assert.True(t, told(1), "a sync")
	sync1(t, f)
	assert.False(t, told(0), "nothing is new")
	f.Learn([]authz.Entry{entry(2)}, true)
	assert.True(t, told(2), "a message")
	own := authz.Revocation{Kind: authz.KindJTI, Issuer: "https://issuer.example", Value: "own", ExpiresAt: time.Now().Add(time.Hour)}
	f.Add([]authz.Revocation{own})
	f.Add([]authz.Revocation{own})
	<-f.Revoked()
	assert.Equal(t, authz.Revoked, lookup(t, f, query(own.Key())))
	assert.False(t, told(0), "two arrived together")
	feed.commit(entry(3), entry(4))
	feed.err, feed.after = errors.New("the connection broke"), 1
	require.Error(t, f.Sync(t.Context()))
	assert.True(t, told(3), "a sync that failed after its first row")
}
