package issuer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"time"

	"jwtbouncer/authz/jose"
)

// Pace of the refresher.
const (
	filePollInterval = 2 * time.Second
	firstRetry       = 500 * time.Millisecond
	maxRetry         = 30 * time.Second
)

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
	r.flight = f
	started := r.background.Start(func() {
		f.err = r.loadSafely()
		r.mu.Lock()
		r.flight = nil
		if f.err != nil {
			clear(r.unknown) // nothing was found out about the kid it was for
		}
		r.mu.Unlock()
		close(f.done)
	})
	if !started {
		r.flight = nil
		f.err = context.Canceled
		close(f.done)
	}
	return f
}

// loadSafely keeps a defect in reading foreign documents from ending the
// process: it is a failed fetch.
func (r *KeyRing) loadSafely() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while reading the keys: %T", p)
			r.counts.failed.Add(1)
			r.note(err.Error())
		}
	}()
	return r.load()
}

func (r *KeyRing) load() error {
	document, err := r.source.fetch(r.base)
	var set *jose.KeySet
	sum := sha256.Sum256(document)
	if err == nil {
		if st := r.state.Load(); st != nil && st.sum == sum {
			r.confirm(st)
			return nil
		}
		set, err = jose.ParseJWKS(document)
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

func (r *KeyRing) install(set *jose.KeySet, sum [sha256.Size]byte) {
	old := r.state.Load()
	next := &ringState{set: set, sum: sum}
	switch {
	case old == nil:
		next.generation = r.nextGeneration()
	case set.Keeps(old.set):
		next.generation = old.generation
	default:
		next.generation = r.nextGeneration()
		r.counts.withdrawn.Add(1)
		r.log.Info("a signing key was withdrawn or changed; tokens verified with the old keys are verified again")
	}
	r.counts.refused.Store(int64(len(set.Refused())))
	for i, k := range set.Refused() {
		if i == 10 {
			r.log.Warn("further members of the key set refused", "count", len(set.Refused())-i)
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
	r.log.Info("signing keys loaded", "keys", set.Len(), "refused", len(set.Refused()))
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
