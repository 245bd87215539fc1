// Package rediscache is the Redis (or Valkey) that sidecars share: the tier
// between their memory and the store, and the channel through which they hear
// of revocations at once.
//
// It is an accelerator and never an authority: a missing key proves nothing,
// and losing everything Redis holds costs speed only.
package rediscache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// Names in Redis. The two prefixes are shared with older deployments.
const (
	revokedPrefix = "token:revoked:"
	validPrefix   = "token:valid:"
	seenPrefix    = "jwt-bouncer:seen:"
	// Channel is where announcements are published. A message only says
	// that something has changed.
	Channel = "jwt-bouncer:revocations"
)

// always is the stored form of authz.Always.
const always = "always"

// graceSeconds keeps a revoked key beyond its tokens' expiry: verifiers allow
// leeway, and the server's clock may be ahead.
const graceSeconds = int64(authz.ExpiryGrace / time.Second)

// Client is the tier "redis": an accelerator that many sidecars share. It is
// never part of the proof in the negative sense: a missing key proves nothing,
// and a token:valid entry is believed only within max_staleness as this
// process measures it (see rollCall).
type Client struct {
	client  redis.UniversalClient
	finder  *sentinels // nil: not through Sentinels
	cfg     Config
	bound   time.Duration // max_staleness as configured
	limit   atomic.Int64  // the lesser of that and the store's, in nanoseconds; 0: nothing is believed
	clock   authz.Clock
	log     *slog.Logger
	breaker *breaker.Breaker
	roll    *rollCall // nil: token:valid keys are neither read nor written
	fills   chan fillJob
	news    *announcer
	metrics metrics
	sub     subscriberTimes
	stop    context.CancelFunc
	done    sync.WaitGroup
	closing sync.Once
	closed  error
}

var (
	_ authz.Tier      = (*Client)(nil)
	_ authz.Filler    = (*Client)(nil)
	_ authz.Publisher = (*Client)(nil)
)

// Options are what a Client needs from outside.
type Options struct {
	// MaxStaleness is how long a token:valid entry may be believed; required.
	MaxStaleness time.Duration
	// Fill reads and writes token:valid keys: lookup mode. A sidecar with a
	// replica proves freshness by itself and leaves it false.
	Fill     bool
	Clock    authz.Clock           // nil: authz.SystemClock
	Logger   *slog.Logger          // nil: nothing is logged
	Registry prometheus.Registerer // nil: nothing is counted
}

// Open returns a client of the configured Redis. It does not wait for a
// connection: a Redis that is away is a slower system, not a broken one.
// Errors are those of the configuration and of the files it names.
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
	var client redis.UniversalClient
	var finder *sentinels
	if cfg.MasterName != "" {
		finder = newSentinels(opts, cfg.sentinelCredentials())
		client = finder.client(opts)
	} else {
		client = redis.NewUniversalClient(opts)
	}
	r, err := newClient(client, cfg, o)
	if err != nil {
		_ = client.Close()
		if finder != nil {
			_ = finder.close()
		}
		return nil, err
	}
	r.finder, r.breaker = finder, r.newBreaker(r.probe)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if r.finder != nil {
		r.run(ctx, r.finder.follow)
	}
	if r.roll != nil {
		r.run(ctx, r.callRolls)
	}
	r.run(ctx, r.news.run)
	for range fillWorkers {
		r.run(ctx, r.fillLoop)
	}
	return r, nil
}

// newClient returns a Client without breaker and background work.
func newClient(client redis.UniversalClient, cfg Config, o Options) (*Client, error) {
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	r := &Client{
		client: client, cfg: cfg, bound: o.MaxStaleness, clock: o.Clock,
		log: o.Logger.With("tier", "redis"), sub: defaultSubscriberTimes,
		fills: make(chan fillJob, fillQueue), metrics: m,
	}
	r.news = newAnnouncer(r)
	if o.Fill {
		r.roll = newRollCall(o.Clock, o.MaxStaleness)
	}
	r.Limit(o.MaxStaleness, "")
	return r, nil
}

// Limit is told the store's max_staleness: token:valid entries are believed for
// the lesser of that and Options.MaxStaleness; 0: not at all. And which
// store it is (empty: it cannot say): those of sidecars with another store, or
// with this one before it became another, are not believed.
func (r *Client) Limit(d time.Duration, identity string) {
	if r.roll != nil {
		r.roll.of(identity)
	}
	r.limit.Store(int64(min(d, r.bound))) // last: nothing of the former store is believed under it
}

func (r *Client) run(ctx context.Context, loop func(context.Context)) {
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		for !r.ended(ctx, loop) && sleep(ctx, jitter(time.Second)) {
		}
	}()
}

// ended runs loop and reports whether it returned; else it panicked, and must
// not end the process for that.
func (r *Client) ended(ctx context.Context, loop func(context.Context)) (returned bool) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("background work panicked; starting it again", "panic", panicText(p), "stack", string(debug.Stack()))
		}
	}()
	loop(ctx)
	return true
}

// Close hands over what is still to be announced, for at most two seconds, and
// ends the background work and the connections. The error says how many
// announcements were given up; sidecars then learn of those by their own sync.
func (r *Client) Close() error {
	r.closing.Do(func() {
		r.stop()
		r.done.Wait()
		r.breaker.Close()
		r.closed = errors.Join(r.news.drain(2*time.Second), r.disconnect())
	})
	return r.closed
}

func (r *Client) disconnect() error {
	err := r.client.Close()
	if r.finder != nil {
		err = errors.Join(err, r.finder.close())
	}
	return err
}

// Name implements authz.Tier.
func (r *Client) Name() string { return "redis" }

// Ping asks a server whether it is there.
func (r *Client) Ping(ctx context.Context) (err error) {
	defer recovered(&err)
	if err := r.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis %s: %w", r.cfg, err)
	}
	return nil
}

// Lookup implements authz.Tier in one round trip (one per node of a Cluster,
// at the same time). Revoked wins over valid. A reply that is missing or in
// error makes the answer Unknown unless another one says revoked.
func (r *Client) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	return do(ctx, r, func(ctx context.Context) (authz.Verdict, error) { return r.lookup(ctx, q) })
}

func (r *Client) lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	keys := r.revokedKeys(q)
	own := len(q.Keys) // from here on legacy keys, then the valid key
	legacy := len(keys)
	if r.roll != nil {
		keys = append(keys, validKey(q.TokenKey))
	}
	replies, err := r.read(ctx, keys)
	for i, reply := range replies[:min(legacy, len(replies))] {
		if reply == nil {
			continue
		}
		if i >= own || parseEntry(*reply).Revokes(q.IssuedAt) {
			return authz.Revoked, nil
		}
	}
	if err != nil {
		return authz.Unknown, fmt.Errorf("redis: %w", err)
	}
	if r.roll != nil && replies[legacy] != nil && r.roll.proves(*replies[legacy], time.Duration(r.limit.Load())) {
		return authz.NotRevoked, nil
	}
	return authz.Unknown, nil
}

// read returns one reply per key, nil for a key that is missing or failed, and
// the first error. One MGET is the cheapest for a server; a Cluster takes keys
// of different slots only as single commands.
func (r *Client) read(ctx context.Context, keys []string) ([]*string, error) {
	replies := make([]*string, len(keys))
	if !r.cfg.Cluster {
		// Not MGet: that takes any reply's number for the length of an array, so
		// that what the guard saw as a string's contents it would read as replies.
		args := make([]any, 1, 1+len(keys))
		args[0] = "mget"
		for _, k := range keys {
			args = append(args, k)
		}
		values, err := r.client.Do(ctx, args...).Slice()
		if err != nil {
			return nil, err
		}
		if len(values) != len(keys) {
			return nil, fmt.Errorf("MGET answered %d values for %d keys", len(values), len(keys))
		}
		for i, v := range values {
			if s, ok := v.(string); ok {
				replies[i] = &s
			}
		}
		return replies, nil
	}
	gets := make([]*redis.StringCmd, len(keys))
	pipe := r.client.Pipeline()
	for i, k := range keys {
		gets[i] = pipe.Get(ctx, k)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var first error
	for i, get := range gets {
		s, err := get.Result()
		switch {
		case err == nil:
			replies[i] = &s
		case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"): // as MGET has it
		case first == nil:
			first = err
		}
	}
	r.suspectTopology(ctx, first)
	return replies, first
}

// suspectTopology has the map of a Cluster read again after an error. go-redis
// does so by itself on MOVED, but not when a node is gone, and then knows of
// the failover up to a minute too late. The client keeps the readings apart.
func (r *Client) suspectTopology(ctx context.Context, err error) {
	if c, ok := r.client.(*redis.ClusterClient); ok && err != nil {
		c.ReloadState(ctx)
	}
}

// Seen records key for ttl and reports whether it was there already: the
// replay check of DPoP proofs (RFC 9449, section 11.1) and logout tokens
// across sidecars. On an error nothing is known. A failover may lose what was
// recorded in the moments before it.
func (r *Client) Seen(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	if ttl < time.Millisecond {
		ttl = time.Millisecond // SET refuses less, and a proof that old is refused elsewhere
	}
	sum := sha256.Sum256([]byte(key)) // fixed length, no foreign text in key names
	return do(ctx, r, func(ctx context.Context) (bool, error) {
		_, err := r.client.SetArgs(ctx, seenPrefix+hex.EncodeToString(sum[:]), "1", redis.SetArgs{Mode: "NX", TTL: ttl}).Result()
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, redis.Nil): // NX found the key
			return true, nil
		}
		return false, fmt.Errorf("redis: %w", err)
	})
}

// revokedKeys lists every key whose presence may revoke the token: its own
// first, then the older layout's.
func (r *Client) revokedKeys(q *authz.Query) []string {
	keys := make([]string, 0, len(q.Keys)+2)
	for _, k := range q.Keys {
		keys = append(keys, revokedKey(k))
	}
	if r.cfg.LegacyKeys && q.ID != "" {
		keys = append(keys, revokedPrefix+q.ID)
	}
	return keys
}

func revokedKey(k authz.Key) string { return keyName(revokedPrefix, k) }
func validKey(k authz.Key) string   { return keyName(validPrefix, k) }

func keyName(prefix string, k authz.Key) string {
	b := make([]byte, 0, len(prefix)+2*len(k))
	return string(hex.AppendEncode(append(b, prefix...), k[:]))
}

func formatEntry(e authz.Entry) string {
	if e.NotBefore == authz.Always {
		return always
	}
	return strconv.FormatInt(e.NotBefore, 10)
}

// parseEntry reads a stored not_before. What it cannot read revokes always:
// somebody put a revocation there, and that it does not match is not proven.
func parseEntry(s string) authz.Entry {
	nb, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		nb = authz.Always
	}
	return authz.Entry{NotBefore: nb}
}

var quietOnce sync.Once

// quietGoRedis stops the library from writing lines of its own to standard
// error: every failure it logs also comes back as an error and is logged here.
func quietGoRedis() { quietOnce.Do(func() { redis.SetLogger(silent{}) }) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
