package rediscache

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// Inspection is what can be learnt about a Redis by reading.
type Inspection struct {
	Version    string        // as HELLO tells
	Role       string        // "master" or "replica"
	Skew       time.Duration // how far the server's clock is ahead of the one here
	SkewError  time.Duration // Skew is right within this
	Policy     string        // maxmemory-policy; empty: this user may not read it
	Subscribed error         // nil: the channel of revocations can be subscribed to
	Delivered  error         // nil: a message on a channel of the inspection's own came back; ErrNotPermitted: the user may not use that channel
	Encrypted  bool
	Password   bool // one is configured
	Local      bool // every address is a loopback address or a Unix socket
}

// ErrNotPermitted says that the ACL of the user does not allow something that an
// inspection needs and a sidecar does not.
var ErrNotPermitted = errors.New("the user may not do this")

// Inspect reads what there is to know about the configured Redis. It stores
// nothing. An error means that Redis cannot be reached.
func (c *Client) Inspect(ctx context.Context) (in Inspection, err error) {
	defer breaker.Recover("redis", &err)
	opts, err := c.cfg.options()
	if err != nil {
		return in, err
	}
	in.Encrypted = opts.TLSConfig != nil
	in.Password = opts.Password != "" || c.cfg.PasswordFile != "" || clientCertificate(opts.TLSConfig)
	in.Local = true
	for _, a := range opts.Addrs {
		host, _, err := net.SplitHostPort(a)
		in.Local = in.Local && (err != nil && strings.HasPrefix(a, "/") || authz.IsLoopback(host))
	}
	sent := time.Now()
	now, err := c.client.Time(ctx).Result()
	if err != nil {
		return in, err
	}
	in.SkewError = time.Since(sent) / 2
	in.Skew = now.Sub(sent.Add(in.SkewError))
	if hello, err := c.client.Do(ctx, "HELLO", "2").Slice(); err == nil {
		for i := 0; i+1 < len(hello); i += 2 {
			switch name, _ := hello[i].(string); name {
			case "version":
				in.Version, _ = hello[i+1].(string)
			case "role":
				in.Role, _ = hello[i+1].(string)
			}
		}
	}
	in.Policy = c.maxmemoryPolicy(ctx)
	in.Subscribed = c.trySubscription(ctx, Channel, false)
	in.Delivered = c.trySubscription(ctx, Channel+":doctor:"+rand.Text(), true)
	return in, nil
}

func clientCertificate(c *tls.Config) bool { return c != nil && len(c.Certificates) > 0 }

// maxmemoryPolicy returns the policy by CONFIG, or by INFO where a service hides
// CONFIG; empty: neither is allowed.
func (c *Client) maxmemoryPolicy(ctx context.Context) string {
	if cluster, ok := c.client.(*redis.ClusterClient); ok {
		node, err := cluster.MasterForKey(ctx, rand.Text())
		if err != nil {
			return ""
		}
		return policyOf(ctx, node)
	}
	return policyOf(ctx, c.client)
}

func policyOf(ctx context.Context, client redis.Cmdable) string {
	const name = "maxmemory-policy"
	if m, err := client.ConfigGet(ctx, name).Result(); err == nil {
		return m[name]
	}
	info, err := client.Info(ctx, "memory").Result()
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(info, "maxmemory_policy:")
	line, _, _ := strings.Cut(rest, "\r\n")
	return line
}

// trySubscription subscribes to a channel and, if deliver is set, publishes a
// message there and waits for it.
func (c *Client) trySubscription(ctx context.Context, channel string, deliver bool) (err error) {
	ps, err := c.pubSub(ctx)
	if err != nil {
		return err
	}
	defer ps.Close()
	stop := context.AfterFunc(ctx, func() { _ = ps.Close() }) // a read is not ended by its context
	defer stop()
	if err := ps.Subscribe(ctx, channel); err != nil {
		return permitted(err)
	}
	if _, err := ps.ReceiveTimeout(ctx, c.cfg.DialTimeout); err != nil {
		return permitted(err)
	}
	if !deliver {
		return nil
	}
	if err := c.client.Publish(ctx, channel, "").Err(); err != nil {
		return permitted(err)
	}
	if m, err := ps.ReceiveTimeout(ctx, c.cfg.DialTimeout); err != nil {
		return fmt.Errorf("no message came back: %w", err)
	} else if _, ok := m.(*redis.Message); !ok {
		return fmt.Errorf("a %T came instead of the message", m)
	}
	return nil
}

// permitted marks the error of an ACL.
func permitted(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "NOPERM") {
		return fmt.Errorf("%w: %w", ErrNotPermitted, err)
	}
	return err
}
