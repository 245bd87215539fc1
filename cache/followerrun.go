package cache

import (
	"context"
	"log/slog"
	"math"
	"time"
)

const (
	// minGap is the least time between the starts of two syncs, however many
	// notifications arrive: a flood of revocations costs the store at most fifty
	// syncs per second and sidecar.
	minGap = 20 * time.Millisecond
	// firstRetry is the mean wait after a failed sync. It doubles with every
	// further failure up to the sync interval.
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
		failed := f.syncs.snapshot().failed
		wake := f.syncs.wake
		if failed > 0 {
			wake = nil // a retry comes soon enough, and requests must not defeat the backoff
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
		select { // the coming sync answers all requests until now
		case <-f.syncs.wake:
		default:
		}
	}
}

// pause returns the time until the next sync that nobody requests.
func (f *Follower) pause(failed int) time.Duration {
	every := min(f.config.SyncInterval, time.Duration(f.maxStaleness.Load())/3)
	spread := 0.75 + f.jitter()/2
	if failed > 0 {
		every = min(every, firstRetry<<min(failed-1, 16))
		spread = 0.5 + f.jitter()
	}
	return max(time.Duration(float64(every)*spread), minGap)
}

// Notify says that the store may have changed: a sync begins at once, or when the
// running one has ended. Notify never blocks. Notifications that arrive together
// lead to one sync.
func (f *Follower) Notify() { f.syncs.request() }

// Ready reports whether all revocations have been loaded once. It never becomes
// false again: Lookup, not readiness, reports a replica that is not fresh.
func (f *Follower) Ready() bool { return f.loaded.Load() }

// seconds returns the age of the replica's knowledge for a metric: +Inf, which is
// above every limit, before the first load.
func (f *Follower) seconds() float64 {
	asof := f.asof.Load()
	if asof == never {
		return math.Inf(1)
	}
	return max(f.clock.Boot()-time.Duration(asof), 0).Seconds()
}

// Staleness returns the age of the replica's knowledge; negative before the first
// load.
func (f *Follower) Staleness() time.Duration {
	s := f.seconds()
	if math.IsInf(s, 1) {
		return -1
	}
	return time.Duration(s * float64(time.Second))
}

// age returns the same for the log.
func (f *Follower) age() slog.Attr {
	if s := f.seconds(); !math.IsInf(s, 1) {
		return slog.Float64("staleness_seconds", s)
	}
	return slog.String("staleness", "never loaded")
}

func awaitSync(ctx context.Context, ended <-chan struct{}) bool {
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}
