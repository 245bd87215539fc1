package cache

import (
	"context"
	"log/slog"
	"math"
	"time"
)

const (
	// minGap is the least time from the start of one sync to the next, however
	// many hints arrive: a flood of revocations costs the store no more than
	// fifty syncs per second and sidecar.
	minGap = 20 * time.Millisecond
	// firstRetry is the mean wait after a failed sync; it doubles with every
	// further one up to the sync interval.
	firstRetry = 50 * time.Millisecond
)

// Run syncs until ctx ends, and returns nil then.
func (f *Follower) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		start := time.Now()
		err := f.Sync(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			f.log.LogAttrs(ctx, slog.LevelWarn, "sync with the store failed", slog.Any("error", err), f.age())
		}
		failed := f.turn.state().failed
		wake := f.turn.wake
		if failed > 0 {
			wake = nil // a retry comes soon enough, and asking must not defeat the backoff
		}
		timer.Reset(f.pause(failed))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-wake:
			if rest := minGap - time.Since(start); rest > 0 {
				timer.Reset(rest)
				select {
				case <-ctx.Done():
					return nil
				case <-timer.C:
				}
			}
		}
		select { // the coming sync answers whoever has asked until here
		case <-f.turn.wake:
		default:
		}
	}
}

// pause is the time to the next sync unless somebody asks for one.
func (f *Follower) pause(failed int) time.Duration {
	every := min(f.config.SyncInterval, time.Duration(f.bound.Load())/3)
	spread := 0.75 + f.jitter()/2
	if failed > 0 {
		every = min(every, firstRetry<<min(failed-1, 16))
		spread = 0.5 + f.jitter()
	}
	return max(time.Duration(float64(every)*spread), minGap)
}

// Hint says that something has changed: a sync begins at once, or as soon as
// the running one has ended. It never blocks; hints that come together are one.
func (f *Follower) Hint() { f.turn.ask() }

// CatchUp waits until a sync that began after the call has ended, and returns
// its error, or ctx's. All callers share one sync.
func (f *Follower) CatchUp(ctx context.Context) error {
	begun := f.turn.state().begun
	for {
		now := f.turn.state()
		if now.ended > begun {
			return now.err
		}
		f.turn.ask()
		select {
		case <-now.next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ready reports whether everything has been loaded once. It never becomes
// false again: what is not fresh is said by Lookup, not by readiness.
func (f *Follower) Ready() bool { return f.loaded.Load() }

// Staleness is the age of the replica's knowledge; before the first load the
// longest time there is.
func (f *Follower) Staleness() time.Duration {
	asof := f.asof.Load()
	if asof == never {
		return 1<<63 - 1
	}
	return max(f.clock.Boot()-time.Duration(asof), 0)
}

// seconds is Staleness as a metric has it: +Inf, which is above every bound,
// before the first load.
func (f *Follower) seconds() float64 {
	if f.asof.Load() == never {
		return math.Inf(1)
	}
	return f.Staleness().Seconds()
}

// age is Staleness as a log has it.
func (f *Follower) age() slog.Attr {
	if s := f.seconds(); !math.IsInf(s, 1) {
		return slog.Float64("staleness_seconds", s)
	}
	return slog.String("staleness", "never loaded")
}

// Bound is the max_staleness in effect: the lesser of the configured one and
// the authority's.
func (f *Follower) Bound() time.Duration { return time.Duration(f.bound.Load()) }

func awaitSync(ctx context.Context, ended <-chan struct{}) bool {
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}
