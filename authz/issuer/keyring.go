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

// Bounds on the effects of tokens with an unknown kid.
const (
	maxKeyWait     = 100 * time.Millisecond // for which a check waits for a fetch
	maxKeyWaiters  = 256                    // checks that wait at once; further ones do not wait
	unknownKIDTTL  = 15 * time.Second       // for which a kid that a fetch did not find causes no fetch
	maxUnknownKIDs = 1024                   // kids remembered as unknown
)

// KeyRing holds one issuer's keys and keeps them fresh: at intervals in the
// background, and when a token names an unknown key. A failed fetch changes
// nothing: the last good keys stay in use until they are too old.
type KeyRing struct {
	cfg    Config
	limits LimitsConfig
	fetch  keySource
	clock  authz.Clock
	log    *slog.Logger
	slot   uint64 // index of the issuer, the high bits of its generations

	// generation of the keys in use; 0: there are none. It changes when a key
	// is withdrawn or gets another kid, not when a key is added.
	generation atomic.Uint64
	state      atomic.Pointer[ringState] // nil: no keys
	waiters    atomic.Int32

	base       context.Context // ends with the verifier
	background *authz.Background

	mu          sync.Mutex
	flight      *flight                  // the current fetch; nil: none
	nextRefresh time.Duration            // Clock.Boot from which a token may cause a fetch
	unknown     map[uint64]time.Duration // hash of kid → Clock.Boot until which it causes no fetch
	seed        maphash.Seed

	lastErr atomic.Value // string, of the last fetch; empty: it succeeded
	counts  ringCounts
}

type ringCounts struct {
	refreshed, failed, withdrawn, requested, suppressed atomic.Uint64
	refused                                             atomic.Int64
}

// ringState is immutable but for the time of its last confirmation.
type ringState struct {
	set        *jose.KeySet
	generation uint64
	sum        [sha256.Size]byte
	confirmed  atomic.Int64 // Clock.Boot of the last fetch of this document
}

type flight struct {
	done chan struct{}
	err  error // valid once done is closed
}

// generations are unique in the process, so that after a reload of the
// configuration no token of the old verifier is current for the new one.
var generations atomic.Uint64

const slotShift = 48

func (r *KeyRing) nextGeneration() uint64 {
	return r.slot<<slotShift | generations.Add(1)&(1<<slotShift-1)
}

// key returns the key for a token's header. If the key that it names is unknown,
// or there are no keys yet, it causes a fetch within the bounds above and waits
// for it until maxKeyWait or the end of ctx. While the fetch continues, the result is
// ReasonKeysUnavailable, because the issuer may have the key. After it, or if
// the last fetch failed, the current keys decide: an invented kid must not be
// answered with 503 during an outage.
func (r *KeyRing) key(ctx context.Context, h jose.Header) (*jose.PublicKey, uint64, *authz.Failure) {
	fail := func(reason authz.Reason, settled bool, detail string) (*jose.PublicKey, uint64, *authz.Failure) {
		return nil, 0, &authz.Failure{Reason: reason, Settled: settled, Detail: detail}
	}
	st := r.state.Load()
	if st == nil {
		_ = r.await(ctx, r.refresh())
		if st = r.state.Load(); st == nil {
			return fail(authz.ReasonKeysUnavailable, false, "the issuer's keys could not be fetched yet")
		}
	}
	k, known := st.set.Find(h)
	if k == nil && !known {
		ended := r.await(ctx, r.refreshFor(h.Kid+"\n"+h.X5T+"\n"+h.X5TS256))
		if st = r.state.Load(); st == nil {
			return fail(authz.ReasonKeysUnavailable, false, "the issuer's keys have become too old")
		}
		if k, known = st.set.Find(h); k == nil && !known && !ended && r.failure() == "" {
			return fail(authz.ReasonKeysUnavailable, false, "the keys are still being fetched to find "+h.KeyName())
		}
	}
	switch {
	case k != nil:
		return k, st.generation, nil
	case !known:
		return fail(authz.ReasonUnknownKey, r.settled(), "the issuer has no usable key with "+h.KeyName())
	case h.Kid != "":
		return fail(authz.ReasonUnknownKey, r.settled(), "the key with "+h.KeyName()+" is not for alg "+h.Alg)
	}
	return fail(authz.ReasonUnknownKey, r.settled(), "the token names its key by "+h.KeyName()+", and the number of keys for alg "+h.Alg+" is not one")
}

// settled reports whether the last fetch succeeded so recently that an unknown
// kid would cause no other.
func (r *KeyRing) settled() bool {
	st := r.state.Load()
	return st != nil && r.failure() == "" && r.clock.Boot()-time.Duration(st.confirmed.Load()) <= unknownKIDTTL
}

func (r *KeyRing) failure() string {
	text, _ := r.lastErr.Load().(string)
	return text
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

// refresh joins the current fetch or starts one. It returns nil if a token
// caused a fetch less than RefreshCooldown ago.
func (r *KeyRing) refresh() *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refreshLocked()
}

// refreshFor is refresh for a token whose key has an unknown name. It returns nil
// if a fetch that this name caused did not find it less than unknownKIDTTL ago. A
// name that only joins the current fetch is not remembered: the fetch may have
// begun before the key was published.
func (r *KeyRing) refreshFor(name string) *flight {
	sum := maphash.String(r.seed, name)
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
	f := r.refreshLocked()
	if f != nil {
		if len(r.unknown) >= maxUnknownKIDs {
			clear(r.unknown)
		}
		r.unknown[sum] = now + unknownKIDTTL
	}
	return f
}

// refreshLocked is refresh with r.mu held.
func (r *KeyRing) refreshLocked() *flight {
	if r.flight != nil {
		return r.flight
	}
	now := r.clock.Boot()
	if now < r.nextRefresh {
		r.counts.suppressed.Add(1)
		return nil
	}
	r.nextRefresh = now + r.cfg.RefreshCooldown
	r.counts.requested.Add(1)
	return r.launch()
}
