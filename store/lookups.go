package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"jwtbouncer/authz"
)

// lookups bounds point lookups so that a slow database can neither hold up a
// request beyond its deadline nor pile requests up: few run, few wait, and
// when they keep failing a circuit breaker answers at once. The breaker is
// closed again by probes in the background, never at a request's cost.
type lookups struct {
	name    string
	slots   chan struct{}
	pending atomic.Int64
	limit   int64
	timeout time.Duration
	read    func(context.Context, []authz.Key) (reading, error)
	breaker *gobreaker.CircuitBreaker[reading]
	probing atomic.Bool
	met     *metrics

	stop    context.Context // ends the probes, which outlive the request that started them
	cancel  context.CancelFunc
	running authz.Background
}

// errHurried marks a lookup that failed for want of time the caller did not
// have; it says nothing about the database.
type errHurried struct{ error }

func (e errHurried) Unwrap() error { return e.error }

func newLookups(ctx context.Context, name string, o *Options, met *metrics, read func(context.Context, []authz.Key) (reading, error)) *lookups {
	l := &lookups{
		name: name, slots: make(chan struct{}, o.Lookups), limit: int64(o.Lookups + o.Waiting),
		timeout: o.LookupTimeout, read: read, met: met,
	}
	l.stop, l.cancel = context.WithCancel(ctx)
	l.breaker = gobreaker.NewCircuitBreaker[reading](gobreaker.Settings{
		Name: name, MaxRequests: 1, Interval: 10 * time.Second, Timeout: 100 * time.Millisecond,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= 5 || c.Requests >= 20 && c.TotalFailures*2 >= c.Requests
		},
		IsExcluded: func(err error) bool {
			return errors.Is(err, context.Canceled) || errors.As(err, new(errHurried))
		},
		OnStateChange: func(_ string, from, to gobreaker.State) {
			met.breaker.Set(float64(to))
			if to == gobreaker.StateOpen && from == gobreaker.StateClosed {
				l.probe()
			}
		},
	})
	return l
}

// verdict reads what the store says about q. A revocation is true wherever it
// was read; its absence is not.
func (l *lookups) verdict(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	r, err := l.ask(ctx, q.Keys)
	if err != nil && !errors.Is(err, ErrUnproven) {
		return authz.Unknown, err
	}
	v, unproven := r.verdict(q)
	if v != authz.Revoked && err != nil {
		return authz.Unknown, err
	}
	return v, unproven
}

// ask reads what the store says about these keys.
func (l *lookups) ask(ctx context.Context, keys []authz.Key) (reading, error) {
	if len(keys) == 0 {
		return reading{}, fmt.Errorf("%w: %s: a token without keys cannot be looked up", authz.ErrUnavailable, l.name)
	}
	if l.breaker.State() != gobreaker.StateClosed {
		return reading{}, fmt.Errorf("%w: %s: it failed repeatedly and is being probed", authz.ErrUnavailable, l.name)
	}
	if l.pending.Add(1) > l.limit {
		l.pending.Add(-1)
		return reading{}, fmt.Errorf("%s: %w", l.name, ErrBusy)
	}
	l.met.waiting.Inc()
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	leave := func() { l.pending.Add(-1); l.met.waiting.Dec() }
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		leave()
		return reading{}, fmt.Errorf("%w: %s: %w while waiting for a connection", authz.ErrUnavailable, l.name, ctx.Err())
	}
	type answer struct {
		reading
		err error
	}
	// The query runs beside the request: cancelling one takes a moment (a
	// cancel request to the server, a lock's timeout in SQLite) that the
	// request does not have.
	done := make(chan answer, 1)
	keys = append([]authz.Key(nil), keys...) // a query's keys must not be kept beyond Lookup
	if !l.running.Start(func() {
		defer func() { <-l.slots; leave() }()
		r, err := l.breaker.Execute(func() (reading, error) { return l.timed(ctx, keys) })
		done <- answer{r, err}
	}) {
		<-l.slots
		leave()
		return reading{}, fmt.Errorf("%w: %s: closed", authz.ErrUnavailable, l.name)
	}
	select {
	case a := <-done:
		if a.err != nil && !errors.Is(a.err, authz.ErrUnavailable) {
			a.err = fmt.Errorf("%w: %s: %w", authz.ErrUnavailable, l.name, a.err)
		}
		return a.reading, a.err
	case <-ctx.Done():
		return reading{}, fmt.Errorf("%w: %s: no answer: %w", authz.ErrUnavailable, l.name, ctx.Err())
	}
}

func (l *lookups) timed(ctx context.Context, keys []authz.Key) (reading, error) {
	deadline, _ := ctx.Deadline()
	had := time.Until(deadline)
	r, err := l.readSafely(ctx, keys)
	if err != nil && ctx.Err() != nil && had < l.timeout/3 {
		err = errHurried{err}
	}
	return r, err
}

// readSafely keeps a driver that met an answer no server gives from ending the
// process.
func (l *lookups) readSafely(ctx context.Context, keys []authz.Key) (r reading, err error) {
	defer func() {
		if p := recover(); p != nil {
			r, err = reading{}, fmt.Errorf("%w: %s: panic: %T", authz.ErrUnavailable, l.name, p)
		}
	}()
	return l.read(ctx, keys)
}

// probe tries again until the breaker is closed.
func (l *lookups) probe() {
	if !l.probing.CompareAndSwap(false, true) {
		return
	}
	l.running.Start(func() {
		defer l.probed()
		for wait := 200 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			timer := time.NewTimer(jitter(wait, 0.25))
			select {
			case <-l.stop.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			ctx, cancel := context.WithTimeout(l.stop, l.timeout)
			_, err := l.breaker.Execute(func() (reading, error) { return l.readSafely(ctx, []authz.Key{{}}) })
			cancel()
			if err == nil && l.breaker.State() == gobreaker.StateClosed {
				return
			}
		}
	})
}

// probed ends a probe. Had the breaker tripped again meanwhile, it found this
// one under way and began none.
func (l *lookups) probed() {
	l.probing.Store(false)
	if l.stop.Err() == nil && l.breaker.State() != gobreaker.StateClosed {
		l.probe()
	}
}

func (l *lookups) close() {
	l.cancel()
	l.running.Close()
}

// reading is what the authority said about some keys.
type reading struct {
	// level is the strictest not_before of their revocations in Unix seconds;
	// authz.Always; 0: there is none.
	level int64
	// tokens bounds what a level of 0 is proof for: revocations without expiry
	// are kept no longer.
	tokens authz.TokenLimit
}

// verdict is the answer for q.
func (r reading) verdict(q *authz.Query) (authz.Verdict, error) {
	switch life, kept := q.Lifetime(), r.tokens; {
	case (authz.Entry{NotBefore: r.level}).Revokes(q.IssuedAt):
		return authz.Revoked, nil
	case kept.Covers(q):
		return authz.NotRevoked, nil
	case life > kept.Max+authz.LifetimeSlack:
		return authz.Unknown, fmt.Errorf("%w: the token lives for %s, longer than the store's max_token_ttl (%s): its revocation could have expired (raise it with `jwt-bouncer migrate`)",
			ErrUnproven, life, kept.Max)
	default:
		return authz.Unknown, fmt.Errorf("%w: the token lives for %s and was issued before the store's max_token_ttl was raised from %s to %s: its revocation could have expired by then",
			ErrUnproven, life, kept.RaisedFrom, kept.Max)
	}
}
