package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// Follower keeps a Replica in step with the authority and says how fresh it
// is. It follows by an anchored watermark (authz.Position): what a reading of
// the feed returned is added first, then the position moves, and only then,
// last, the replica is called fresh as of the moment before the reading began.
// Nothing is ever taken away because the authority no longer names it.
type Follower struct {
	feed    authz.Feed
	replica holder // a *Replica
	clock   authz.Clock
	config  RevocationConfig
	log     *slog.Logger
	metrics *followerMetrics
	jitter  func() float64 // in [0, 1)

	// asof is Boot() in nanoseconds as read before the newest reading of the
	// feed that proves freshness was begun: every revocation committed by then
	// is in the replica. never: none yet.
	asof   atomic.Int64
	bound  atomic.Int64                     // effective max_staleness in nanoseconds
	tokens atomic.Pointer[authz.TokenLimit] // effective; never nil
	loaded atomic.Bool                      // there has been a complete load
	// dropped is in Unix seconds: entries that expired dropAfter before it may
	// be gone. It is raised before they go, and lowered only while nothing is
	// called fresh.
	dropped atomic.Int64

	// Of the goroutine that syncs.
	position  authz.Position
	swept     time.Duration
	fullTries int // full loads given up for silence, in a row

	turn  turnstile
	await func(ctx context.Context, ended <-chan struct{}) bool // waits for a sync to end
}

const never = math.MinInt64

// holder is what a follower needs of its Replica. Tests put themselves in
// between to hold the order of steps to what the proof needs.
type holder interface {
	Add(authz.Entry)
	Revokes(keys []authz.Key, iat int64) bool
	Sweep(now int64, n int) (dropped int64)
	Len() int64
	Bytes() int64
}

var _ holder = (*Replica)(nil)

// FollowerOptions are what a Follower needs from outside.
type FollowerOptions struct {
	Config   RevocationConfig
	Clock    authz.Clock           // nil: the system's
	Logger   *slog.Logger          // nil: discarded
	Registry prometheus.Registerer // nil: not registered
}

// NewFollower returns a follower that fills r from feed once Run is called.
func NewFollower(feed authz.Feed, r *Replica, o FollowerOptions) *Follower {
	f := &Follower{feed: feed, replica: r, clock: o.Clock, config: o.Config, log: o.Logger, jitter: mrand.Float64, await: awaitSync}
	if f.clock == nil {
		f.clock = authz.SystemClock{}
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.asof.Store(never)
	f.bound.Store(int64(o.Config.MaxStaleness))
	f.tokens.Store(&authz.TokenLimit{Max: o.Config.MaxTokenTTL})
	f.turn.init()
	f.metrics = newFollowerMetrics(o.Registry, f)
	return f
}

// Errors of a sync that heard from the authority but may not rely on it.
var (
	errReused   = errors.New("the answer carries another question's nonce: something between caches answers")
	errUnproven = errors.New("the answer is not from the primary, or not from a snapshot of its own: it proves no freshness")
	errBehind   = errors.New("the wall clock is so far behind the store's that the store may have deleted revocations that still matter here")
	errSilent   = errors.New("no answer from the store within sync_timeout")
)

// Sync reads the authority's changes once. It returns nil when the replica is
// proven fresh as of the call. Calls must not overlap; Run makes them.
func (f *Follower) Sync(ctx context.Context) error {
	f.turn.begin()
	start := f.clock.Boot()
	err := f.sync(ctx)
	f.metrics.synced(err, f.clock.Boot()-start)
	f.turn.end(err)
	return err
}

func (f *Follower) sync(ctx context.Context) error {
	again, err := f.read(ctx)
	if again {
		_, err = f.read(ctx) // from the start, where no history can be wrong
	}
	return err
}

// read asks the feed once. again: the position was of another history, or the
// wall clock went back behind what has been dropped; everything must be read.
func (f *Follower) read(ctx context.Context) (again bool, err error) {
	if now := f.clock.Now().Unix(); now < f.dropped.Load()-dropAfter/2 {
		f.log.Warn("the wall clock went back; reloading the revocations that had been dropped as expired",
			"seconds", f.dropped.Load()-now)
		f.asof.Store(never)
		f.dropped.Store(now)
		f.restart("clock")
	}
	began := f.clock.Boot() // before the question is sent: the proof rests on it
	nonce := rand.Text()
	var highest uint64
	snap, err := f.changes(ctx, nonce, func(row authz.Row) {
		f.replica.Add(row.Entry)
		highest = max(highest, row.XID)
	})
	switch {
	case err != nil:
		return false, err
	case snap.Nonce != nonce:
		return false, errReused
	case !snap.Proves:
		return false, errUnproven
	case f.fromStart():
		f.position.Epoch = snap.Epoch
	case snap.Epoch != f.position.Epoch:
		f.log.Warn("the store's epoch changed; reloading", "from", f.position.Epoch, "to", snap.Epoch)
		f.restart("epoch")
		return true, nil
	case snap.Xmax <= f.position.Last:
		f.log.Warn("the store's transaction ids went back; reloading", "last", f.position.Last, "xmax", snap.Xmax)
		f.restart("xmax")
		return true, nil
	}
	f.advance(highest, snap)
	f.limits(snap)
	wall := f.clock.Now()
	if !snap.Clock.IsZero() && snap.Clock.Sub(wall) > authz.MaxClockLag {
		return false, errBehind
	}
	f.sweep(wall, snap.Clock, began)
	f.loaded.Store(true)
	f.asof.Store(max(f.asof.Load(), int64(began))) // last: whoever sees it sees the rows
	return false, nil
}

// fromStart reports whether the next reading asks for everything.
func (f *Follower) fromStart() bool { return f.position.Epoch == "" && f.position.Last == 0 }

// restart makes the next reading ask for everything. What the replica holds
// stays: rows are added, never replaced.
func (f *Follower) restart(why string) {
	f.position = authz.Position{}
	f.metrics.reloads.WithLabelValues(why).Inc()
}

// advance moves the watermark: to the highest id received, with the ids at or
// below it that had not ended by the snapshot. A row of a transaction that had
// not begun by then cannot be in the snapshot; should a feed deliver one, the
// watermark stays, and everything above it comes again.
func (f *Follower) advance(highest uint64, snap authz.Snapshot) {
	if highest < snap.Xmax {
		f.position.Last = max(f.position.Last, highest)
	}
	f.position.Open = slices.DeleteFunc(slices.Clone(snap.Open), func(id uint64) bool { return id > f.position.Last })
}

// limits applies the fleet-wide limits where they are stricter.
func (f *Follower) limits(snap authz.Snapshot) {
	bound, tokens := f.config.MaxStaleness, snap.TokenLimit()
	if snap.MaxStaleness > 0 {
		bound = min(bound, snap.MaxStaleness)
	}
	if own := f.config.MaxTokenTTL; tokens.Max <= 0 || tokens.Max > own {
		tokens.Max = own
	}
	f.bound.Store(int64(bound))
	f.tokens.Store(&tokens)
}

// sweep drops what expired more than dropAfter ago by both clocks, the
// authority's and the wall clock here: one that was stepped forward alone must
// not make entries vanish that matter once it is stepped back.
func (f *Follower) sweep(wall, authority time.Time, now time.Duration) {
	if authority.IsZero() || authority.Year() < 2000 {
		return
	}
	share := float64(now-f.swept) / float64(f.config.SweepInterval) * replicaShards
	if share < 1 {
		return
	}
	f.swept = now
	t := min(wall.Unix(), authority.Unix())
	before := f.dropped.Load()
	f.dropped.Store(max(before, t))
	if f.replica.Sweep(t, int(min(share, replicaShards))) == 0 {
		f.dropped.Store(before) // nothing is missing
	}
}

// changes asks the feed, giving up when it is silent for too long. A wedged
// connection must not wedge the follower, and a load of millions of rows must
// not be cut off because it takes long.
func (f *Follower) changes(ctx context.Context, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	patience := f.config.SyncTimeout
	full := f.fromStart()
	if full {
		patience *= time.Duration(10 << min(f.fullTries, 4))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer watchdog.Stop()
	n := 0
	snap, err := f.feed.Changes(ctx, f.position, nonce, func(r authz.Row) {
		if n++; n%1024 == 1 {
			watchdog.Reset(patience)
		}
		row(r)
	})
	f.metrics.rows.Add(float64(n))
	switch {
	case err == nil:
		f.fullTries = 0
	case errors.Is(context.Cause(ctx), errSilent):
		if full {
			f.fullTries++
		}
		err = fmt.Errorf("%w: %w", errSilent, err)
	}
	return snap, err
}

// turnstile counts syncs and lets others wait for one to end.
type turnstile struct {
	mu     sync.Mutex
	begun  uint64
	ended  uint64
	failed int           // syncs that failed, in a row
	err    error         // of the last sync that ended
	next   chan struct{} // closed when a sync ends
	wake   chan struct{} // asks Run for a sync now
}

func (t *turnstile) init() {
	t.next = make(chan struct{})
	t.wake = make(chan struct{}, 1)
}

func (t *turnstile) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun++
}

func (t *turnstile) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended, t.err = t.begun, err
	if t.failed++; err == nil {
		t.failed = 0
	}
	close(t.next)
	t.next = make(chan struct{})
}

func (t *turnstile) ask() {
	select {
	case t.wake <- struct{}{}:
	default: // asked for already
	}
}

// tally is a turnstile's state at one moment.
type tally struct {
	begun, ended uint64
	failed       int
	err          error
	next         <-chan struct{}
}

func (t *turnstile) state() tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tally{t.begun, t.ended, t.failed, t.err, t.next}
}
