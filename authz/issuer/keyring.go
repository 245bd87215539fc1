package issuer

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// Bounds on what a token with an unknown kid can cause.
const (
	maxKeyWait     = 100 * time.Millisecond // that its check waits for a fetch
	maxKeyWaiters  = 256                    // checks that wait at once; others are told at once that it is not known yet
	unknownKIDTTL  = 15 * time.Second       // for which a kid found missing causes no fetch
	maxUnknownKIDs = 1024                   // remembered as missing
)

// KeyRing holds one issuer's keys and keeps them fresh: at intervals in the
// background, and when a token names a key it does not have. A failed fetch
// changes nothing: the last good keys stay until they are too old.
type KeyRing struct {
	cfg    Config
	source keySource
	clock  authz.Clock
	log    *slog.Logger
	slot   uint64 // the issuer's place in generations

	// generation of the keys in use; 0: there are none. It changes when a key
	// is withdrawn or gets a further name, not when one is added.
	generation atomic.Uint64
	state      atomic.Pointer[ringState] // nil: no keys
	waiters    atomic.Int32

	base       context.Context // ends with the verifier
	background *authz.Background

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
	set        *jose.KeySet
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
// little, at most until ctx ends. While the fetch is under way nobody can say
// that the issuer does not have the key; once it has ended, in whatever way,
// the keys at hand decide. They also decide while the last fetch has failed:
// during an outage a made-up kid is not worth a "come back later".
func (r *KeyRing) key(ctx context.Context, h jose.Header) (*jose.PublicKey, uint64, *authz.Failure) {
	st := r.state.Load()
	if st == nil {
		_ = r.await(ctx, r.ask())
		if st = r.state.Load(); st == nil {
			return nil, 0, &authz.Failure{Reason: authz.ReasonKeysUnavailable, Detail: "the issuer's keys could not be fetched yet"}
		}
	}
	k, known := st.set.Find(h)
	if k == nil && !known {
		ended := r.await(ctx, r.askFor(h.Kid))
		if st = r.state.Load(); st == nil {
			return nil, 0, &authz.Failure{Reason: authz.ReasonKeysUnavailable, Detail: "the issuer's keys have become too old"}
		}
		if k, known = st.set.Find(h); k == nil && !known && !ended && !r.failing() {
			return nil, 0, &authz.Failure{Reason: authz.ReasonKeysUnavailable, Detail: "the issuer is still being asked for a key with kid " + authz.QuoteShort(h.Kid)}
		}
	}
	switch {
	case k != nil:
		return k, st.generation, nil
	case !known:
		return nil, 0, &authz.Failure{Reason: authz.ReasonUnknownKey, Settled: r.settled(), Detail: "the issuer has no usable key with kid " + authz.QuoteShort(h.Kid)}
	case h.Keyed:
		return nil, 0, &authz.Failure{Reason: authz.ReasonUnknownKey, Settled: r.settled(), Detail: "the key with kid " + authz.QuoteShort(h.Kid) + " is not for alg " + h.Alg}
	default:
		return nil, 0, &authz.Failure{Reason: authz.ReasonUnknownKey, Settled: r.settled(), Detail: "the token names no kid, and not exactly one key fits alg " + h.Alg}
	}
}

// settled reports whether the keys have been fetched so lately that an unknown
// kid would cause no fetch.
func (r *KeyRing) settled() bool {
	st := r.state.Load()
	return st != nil && !r.failing() && r.clock.Boot()-time.Duration(st.confirmed.Load()) <= unknownKIDTTL
}

func (r *KeyRing) failing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastFail != ""
}

// held finds the key for a token's header among those at hand; nil: it is not.
func (r *KeyRing) held(h jose.Header) *jose.PublicKey {
	st := r.state.Load()
	if st == nil {
		return nil
	}
	k, _ := st.set.Find(h)
	return k
}

// await waits for a flight (nil: none), within bounds, and reports whether it
// has ended.
func (r *KeyRing) await(ctx context.Context, f *flight) (ended bool) {
	if f == nil {
		return true
	}
	defer r.waiters.Add(-1)
	if r.waiters.Add(1) > maxKeyWaiters {
		return false
	}
	timer := time.NewTimer(maxKeyWait)
	defer timer.Stop()
	select {
	case <-f.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
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

// askFor is ask for the sake of a kid. One that a fetch did not find causes none
// for a while; who comes while one is under way joins it, and is remembered
// only by a fetch of its own: this one may have begun before the key was
// published.
func (r *KeyRing) askFor(kid string) *flight {
	sum := maphash.String(r.seed, kid)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil {
		return r.flight
	}
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
