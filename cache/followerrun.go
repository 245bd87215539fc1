package cache

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"time"

	"jwtbouncer/authz"
)

const (
	// minGap is the least time between the starts of two syncs, however many
	// notifications arrive: a flood of commits to a SQLite file costs at most fifty
	// syncs per second.
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
		if !f.wait(ctx, timer, start) {
			return nil
		}
		for _, c := range []chan struct{}{f.syncs.wake, f.syncs.soon} {
			select { // the coming sync answers all requests until now
			case <-c:
			default:
			}
		}
	}
}

// wait returns true when the next sync is due, and false when ctx has ended. The
// last sync began at start.
func (f *Follower) wait(ctx context.Context, timer *time.Timer, start time.Time) bool {
	failed := f.syncs.snapshot().failed
	due := time.Now().Add(f.pause(failed))
	wake, soon := f.syncs.wake, f.syncs.soon
	if failed > 0 {
		wake, soon = nil, nil // a retry comes soon enough, and requests must not defeat the backoff
	}
	for {
		timer.Reset(time.Until(due))
		var at time.Time
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-wake:
			at, wake, soon = time.Now(), nil, nil
		case <-soon:
			at, soon = time.Now().Add(f.spread()), nil // drawn once: more requests do not hurry it
		}
		if least := start.Add(minGap); at.Before(least) {
			at = least
		}
		if at.Before(due) {
			due = at
		}
	}
}

// interval returns the mean time between syncs that nobody requests.
func (f *Follower) interval() time.Duration {
	return min(f.config.SyncInterval, time.Duration(f.maxStaleness.Load())/3)
}

// pause returns the time until the next sync that nobody requests. An error comes
// at once and costs the store little, so that it is asked again soon. Silence may
// have met the whole fleet at once: its next questions are spread over up to twice
// the interval.
func (f *Follower) pause(failed int) time.Duration {
	every := f.interval()
	spread := 0.75 + f.jitter()/2
	switch silent := f.silent; {
	case silent > 0:
		every <<= min(silent-1, 1)
		spread = f.jitter()
	case failed > 0:
		every = min(every, firstRetry<<min(failed-1, 16))
		spread = 0.5 + f.jitter()
	}
	return max(time.Duration(float64(every)*spread), minGap)
}

// spread returns the time until a sync that the whole fleet wants at the same
// moment: up to half of the interval, hence at most a sixth of max_staleness.
// However often the fleet wants one, it costs the store four times what an idle
// fleet does.
func (f *Follower) spread() time.Duration {
	return time.Duration(f.jitter() * float64(f.interval()/2))
}

// Notify says that the store may have changed: a sync begins at once, or when the
// running one has ended. Notify never blocks. Notifications that arrive together
// lead to one sync. Not for what the whole fleet hears of; see Learn.
func (f *Follower) Notify() { f.syncs.request() }

// Learn adds revocations that a message has named. The tokens that they revoke are
// denied until the next sync that proves freshness; from then on the store alone
// decides. Nothing else changes: a message is no proof of freshness, and removes
// and weakens nothing.
//
// If the store may have others (complete is false), or there is no room for all, the
// next sync begins within half of the sync interval, at a random time. Learn may
// be called concurrently and does not block.
func (f *Follower) Learn(entries []authz.Entry, complete bool) {
	dead := f.clock.Now().Unix() - dropAfter
	entries = slices.DeleteFunc(entries, func(e authz.Entry) bool { return e.Expires < dead })
	all := f.provisional.add(entries)
	request(f.revoked)
	if !all || !complete {
		request(f.syncs.soon)
	}
}

// Add adds revocations that this process itself has committed. It may be called
// concurrently and does not block.
func (f *Follower) Add(revocations []authz.Revocation) {
	for i := range revocations {
		f.replica.Add(revocations[i].Entry())
	}
	request(f.revoked)
}

// Revoked returns the channel that receives after revocations may have been added. It
// holds one message, for one receiver.
func (f *Follower) Revoked() <-chan struct{} { return f.revoked }

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

// MaxStaleness returns the age from which on the replica's knowledge is not used:
// the lesser of the configured max_staleness and the store's.
func (f *Follower) MaxStaleness() time.Duration { return time.Duration(f.maxStaleness.Load()) }

// Err returns the error of the last sync that ended; nil: it succeeded, or none has
// ended.
func (f *Follower) Err() error { return f.syncs.snapshot().err }

// age returns the same as Staleness for the log.
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
