package rediscache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// subscriberTimes are the subscriber's limits; tests shorten them.
type subscriberTimes struct {
	ping    time.Duration // a PING is sent after that long without any word
	silence time.Duration // and the connection given up after that long
	life    time.Duration // ± 25 %: then a new subscription is made
	backoff time.Duration // first wait after a failure; doubles up to 5 s
}

var defaultSubscriberTimes = subscriberTimes{
	ping: 2 * time.Second, silence: 6 * time.Second,
	// A node that lost a partition may answer PING for ever and hear of nothing.
	life: 5 * time.Minute, backoff: 200 * time.Millisecond,
}

// Subscribe calls hint for every announcement, and for every new subscription,
// because announcements before it were missed. hint must not block and says
// only that something may have changed: what, the authority is asked. It runs
// until ctx ends and returns ctx's error.
//
// It does not use go-redis's Channel: that drops messages while it reconnects
// and waits for ever on a connection that is dead without saying so.
func (r *Client) Subscribe(ctx context.Context, hint func()) error {
	wait := r.sub.backoff
	failing := false
	for ctx.Err() == nil {
		heard, err := r.listen(ctx, hint)
		r.metrics.subscribed.Set(0)
		if ctx.Err() != nil {
			break
		}
		if err == nil || heard { // the connection worked: begin with short waits again
			wait, failing = r.sub.backoff, false
		}
		if err != nil {
			r.suspectTopology(ctx, err)
			level := slog.LevelDebug // an outage is one line, not one for each attempt
			if !failing {
				level, failing = slog.LevelWarn, true
			}
			r.log.Log(ctx, level, "subscription lost; trying again", "error", err, "retry_in", wait.String())
			if !sleep(ctx, jitter(wait)) {
				break
			}
			wait = min(2*wait, 5*time.Second)
		}
	}
	return ctx.Err()
}

// listen holds one subscription until it fails (error) or has lived long
// enough (nil). heard: the server confirmed it.
func (r *Client) listen(ctx context.Context, hint func()) (heard bool, err error) {
	defer recovered(&err)
	ps := r.client.Subscribe(ctx)
	// A read is not ended by its context, only by closing the connection.
	stop := context.AfterFunc(ctx, func() { _ = ps.Close() })
	defer func() {
		stop()
		_ = ps.Close()
	}()
	dial, cancel := context.WithTimeout(ctx, r.cfg.DialTimeout+backgroundTimeout)
	err = ps.Subscribe(dial, Channel)
	cancel()
	if err != nil {
		return false, fmt.Errorf("redis: subscribe: %w", err)
	}
	end := time.Now().Add(jitter(r.sub.life))
	last := time.Now()
	for time.Now().Before(end) {
		msg, err := ps.ReceiveTimeout(ctx, r.sub.ping)
		if err == nil {
			last = time.Now()
			switch m := msg.(type) {
			case *redis.Subscription:
				heard = true
				r.metrics.subscribed.Set(1)
				r.metrics.subscriptions.Inc()
				hint()
			case *redis.Message:
				r.metrics.messages.Inc()
				hint()
			case *redis.Pong:
			default:
				return heard, fmt.Errorf("redis: unexpected %T on the subscription", m)
			}
			continue
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			return heard, fmt.Errorf("redis: subscription: %w", err)
		}
		if silent := time.Since(last); silent >= r.sub.silence {
			return heard, fmt.Errorf("redis: subscription: no word for %s", silent.Round(time.Millisecond))
		}
		if err := ps.Ping(ctx); err != nil {
			return heard, fmt.Errorf("redis: ping on the subscription: %w", err)
		}
	}
	return heard, nil
}
