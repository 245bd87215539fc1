package rediscache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// subscriberTimes are the subscriber's limits; tests shorten them.
type subscriberTimes struct {
	ping    time.Duration // a PING is sent after this time without a reply or message
	silence time.Duration // the connection is given up after this time without one
	life    time.Duration // ± 25 %; then a new subscription is made
	backoff time.Duration // first wait after a failure; doubles up to 5 s
}

var defaultSubscriberTimes = subscriberTimes{
	ping: 2 * time.Second, silence: 6 * time.Second,
	// A node that is cut off from its cluster may answer PING and never get a message.
	life: 5 * time.Minute, backoff: 200 * time.Millisecond,
}

// Subscribe calls learn with the revocations that each message names. complete is
// false when the store may have others: after a message that does not name all, or
// cannot be read, and after every new subscription, because messages before it
// were missed. learn must not block, and must take nothing for proven: the sender
// may be anyone with access to Redis. Subscribe runs until ctx ends and returns
// ctx's error.
//
// It does not use go-redis's Channel, which drops messages while it reconnects
// and waits for ever on a connection that died silently.
func (c *Client) Subscribe(ctx context.Context, learn func(entries []authz.Entry, complete bool)) error {
	wait := c.sub.backoff
	failing := false
	for ctx.Err() == nil {
		confirmed, err := c.listen(ctx, learn)
		c.metrics.subscribed.Set(0)
		if ctx.Err() != nil {
			break
		}
		if err == nil || confirmed { // the connection worked, so start with short waits again
			wait, failing = c.sub.backoff, false
		}
		if err != nil {
			c.contact.Record(err)
			c.suspectTopology(ctx, err)
			level := slog.LevelDebug // one warning for each outage rather than for each attempt
			if !failing {
				level, failing = slog.LevelWarn, true
			}
			c.log.Log(ctx, level, "subscription lost; trying again", "error", err, "retry_in", wait.String())
			if !sleep(ctx, breaker.Jitter(wait, 0.25)) {
				break
			}
			wait = min(2*wait, 5*time.Second)
		}
	}
	return ctx.Err()
}

// listen holds one subscription until it fails (error) or reaches the end of its
// life (nil), and reports whether the server confirmed it.
func (c *Client) listen(ctx context.Context, learn func([]authz.Entry, bool)) (confirmed bool, err error) {
	defer breaker.Recover("redis", &err)
	ps, err := c.pubSub(ctx)
	if err != nil {
		return false, fmt.Errorf("redis: subscribe: %w", err)
	}
	// A read is not ended by its context, only by closing the connection.
	stop := context.AfterFunc(ctx, func() { _ = ps.Close() })
	defer func() {
		stop()
		_ = ps.Close()
	}()
	dial, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout+backgroundTimeout)
	err = ps.Subscribe(dial, Channel)
	cancel()
	if err != nil {
		return false, fmt.Errorf("redis: subscribe: %w", err)
	}
	end := time.Now().Add(breaker.Jitter(c.sub.life, 0.25))
	last := time.Now()
	for time.Now().Before(end) {
		msg, err := ps.ReceiveTimeout(ctx, c.sub.ping)
		if err == nil {
			last = time.Now()
			c.contact.Record(nil)
			switch m := msg.(type) {
			case *redis.Subscription:
				confirmed = true
				c.metrics.subscribed.Set(1)
				c.metrics.subscriptions.Inc()
				learn(nil, false)
			case *redis.Message:
				entries, complete := decodeMessage(m.Payload)
				c.metrics.message(complete)
				learn(entries, complete)
			case *redis.Pong:
			default:
				return confirmed, fmt.Errorf("redis: unexpected %T on the subscription", m)
			}
			continue
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			return confirmed, fmt.Errorf("redis: subscription: %w", err)
		}
		if silent := time.Since(last); silent >= c.sub.silence {
			return confirmed, fmt.Errorf("redis: subscription: nothing received for %s", silent.Round(time.Millisecond))
		}
		if err := ps.Ping(ctx); err != nil {
			return confirmed, fmt.Errorf("redis: ping on the subscription: %w", err)
		}
	}
	return confirmed, nil
}

// pubSub returns a connection to subscribe on. In a Cluster it is one to a random
// master: go-redis would take the one that the channel's name hashes to, which
// would then send every message to the whole fleet.
func (c *Client) pubSub(ctx context.Context) (*redis.PubSub, error) {
	cluster, ok := c.client.(*redis.ClusterClient)
	if !ok {
		return c.client.Subscribe(ctx), nil
	}
	node, err := cluster.MasterForKey(ctx, rand.Text())
	if err != nil {
		return nil, err
	}
	return node.Subscribe(ctx), nil
}
