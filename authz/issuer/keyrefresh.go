package issuer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"time"

	"jwtbouncer/authz/jose"
)

// Intervals of the refresher.
const (
	filePollInterval = 2 * time.Second
	firstRetry       = 500 * time.Millisecond
	maxRetry         = 30 * time.Second
)

// Refresh fetches the keys now, or joins the current fetch, and returns its
// error.
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

// launch starts a fetch that may outlive its caller's context. r.mu is held.
func (r *KeyRing) launch() *flight {
	f := &flight{done: make(chan struct{})}
	r.flight = f
	started := r.background.Start(func() {
		f.err = r.load()
		r.mu.Lock()
		r.flight = nil
		if f.err != nil {
			clear(r.unknown) // a failed fetch proves no kid unknown
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

// load fetches and installs the keys. A panic while it reads foreign documents
// is a failed fetch.
func (r *KeyRing) load() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while reading the keys: %T", p)
		}
		if err != nil {
			r.counts.failed.Add(1)
			r.setLastErr(err.Error())
		}
	}()
	document, err := r.fetch(r.base)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(document.Body)
	if st := r.state.Load(); st != nil && st.sum == sum {
		r.confirm(st)
		return nil
	}
	set, err := jose.ParseJWKS(document.Body, r.cfg.SetRules(r.limits))
	if err != nil {
		return fmt.Errorf("%s where a JWK set is needed: %w", document, err)
	}
	r.install(set, sum)
	return nil
}

func (r *KeyRing) confirm(st *ringState) {
	st.confirmed.Store(int64(r.clock.Boot()))
	r.counts.refreshed.Add(1)
	r.setLastErr("")
}

func (r *KeyRing) install(set *jose.KeySet, sum [sha256.Size]byte) {
	old := r.state.Load()
	next := &ringState{set: set, sum: sum}
	if old != nil && set.Keeps(old.set) {
		next.generation = old.generation
	} else {
		next.generation = r.nextGeneration()
	}
	if old != nil && next.generation != old.generation {
		r.counts.withdrawn.Add(1)
		r.log.Info("a signing key was withdrawn or changed; cached tokens of the old keys are verified again")
	}
	refused := set.Refused()
	r.counts.refused.Store(int64(len(refused)))
	for _, k := range refused[:min(len(refused), 10)] {
		r.log.Warn("member of the key set refused", "index", k.Index, "reason", k.Reason)
	}
	if len(refused) > 10 {
		r.log.Warn("further members of the key set refused", "count", len(refused)-10)
	}
	r.confirm(next)
	r.mu.Lock() // against expire
	r.state.Store(next)
	r.generation.Store(next.generation)
	clear(r.unknown)
	r.mu.Unlock()
	r.log.Info("signing keys loaded", "keys", set.Len(), "refused", len(refused))
}

// expire discards the keys if they were last confirmed more than MaxKeyAge ago.
// It returns the time until the next call is due.
func (r *KeyRing) expire() time.Duration {
	st := r.state.Load()
	if st == nil {
		return r.cfg.MaxKeyAge
	}
	if left := time.Duration(st.confirmed.Load()) + r.cfg.MaxKeyAge - r.clock.Boot(); left > 0 {
		return left
	}
	r.mu.Lock() // against install
	if r.state.CompareAndSwap(st, nil) {
		r.generation.Store(0)
	}
	r.mu.Unlock()
	r.log.Error("signing keys discarded: they could not be fetched again in time", "max_key_age", r.cfg.MaxKeyAge)
	return r.cfg.MaxKeyAge
}

// setLastErr sets lastErr and logs the first failure and the recovery.
func (r *KeyRing) setLastErr(text string) {
	before := r.failure()
	r.lastErr.Store(text)
	switch {
	case text != "" && before == "":
		r.log.Warn("signing keys could not be fetched; trying again", "error", text)
	case text == "" && before != "":
		r.log.Info("signing keys can be fetched again")
	}
}

// run refreshes until ctx or the verifier ends.
func (r *KeyRing) run(ctx context.Context) {
	interval, retry := r.cfg.RefreshInterval, firstRetry
	if _, file := r.cfg.keyFile(); file {
		interval = min(interval, filePollInterval)
	}
	for {
		wait := interval
		if err := r.Refresh(ctx); err == nil {
			retry = firstRetry
		} else {
			wait, retry = retry, min(2*retry, maxRetry, r.cfg.RefreshInterval)
		}
		// ±20 %, so that sidecars do not fetch at the same time.
		wait = time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // only spreads load
		timer := time.NewTimer(min(wait, r.expire()))
		select {
		case <-timer.C:
			r.expire()
			continue
		case <-ctx.Done():
		case <-r.base.Done():
		}
		timer.Stop()
		return
	}
}
