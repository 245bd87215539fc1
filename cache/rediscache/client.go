// Package rediscache is the Redis (or Valkey) that sidecars share: the tier
// between their memory and the store, and the channel through which they learn
// of revocations at once.
//
// It is an accelerator and never an authority: a missing key proves nothing,
// and losing everything Redis holds costs only speed.
package rediscache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// Client is a sidecar's client of Redis. Its methods may be called concurrently.
type Client struct {
	authz.AlwaysWaits
	client       redis.UniversalClient
	sentinels    *sentinels // nil: no Sentinels
	cfg          Config
	maxStaleness time.Duration // as configured
	limit        atomic.Int64  // the lesser of maxStaleness and the store's in nanoseconds; 0: no valid entry is believed
	clock        authz.Clock
	log          *slog.Logger
	breaker      *breaker.Breaker
	epochs       *epochs // nil: token:valid keys are neither read nor written
	fills        chan fillJob
	publisher    *publisher
	metrics      metrics
	sub          subscriberTimes
	contact      authz.Contact
	stop         context.CancelFunc
	loops        sync.WaitGroup
	closing      sync.Once
	closeErr     error
}

var (
	_ authz.Tier        = (*Client)(nil)
	_ authz.Filler      = (*Client)(nil)
	_ authz.Publisher   = (*Client)(nil)
	_ authz.ReplayStore = (*Client)(nil)
)

// Options are a Client's dependencies.
type Options struct {
	// MaxStaleness is how long a token:valid entry may be believed; required.
	MaxStaleness time.Duration
	// Fill makes the client read and write token:valid keys (lookup mode). A
	// sidecar with a replica proves freshness by itself and leaves it false.
	Fill     bool
	Clock    authz.Clock           // nil: authz.SystemClock
	Logger   *slog.Logger          // nil: nothing is logged
	Registry prometheus.Registerer // for one Client only; nil: no metrics
}

// Open returns a client of the configured Redis. It does not wait for a
// connection, because a sidecar works without Redis. It fails when the
// configuration is invalid or a file named there cannot be read.
func Open(cfg Config, o Options) (*Client, error) {
	if !cfg.Enabled() {
		return nil, errors.New("redis: no address is configured")
	}
	if o.MaxStaleness <= 0 {
		return nil, errors.New("redis: MaxStaleness must be above zero")
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	quietGoRedis()
	var c *Client
	ctx, stop := context.WithCancel(context.Background())
	if cfg.MasterName == "" {
		c = newClient(redis.NewUniversalClient(opts), cfg, o)
	} else {
		s := newSentinels(opts, cfg.sentinelCredentials())
		c = newClient(s.client(opts), cfg, o)
		c.sentinels = s
		c.run(ctx, s.follow)
	}
	c.stop, c.breaker = stop, c.newBreaker(c.probe)
	if c.epochs != nil {
		c.run(ctx, c.runEpochs)
	}
	c.run(ctx, c.publisher.run)
	for range fillWorkers {
		c.run(ctx, c.runFills)
	}
	return c, nil
}

// newClient returns a Client without a breaker and background work.
func newClient(client redis.UniversalClient, cfg Config, o Options) *Client {
	o.Clock = cmp.Or(o.Clock, authz.Clock(authz.SystemClock{}))
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	c := &Client{
		client: client, cfg: cfg, maxStaleness: o.MaxStaleness, clock: o.Clock,
		log: o.Logger.With("tier", "redis"), sub: defaultSubscriberTimes,
		fills: make(chan fillJob, fillQueue), metrics: newMetrics(o.Registry),
		contact: authz.Contact{Clock: o.Clock},
	}
	c.publisher = newPublisher(c)
	if o.Fill {
		c.epochs = newEpochs(o.Clock, o.MaxStaleness)
	}
	c.Limit(o.MaxStaleness, "")
	return c
}

// Limit sets the max_staleness and the identity of the store. token:valid
// entries are believed for the lesser of maxStaleness and Options.MaxStaleness;
// 0 means not at all. Entries filled under another identity are not believed. The
// empty identity is that of a store that does not know its own.
func (c *Client) Limit(maxStaleness time.Duration, identity string) {
	if c.epochs != nil {
		c.epochs.setStore(identity)
	}
	c.limit.Store(int64(min(maxStaleness, c.maxStaleness))) // last: no entry of the former store is believed under it
}

// run starts a loop and restarts it after a panic: go-redis indexes replies
// without a look at their length.
func (c *Client) run(ctx context.Context, loop func(context.Context)) {
	c.loops.Go(func() {
		for !c.returned(ctx, loop) && sleep(ctx, breaker.Jitter(time.Second, 0.25)) {
		}
	})
}

// returned runs loop and reports whether it returned rather than panicked.
func (c *Client) returned(ctx context.Context, loop func(context.Context)) (ok bool) {
	defer func() {
		if p := recover(); p != nil { // its type only: its text may repeat a reply
			c.log.Error("background work panicked; starting it again", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
		}
	}()
	loop(ctx)
	return true
}

// Close publishes the queued revocations, for at most two seconds, and ends the
// background work and the connections. Its error wraps ErrNotPublished when
// revocations remain in the queue; sidecars learn of them by their own sync.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.stop()
		c.loops.Wait()
		c.breaker.Close()
		c.closeErr = errors.Join(c.publisher.drain(2*time.Second), c.client.Close())
		if c.sentinels != nil {
			c.closeErr = errors.Join(c.closeErr, c.sentinels.close())
		}
	})
	return c.closeErr
}

// suspectTopology has the map of a Cluster read again after an error. go-redis
// does so by itself on MOVED, but not when a node is gone; it would learn of the
// failover up to a minute late. The client limits how often it reads the map.
func (c *Client) suspectTopology(ctx context.Context, err error) {
	if cluster, ok := c.client.(*redis.ClusterClient); ok && err != nil {
		cluster.ReloadState(ctx)
	}
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// quietGoRedis stops the library from writing to standard error: every failure
// it logs also comes back as an error and is logged here.
var quietGoRedis = sync.OnceFunc(func() { redis.SetLogger(silent{}) })

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
