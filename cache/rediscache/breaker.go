package rediscache

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

const (
	waitingPerConnection = 16                     // calls that may wait for each connection
	probeTimeout         = 500 * time.Millisecond // longer than a lookup's: a probe may have to connect first
)

func (c *Client) newBreaker(probe func(context.Context) error) *breaker.Breaker {
	return breaker.New(breaker.Options{
		// Half: a server that never answers must be seen as the one to blame while
		// the next tier still has time to answer.
		Dependency: "redis", Timeout: c.cfg.Timeout, Half: true, Concurrent: c.cfg.PoolSize, Waiting: waitingPerConnection * c.cfg.PoolSize,
		// go-redis keeps to a context by itself (see Config.options), and its
		// stack in a goroutine of its own doubles the cost of a lookup.
		Inline: true, Probe: probe, ProbeTimeout: probeTimeout, Logger: c.log, State: c.metrics.breaker,
	})
}

// do runs f behind the breaker.
func do[T any](ctx context.Context, c *Client, f func(context.Context) (T, error)) (T, error) {
	return breaker.Do(ctx, c.breaker, func(ctx context.Context) (T, error) {
		v, err := f(ctx)
		if errors.Is(err, redis.ErrPoolTimeout) { // this process wants more connections than it may have
			err = breaker.Ignore(err)
		}
		return v, err
	})
}

// probe reads as a lookup does. A server that answers PING may still be loading
// its data, lack slots, or refuse this user's commands.
func (c *Client) probe(ctx context.Context) error {
	_, err := c.read(ctx, probeKeys[:])
	return err
}

// probeKeys lie in different slots, so that a probe reaches most masters of a
// Cluster.
var probeKeys = func() (keys [16]string) {
	for i := range keys {
		keys[i] = revokedKey(authz.Key{byte(i)})
	}
	return keys
}()
