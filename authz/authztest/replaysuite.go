package authztest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// TestReplayStore runs the contract of authz.ReplayStore.
func TestReplayStore(t *testing.T, open func(t *testing.T) authz.ReplayStore) {
	t.Helper()
	runCases(t, open(t), ReplayCases())
}

// ReplayCases are the cases that TestReplayStore runs.
func ReplayCases() []Case[authz.ReplayStore] {
	return []Case[authz.ReplayStore]{
		{"only the first use of a key is new", replayFirst},
		{"every key is its own", replayTexts},
		{"remembers for the ttl and forgets", replayExpiry},
		{"a ttl of zero or less", replayNoTTL},
		{"new once, under concurrency", replayConcurrent},
		{"a caller who left", replayCanceled},
	}
}

func use(ctx context.Context, s authz.ReplayStore, key string, want bool) error {
	seen, err := s.Seen(ctx, key, time.Hour)
	if err == nil && seen != want {
		err = fmt.Errorf("%.20q: seen %v, want %v", key, seen, want)
	}
	return err
}

func replayFirst(ctx context.Context, s authz.ReplayStore) error {
	key := issuerFor("first")
	for i := range 4 {
		if err := use(ctx, s, key, i > 0); err != nil {
			return err
		}
	}
	return nil
}

func replayTexts(ctx context.Context, s authz.ReplayStore) error {
	prefix := issuerFor("texts")
	var bad collect
	for _, seen := range []bool{false, true} {
		for _, text := range oddTexts() {
			if err := use(ctx, s, prefix+text, seen); err != nil {
				bad.addf("%w", err)
			}
		}
	}
	return bad.err()
}

// replayExpiry uses a key until it is forgotten, which must not be too early.
func replayExpiry(ctx context.Context, s authz.ReplayStore) error {
	const ttl = 300 * time.Millisecond
	key := issuerFor("expiry")
	start := time.Now()
	if seen, err := s.Seen(ctx, key, ttl); err != nil || seen {
		return fmt.Errorf("a new key: seen %v, %w", seen, err)
	}
	return eventually(ctx, func() error {
		seen, err := s.Seen(ctx, key, ttl)
		switch elapsed := time.Since(start); {
		case err != nil:
			return err
		case seen:
			return errors.New("remembered long after the ttl")
		case elapsed < ttl*9/10: // servers count whole milliseconds by a clock of their own
			return fatal{fmt.Errorf("forgotten after %s of %s", elapsed, ttl)}
		}
		return nil
	})
}

func replayNoTTL(ctx context.Context, s authz.ReplayStore) error {
	for _, ttl := range []time.Duration{0, -time.Hour, 1} {
		if seen, err := s.Seen(ctx, issuerFor("short"), ttl); err != nil || seen {
			return fmt.Errorf("ttl %s: seen %v, error %w", ttl, seen, err)
		}
	}
	return nil
}

func replayConcurrent(ctx context.Context, s authz.ReplayStore) error {
	var bad collect
	for range 10 {
		key := issuerFor("concurrent")
		var fresh, failed atomic.Int32
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				seen, err := s.Seen(ctx, key, time.Hour)
				if err != nil {
					failed.Add(1)
				} else if !seen {
					fresh.Add(1)
				}
			})
		}
		wg.Wait()
		if fresh.Load() != 1 || failed.Load() > 0 {
			bad.addf("new for %d of 20 users, %d errors", fresh.Load(), failed.Load())
		}
	}
	return bad.err()
}

func replayCanceled(ctx context.Context, s authz.ReplayStore) error {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if seen, err := s.Seen(gone, issuerFor("canceled"), time.Hour); seen {
		return fmt.Errorf("a new key counts as seen, error %w", err)
	}
	return nil
}
