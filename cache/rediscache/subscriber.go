package rediscache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

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

// Subscribe calls notify for every message, and for every new subscription,
// because messages before it were missed. notify must not block; it means only
// that the store may have changed. Subscribe runs until ctx ends and returns
// ctx's error.
//
// It does not use go-redis's Channel, which drops messages while it reconnects
// and waits for ever on a connection that died silently.
func (c *Client) Subscribe(ctx context.Context, notify func()) error {
	wait := c.sub.backoff
	failing := false
	for ctx.Err() == nil {
		confirmed, err := c.listen(ctx, notify)
		c.metrics.subscribed.Set(0)
		if ctx.Err() != nil {
			break
		}
		if err == nil || confirmed { // the connection worked, so start with short waits again
			wait, failing = c.sub.backoff, false
		}
		if err != nil {
			c.suspectTopology(ctx, err)
			level := slog.LevelDebug // one warning for each outage rather than for each attempt
			if !failing {
				level, failing = slog.LevelWarn, true
			}
			c.log.Log(ctx, level, "subscription lost; trying again", "error", err, "retry_in", wait.String())
			if !sleep(ctx, jitter(wait)) {
				break
			}
			wait = min(2*wait, 5*time.Second)
		}
	}
	return ctx.Err()
}

// listen holds one subscription until it fails (error) or reaches the end of its
// life (nil), and reports whether the server confirmed it.
func (c *Client) listen(ctx context.Context, notify func()) (confirmed bool, err error) {
	defer breaker.Recover("redis", &err)
	ps := c.client.Subscribe(ctx)
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
	end := time.Now().Add(jitter(c.sub.life))
	last := time.Now()
	for time.Now().Before(end) {
		msg, err := ps.ReceiveTimeout(ctx, c.sub.ping)
		if err == nil {
			last = time.Now()
			switch m := msg.(type) {
			case *redis.Subscription:
				confirmed = true
				c.metrics.subscribed.Set(1)
				c.metrics.subscriptions.Inc()
				notify()
			case *redis.Message:
				c.metrics.messages.Inc()
				notify()
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
