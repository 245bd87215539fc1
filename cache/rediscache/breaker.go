package rediscache

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

const (
	// waitingPerConnection is how many lookups may wait for each connection.
	waitingPerConnection = 16
	probeTimeout         = 500 * time.Millisecond // more than a lookup has: a probe may have to connect first
)

func (r *Client) newBreaker(probe func(context.Context) error) *breaker.Breaker {
	return breaker.New(breaker.Options{
		// Half: a server that swallows everything must be seen as the one to blame
		// while the next tier still has time to answer.
		Name: "redis", Timeout: r.cfg.Timeout, Half: true, Concurrent: r.cfg.PoolSize, Waiting: waitingPerConnection * r.cfg.PoolSize,
		// go-redis keeps to a context by itself (see Config.options), and its
		// stack in a goroutine of its own doubles the cost of a lookup.
		Inline: true, Probe: probe, ProbeTimeout: probeTimeout, Logger: r.log, State: r.metrics.breaker,
	})
}

// do runs f behind the breaker.
func do[T any](ctx context.Context, r *Client, f func(context.Context) (T, error)) (T, error) {
	return breaker.Do(ctx, r.breaker, func(ctx context.Context) (T, error) {
		v, err := f(ctx)
		if errors.Is(err, redis.ErrPoolTimeout) { // this process wants more connections than it may have
			err = breaker.Ignore(err)
		}
		return v, err
	})
}

// probe reads as a lookup does: a server that answers PING but is loading, not
// allowed to us, or without its slots has not healed.
func (r *Client) probe(ctx context.Context) error {
	_, err := r.read(ctx, probeKeys[:])
	return err
}

// probeKeys lie in different slots, so that a probe meets most masters of a
// Cluster.
var probeKeys = func() (keys [16]string) {
	for i := range keys {
		keys[i] = revokedKey(authz.Key{byte(i)})
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
