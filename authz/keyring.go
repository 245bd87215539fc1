package authz

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on what a token with an unknown kid can cause.
const (
	maxKeyWait     = 100 * time.Millisecond // that its check waits for a fetch
	maxKeyWaiters  = 64                     // checks that wait at once; others are answered from what is known
	unknownKIDTTL  = 15 * time.Second       // for which a kid found missing causes no fetch
	maxUnknownKIDs = 1024                   // remembered as missing
)

// Pace of the refresher.
const (
	filePollInterval = 2 * time.Second
	firstRetry       = 500 * time.Millisecond
	maxRetry         = 30 * time.Second
)

// KeyRing holds one issuer's keys and keeps them fresh: at intervals in the
// background, and when a token names a key it does not have. A failed fetch
// changes nothing: the last good keys stay until they are too old.
type KeyRing struct {
	cfg    IssuerConfig
	source keySource
	clock  Clock
	log    *slog.Logger
	slot   uint64 // the issuer's place in generations

	// generation of the keys in use; 0: there are none. It changes when a key
	// is withdrawn, not when one is added.
	generation atomic.Uint64
	state      atomic.Pointer[ringState] // nil: no keys
	waiters    atomic.Int32

	base context.Context // ends with the verifier
	wg   *sync.WaitGroup

	mu       sync.Mutex
	flight   *flight                  // the fetch under way
	nextAsk  time.Duration            // Clock.Boot from which a token may cause a fetch
	unknown  map[uint64]time.Duration // hash of kid → Clock.Boot until which it causes none
	lastFail string
	seed     maphash.Seed

	counts ringCounts
}

type ringCounts struct {
	refreshed, failed, withdrawn, asked, suppressed atomic.Uint64
	refused                                         atomic.Int64
}

// ringState is immutable but for the time of its last confirmation.
type ringState struct {
	set        *KeySet
	generation uint64
	sum        [sha256.Size]byte
	confirmed  atomic.Int64 // Clock.Boot of the last fetch that said the same
	wall       atomic.Int64 // the same in Unix seconds, for people
}

type flight struct {
	done chan struct{}
	err  error // valid once done is closed
}

// generations are never used twice in a process, so that a token verified by
// one verifier is not current by chance for the next (configuration reload).
var generations atomic.Uint64

const slotShift = 48

func (r *KeyRing) nextGeneration() uint64 {
	return r.slot<<slotShift | generations.Add(1)&(1<<slotShift-1)
}

// key finds the key for a token's header. With an unknown kid, or without any
// keys yet, it causes a fetch within the bounds above and waits for it a
// little, at most until ctx ends.
func (r *KeyRing) key(ctx context.Context, h joseHeader) (*publicKey, uint64, *Failure) {
	st := r.state.Load()
	if st == nil {
		r.await(ctx, r.ask())
		if st = r.state.Load(); st == nil {
			return nil, 0, &Failure{Reason: ReasonKeysUnavailable, Detail: "the issuer's keys could not be fetched yet"}
		}
	}
	k, known := st.set.find(h)
	if k == nil && !known {
		r.await(ctx, r.askFor(h.kid))
		if st = r.state.Load(); st == nil {
			return nil, 0, &Failure{Reason: ReasonKeysUnavailable, Detail: "the issuer's keys have become too old"}
		}
		k, known = st.set.find(h)
	}
	switch {
	case k != nil:
		return k, st.generation, nil
	case !known:
		return nil, 0, &Failure{Reason: ReasonUnknownKey, Detail: "the issuer has no usable key with kid " + quoteShort(h.kid)}
	case h.keyed:
		return nil, 0, &Failure{Reason: ReasonUnknownKey, Detail: "the key with kid " + quoteShort(h.kid) + " is not for alg " + h.alg}
	default:
		return nil, 0, &Failure{Reason: ReasonUnknownKey, Detail: "the token names no kid, and not exactly one key fits alg " + h.alg}
	}
}

// await waits for a flight (nil: none), within bounds.
func (r *KeyRing) await(ctx context.Context, f *flight) {
	if f == nil {
		return
	}
	if r.waiters.Add(1) > maxKeyWaiters {
		r.waiters.Add(-1)
		return
	}
	defer r.waiters.Add(-1)
	timer := time.NewTimer(maxKeyWait)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ask joins the fetch under way or starts one, unless the last one caused by
// a token was a moment ago.
func (r *KeyRing) ask() *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.askLocked()
}

func (r *KeyRing) askLocked() *flight {
	if r.flight != nil {
		return r.flight
	}
	now := r.clock.Boot()
	if now < r.nextAsk {
		r.counts.suppressed.Add(1)
		return nil
	}
	r.nextAsk = now + r.cfg.RefreshCooldown
	r.counts.asked.Add(1)
	return r.launch()
}

func (r *KeyRing) askFor(kid string) *flight {
	sum := maphash.String(r.seed, kid)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Boot()
	if until, ok := r.unknown[sum]; ok && now < until {
		r.counts.suppressed.Add(1)
		return nil
	}
	f := r.askLocked()
	if f != nil {
		if len(r.unknown) >= maxUnknownKIDs {
			clear(r.unknown)
		}
		r.unknown[sum] = now + unknownKIDTTL
	}
	return f
}

// Refresh fetches the keys now, or joins the fetch under way, and returns its
// outcome.
func (r *KeyRing) Refresh(ctx context.Context) error {
	r.mu.Lock()
	f := r.flight
	if f == nil {
		f = r.launch()
	}
	r.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// launch starts a fetch that outlives the request that caused it. r.mu is held.
func (r *KeyRing) launch() *flight {
	f := &flight{done: make(chan struct{})}
	if r.base.Err() != nil {
		f.err = context.Cause(r.base)
		close(f.done)
		return f
	}
	r.flight = f
	r.wg.Go(func() {
		f.err = r.load()
		r.mu.Lock()
		r.flight = nil
		r.mu.Unlock()
		close(f.done)
	})
	return f
}

func (r *KeyRing) load() error {
	document, err := r.source.fetch(r.base)
	var set *KeySet
	sum := sha256.Sum256(document)
	if err == nil {
		if st := r.state.Load(); st != nil && st.sum == sum {
			r.confirm(st)
			return nil
		}
		set, err = ParseJWKS(document)
	}
	if err != nil {
		r.counts.failed.Add(1)
		r.note(err.Error())
		return err
	}
	r.install(set, sum)
	return nil
}

func (r *KeyRing) confirm(st *ringState) {
	st.confirmed.Store(int64(r.clock.Boot()))
	st.wall.Store(r.clock.Now().Unix())
	r.counts.refreshed.Add(1)
	r.note("")
}

func (r *KeyRing) install(set *KeySet, sum [sha256.Size]byte) {
	old := r.state.Load()
	next := &ringState{set: set, sum: sum}
	switch {
	case old == nil:
		next.generation = r.nextGeneration()
	case set.keeps(old.set):
		next.generation = old.generation
	default:
		next.generation = r.nextGeneration()
		r.counts.withdrawn.Add(1)
		r.log.Info("a signing key was withdrawn; tokens verified with the old keys are verified again")
	}
	r.counts.refused.Store(int64(len(set.refused)))
	for i, k := range set.refused {
		if i == 10 {
			r.log.Warn("further members of the key set refused", "count", len(set.refused)-i)
			break
		}
		r.log.Warn("member of the key set refused", "index", k.Index, "reason", k.Reason)
	}
	r.confirm(next)
	r.mu.Lock() // against expire
	r.state.Store(next)
	r.generation.Store(next.generation)
	clear(r.unknown)
	r.mu.Unlock()
	r.log.Info("signing keys loaded", "keys", set.Len(), "refused", len(set.refused))
}

// expire gives the keys up when they have not been confirmed for too long, and
// returns how much longer they may be used.
func (r *KeyRing) expire() time.Duration {
	st := r.state.Load()
	if st == nil {
		return r.cfg.MaxKeyAge
	}
	left := time.Duration(st.confirmed.Load()) + r.cfg.MaxKeyAge - r.clock.Boot()
	if left > 0 {
		return left
	}
	r.mu.Lock() // against install
	if r.state.CompareAndSwap(st, nil) {
		r.generation.Store(0)
	}
	r.mu.Unlock()
	r.log.Error("signing keys given up: they could not be fetched again in time", "max_key_age", r.cfg.MaxKeyAge)
	return r.cfg.MaxKeyAge
}

// note remembers and logs a change between working and failing, once each.
func (r *KeyRing) note(failure string) {
	r.mu.Lock()
	before := r.lastFail
	r.lastFail = failure
	r.mu.Unlock()
	switch {
	case failure != "" && before == "":
		r.log.Warn("signing keys could not be fetched; trying again", "error", failure)
	case failure == "" && before != "":
		r.log.Info("signing keys can be fetched again")
	}
}

// run refreshes until ctx or the verifier ends.
func (r *KeyRing) run(ctx context.Context) {
	retry := firstRetry
	for {
		var wait time.Duration
		if err := r.Refresh(ctx); err != nil {
			wait = retry
			retry = min(2*retry, maxRetry, r.cfg.RefreshInterval)
		} else {
			retry = firstRetry
			wait = r.cfg.RefreshInterval
			if _, file := r.cfg.keyFile(); file {
				wait = min(wait, filePollInterval)
			}
		}
		wait = min(jitter(wait), r.expire())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.base.Done():
			timer.Stop()
			return
		}
		r.expire()
	}
}

// jitter spreads d by ±20 %, so that a fleet does not fetch in step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // spreads load, guards nothing
}
