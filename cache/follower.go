package cache

import (
	"cmp"
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

// Follower keeps a Replica in step with the store and knows how fresh it is. It
// follows by an anchored watermark (authz.Position). First the rows of a reading
// are added, then the position moves, and only then the replica counts as fresh
// as of the moment before the reading began. A revocation is never removed
// because the store no longer returns it.
type Follower struct {
	feed    authz.Feed
	replica revocationSet // a *Replica
	clock   authz.Clock
	config  RevocationConfig
	log     *slog.Logger
	metrics *followerMetrics
	jitter  func() float64 // in [0, 1)

	// asof is Clock.Boot in nanoseconds before the newest reading of the feed that
	// proves freshness began: every revocation committed by then is in the
	// replica. never: there is none yet.
	asof         atomic.Int64
	maxStaleness atomic.Int64                     // effective max_staleness in nanoseconds
	tokens       atomic.Pointer[authz.TokenLimit] // effective; never nil
	loaded       atomic.Bool                      // there has been a complete load
	// dropped is in Unix seconds. Entries that expired dropAfter before it may have
	// been dropped. It rises before they are dropped, and falls only while the
	// replica does not count as fresh.
	dropped     atomic.Int64
	provisional provisional

	// Used only by the goroutine that syncs.
	position  authz.Position
	swept     time.Duration // boot time of the last sweep
	fullTries int           // full loads in a row that were given up for silence
	silent    int           // syncs in a row that were
	added     bool          // the sync has added revocations

	revoked chan struct{} // see Revoked
	syncs   syncState
	await   func(ctx context.Context, ended <-chan struct{}) bool // waits for a sync to end
}

const never = math.MinInt64

// revocationSet is the part of a Replica that a follower needs. Tests wrap it to
// check that the steps happen in the order that the proof needs.
type revocationSet interface {
	Add(authz.Entry)
	Revokes(keys []authz.Key, iat int64) bool
	Sweep(now int64, n int) (dropped int64)
	Len() int64
	Bytes() int64
}

var _ revocationSet = (*Replica)(nil)

// FollowerOptions are a Follower's settings and dependencies.
type FollowerOptions struct {
	Config   RevocationConfig
	Clock    authz.Clock           // nil: authz.SystemClock
	Logger   *slog.Logger          // nil: nothing is logged
	Registry prometheus.Registerer // nil: no metrics
}

// NewFollower returns a follower that fills r from feed once Run is called.
func NewFollower(feed authz.Feed, r *Replica, o FollowerOptions) *Follower {
	f := &Follower{
		feed: feed, replica: r, config: o.Config,
		clock: cmp.Or(o.Clock, authz.Clock(authz.SystemClock{})), log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
		syncs:   syncState{now: syncSnapshot{next: make(chan struct{})}, wake: make(chan struct{}, 1), soon: make(chan struct{}, 1)},
		revoked: make(chan struct{}, 1),
		jitter:  mrand.Float64, await: awaitSync,
	}
	f.asof.Store(never)
	f.maxStaleness.Store(int64(o.Config.MaxStaleness))
	f.tokens.Store(&authz.TokenLimit{Max: o.Config.MaxTokenTTL})
	f.metrics = newFollowerMetrics(o.Registry, f)
	return f
}

// Errors of a sync whose answer proves nothing, and of one without an answer.
var (
	errReused   = errors.New("the answer carries the nonce of another question: something in between caches answers")
	errUnproven = errors.New("the answer is not from the primary, or not from a snapshot of its own, so it proves no freshness")
	errBehind   = errors.New("the wall clock is so far behind the store's that the store may have deleted revocations that still matter here")
	errSilent   = errors.New("no answer from the store within sync_timeout")
)

// Sync reads the store's changes once. It returns nil when the replica is proven
// fresh as of the call. Calls must not overlap. Run calls it.
func (f *Follower) Sync(ctx context.Context) error {
	f.syncs.begin()
	start := f.clock.Boot()
	err := f.sync(ctx)
	f.metrics.synced(err, f.clock.Boot()-start)
	f.syncs.end(err)
	if f.added { // also after an error
		f.added = false
		request(f.revoked)
	}
	return err
}

// add adds a revocation that a sync has read.
func (f *Follower) add(e authz.Entry) {
	f.replica.Add(e)
	f.added = true
}

func (f *Follower) sync(ctx context.Context) error {
	again, err := f.read(ctx, true)
	if again {
		again, err = f.read(ctx, true) // from the start
	}
	if again {
		_, err = f.read(ctx, false) // row by row, which fits every history
	}
	return err
}

// read reads the feed once. again means that everything must be read, because the
// position belongs to another history. packed allows it to begin with a packed
// snapshot.
func (f *Follower) read(ctx context.Context, packed bool) (again bool, err error) {
	if now := f.clock.Now().Unix(); now < f.dropped.Load()-dropAfter/2 {
		f.log.Warn("the wall clock went back; reloading revocations that were dropped as expired",
			"seconds", f.dropped.Load()-now)
		f.asof.Store(never)
		f.dropped.Store(now)
		f.restart("clock")
	}
	if packed && f.fromStart() {
		if err := f.unpack(ctx); err != nil {
			return false, err
		}
	}
	mark := f.provisional.mark() // also before the question is sent: what a message names was committed before
	began := f.clock.Boot()      // before the question is sent; the proof rests on it
	nonce := rand.Text()
	var highest uint64
	snap, err := f.changes(ctx, nonce, func(row authz.Row) {
		f.add(row.Entry)
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
	f.asof.Store(max(f.asof.Load(), int64(began))) // after the rows: a reader that sees it sees them
	f.provisional.confirmed(mark)                  // after the rows, too: a token that was denied stays so
	return false, nil
}

// fromStart reports whether the next reading is a full load.
func (f *Follower) fromStart() bool { return f.position.Epoch == "" && f.position.Last == 0 }

// restart makes the next reading a full load. The replica keeps its entries:
// rows are added, never replaced.
func (f *Follower) restart(cause string) {
	f.position = authz.Position{}
	f.metrics.reloads.WithLabelValues(cause).Inc()
}

// advance moves the watermark to the highest id received, with the ids at or
// below it that were running at the snapshot. A row of a transaction that had not
// begun by then cannot be in the snapshot. Should a feed deliver one, the
// watermark stays, and everything above it is read again.
func (f *Follower) advance(highest uint64, snap authz.Snapshot) {
	if highest < snap.Xmax {
		f.position.Last = max(f.position.Last, highest)
	}
	f.position.Open = slices.DeleteFunc(slices.Clone(snap.Open), func(id uint64) bool { return id > f.position.Last })
}

// limits applies the store's limits where they are stricter.
func (f *Follower) limits(snap authz.Snapshot) {
	maxStaleness, tokens := f.config.MaxStaleness, snap.TokenLimit()
	if snap.MaxStaleness > 0 {
		maxStaleness = min(maxStaleness, snap.MaxStaleness)
	}
	if own := f.config.MaxTokenTTL; tokens.Max <= 0 || tokens.Max > own {
		tokens.Max = own
	}
	f.maxStaleness.Store(int64(maxStaleness))
	f.tokens.Store(&tokens)
}

// sweep drops entries that expired more than dropAfter ago by both clocks, the
// store's and the wall clock here. If one of them is stepped forward alone, no
// entry may vanish that matters once it is stepped back.
func (f *Follower) sweep(wall, store time.Time, now time.Duration) {
	if store.IsZero() || store.Year() < 2000 {
		return
	}
	share := float64(now-f.swept) / float64(f.config.SweepInterval) * replicaShards
	if share < 1 {
		return
	}
	f.swept = now
	t := min(wall.Unix(), store.Unix())
	before := f.dropped.Load()
	f.dropped.Store(max(before, t))
	if f.replica.Sweep(t, int(min(share, replicaShards))) == 0 {
		f.dropped.Store(before) // nothing was dropped
	}
}

// patience returns how long the feed may be silent. A store, or a pooler before it,
// that cannot keep up with its fleet gets more time after each silence: a question
// that is given up costs it more than one that it answers.
func (f *Follower) patience() time.Duration {
	own := f.config.SyncTimeout
	if f.fromStart() {
		return own * time.Duration(10<<min(f.fullTries, 4))
	}
	return max(own, min(own<<min(f.silent, 10), time.Duration(f.maxStaleness.Load())/3))
}

// changes reads the feed and gives up when it is silent for too long. A hanging
// connection must not hang the follower, and a load of millions of rows must not
// be cut off because it takes long.
func (f *Follower) changes(ctx context.Context, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	patience, full := f.patience(), f.fromStart()
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
	case errors.Is(context.Cause(ctx), errSilent) && err != nil:
		f.silent++
		if full {
			f.fullTries++
		}
		err = fmt.Errorf("%w: %w", errSilent, err)
	default:
		f.silent = 0
		if err == nil {
			f.fullTries = 0
		}
	}
	return snap, err
}

// syncState counts syncs and lets checks wait for the end of one.
type syncState struct {
	mu   sync.Mutex
	now  syncSnapshot
	wake chan struct{} // requests a sync from Run
	soon chan struct{} // requests one that need not begin at once
}

// syncSnapshot is a syncState at one moment.
type syncSnapshot struct {
	begun, ended uint64
	failed       int           // failed syncs in a row
	err          error         // of the last sync that ended
	next         chan struct{} // closed when the next sync ends
}

func (s *syncState) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.begun++
}

func (s *syncState) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.ended, s.now.err = s.now.begun, err
	if s.now.failed++; err == nil {
		s.now.failed = 0
	}
	close(s.now.next)
	s.now.next = make(chan struct{})
}

// request asks Run for a sync. It never blocks.
func (s *syncState) request() { request(s.wake) }

func request(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // requested already
	}
}

func (s *syncState) snapshot() syncSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}
