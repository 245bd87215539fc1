package rediscache

import (
	"context"
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
		// Half: the next tier must still have time to answer after a server that
		// never does.
		Dependency: "redis", Timeout: c.cfg.Timeout, Half: true, Concurrent: c.cfg.PoolSize, Waiting: waitingPerConnection * c.cfg.PoolSize,
		// go-redis keeps to a context by itself (see Config.options), and a goroutine
		// of its own doubles the cost of a lookup.
		Inline: true,
		Ignore: redis.ErrPoolTimeout, // this process wants more connections than it may have
		Probe:  probe, ProbeTimeout: probeTimeout, Logger: c.log, State: c.metrics.breaker,
	})
}

// probe reads as a lookup does. A server that answers PING may still load its
// data, lack slots or refuse this user's commands.
func (c *Client) probe(ctx context.Context) error {
	_, err := c.read(ctx, probeKeys[:])
	return err
}

// probeKeys are in different slots, so that a probe reaches most masters of a Cluster.
var probeKeys = func() (keys [16]string) {
	for i := range keys {
		keys[i] = revokedKey(authz.Key{byte(i)})
	}
	return keys
}()
