package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"

	"jwtbouncer/authz"
)

const (
	breakerFailures = 5                      // consecutive failures that open it
	breakerWindow   = 10 * time.Second       // over which the failure rate is taken
	breakerOpen     = 500 * time.Millisecond // until the first probe
	probeTimeout    = 500 * time.Millisecond
	probeEvery      = 500 * time.Millisecond // ± 25 %; healed within 5 s must hold with room
	probesNeeded    = 2                      // successes in a row that close it
	hastyLookup     = 20 * time.Millisecond  // with less time than that a failure is not held against the server
)

// ErrBreakerOpen is a lookup's error while the breaker keeps requests away
// from a failing server.
var ErrBreakerOpen = errors.New("circuit breaker is open")

// breaker keeps requests from waiting for a dependency that does not answer.
// Only while closed does a request reach the dependency: the probes that close
// it again run in the background (Redis.probeLoop), so no request ever pays
// for finding out.
type breaker struct {
	cb *gobreaker.CircuitBreaker[authz.Verdict]
}

// notItsFault wraps errors that say nothing about the dependency.
type notItsFault struct{ error }

func (e notItsFault) Unwrap() error { return e.error }

func newBreaker(log *slog.Logger, reg prometheus.Registerer) (*breaker, error) {
	// The dependency is a constant label so that each package can register its own.
	state := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "jwt_bouncer_breaker_state",
		Help:        "State of the circuit breaker in front of a dependency: 0 closed, 1 half-open, 2 open.",
		ConstLabels: prometheus.Labels{"dependency": "redis"},
	})
	if reg != nil {
		if err := reg.Register(state); err != nil {
			return nil, fmt.Errorf("redis: register metrics: %w", err)
		}
	}
	return &breaker{cb: gobreaker.NewCircuitBreaker[authz.Verdict](gobreaker.Settings{
		Name: "redis", MaxRequests: probesNeeded, Interval: breakerWindow, BucketPeriod: time.Second, Timeout: breakerOpen,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= breakerFailures || c.Requests >= 20 && c.TotalFailures*2 >= c.Requests
		},
		IsExcluded: func(err error) bool {
			var not notItsFault
			return errors.As(err, &not)
		},
		OnStateChange: func(_ string, from, to gobreaker.State) {
			state.Set(float64(to))
			if to == gobreaker.StateHalfOpen || from == gobreaker.StateHalfOpen && to == gobreaker.StateOpen {
				return // a probe; only the outage and its end are news
			}
			log.Warn("circuit breaker", "from", from.String(), "to", to.String())
		},
	})}, nil
}

// closed reports whether requests are let through.
func (b *breaker) closed() bool { return b.cb.State() == gobreaker.StateClosed }

// do runs f for at most timeout and half of ctx's time, or returns
// ErrBreakerOpen at once.
func (b *breaker) do(ctx context.Context, timeout time.Duration, f func(context.Context) (authz.Verdict, error)) (authz.Verdict, error) {
	if !b.closed() {
		return authz.Unknown, fmt.Errorf("redis: %w", ErrBreakerOpen)
	}
	// Half of what is left at most: the next tier has to answer in the other
	// half, and a server that swallows everything must be seen as the one to blame.
	patience := timeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline)/2)
	}
	hasty := timeout < min(hastyLookup, patience)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v, err := b.execute(func() (authz.Verdict, error) {
		v, err := f(bounded)
		// The caller went away or came with too little time, or this process
		// wants more connections than it may have: not the server's failure.
		if err != nil && (hasty || ctx.Err() != nil || errors.Is(err, redis.ErrPoolTimeout)) {
			err = notItsFault{err}
		}
		return v, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = fmt.Errorf("redis: %w", ErrBreakerOpen)
	}
	if err != nil {
		return authz.Unknown, err
	}
	return v, nil
}

// execute runs f as one request; a panic in it is a failure like any other.
func (b *breaker) execute(f func() (authz.Verdict, error)) (authz.Verdict, error) {
	return b.cb.Execute(func() (v authz.Verdict, err error) {
		defer recovered(&err)
		return f()
	})
}

// probeLoop closes the breaker again. A probe reads as a lookup does: a server
// that answers PING but is loading, not allowed to us, or without its slots
// has not healed.
func (r *Redis) probeLoop(ctx context.Context) {
	for sleep(ctx, jitter(probeEvery)) {
		if r.breaker.closed() {
			continue
		}
		_, err := r.breaker.execute(func() (authz.Verdict, error) {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			_, err := r.lookup(ctx, &authz.Query{Keys: probeKeys[:]})
			return authz.Unknown, err
		})
		if err != nil && !errors.Is(err, gobreaker.ErrOpenState) {
			r.log.Debug("probe failed", "error", err)
		}
	}
}

// probeKeys lie in different slots, so that a probe meets most masters of a
// Cluster.
var probeKeys = func() (keys [16]authz.Key) {
	for i := range keys {
		keys[i][0] = byte(i)
	}
	return keys
}()

// jitter returns d ± 25 %, so that sidecars that failed together do not come
// back together.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1) //nolint:gosec // only spreads load; nobody gains by guessing it
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
