package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/secretfile"
	"jwtbouncer/authz/statuslist"
	"jwtbouncer/cache"
	"jwtbouncer/cache/rediscache"
	"jwtbouncer/store"
)

// core is the sidecar without its listeners: rules, tiers and write path.
type core struct {
	rules      *Rules
	tokens     *cache.TokenCache // nil: disabled
	store      *store.Store
	redis      *rediscache.Client // nil: not configured
	replica    *cache.Replica     // nil: lookup mode
	follower   *cache.Follower    // nil: lookup mode
	events     issuer.RevocationAwareVerifier
	statuses   *statuslist.Lists // nil: not configured
	revoker    *authz.Revoker
	authorizer *authz.Authorizer
	routes     atomic.Pointer[policy.Policy] // those the authorizer has
	// allowUnknown: tokens pass if it is unknown whether they are revoked.
	allowUnknown bool
	log          *slog.Logger
	reloads      reloadMetrics
	loops        sync.WaitGroup
	signals      atomic.Pointer[signals] // nil: not started, or no events are received
	storeErr     atomic.Pointer[error]   // why the store has never been usable; nil: it has been
	contact      authz.Contact           // with the store, in lookup mode
	prepared     chan struct{}           // closed after the first attempt to reach the store and to install a missing schema
}

var errNotContacted = errors.New("the store has not been contacted yet")

// newCore wires the parts. It needs no network: readiness reports unreachable
// dependencies, and the sidecar recovers when they return.
func newCore(s Settings, log *slog.Logger, registry prometheus.Registerer) (*core, error) {
	clock := authz.SystemClock{}
	c := &core{log: log, reloads: newReloadMetrics(registry), prepared: make(chan struct{}), contact: authz.Contact{Clock: clock}, allowUnknown: s.Revocation.OnRevocationUnknown == "allow"}
	c.storeErr.Store(&errNotContacted)
	var err error
	defer func() {
		if err != nil {
			_ = c.close() // err is the cause
		}
	}()
	if c.store, err = OpenStore(s, log, registry); err != nil {
		return nil, err
	}
	var tiers []authz.Tier
	if s.Revocation.Replica {
		c.replica = cache.NewReplica()
		c.follower = cache.NewFollower(c.store, c.replica, cache.FollowerOptions{Config: s.Revocation, Clock: clock, Logger: log, Registry: registry})
		tiers = append(tiers, cache.NewReplicaTier(c.follower))
	}
	if s.Redis.Enabled() {
		if c.redis, err = OpenRedis(s, log, registry); err != nil {
			return nil, err
		}
		c.redis.Limit(0, "") // until the store has reported its max_staleness and its identity
		tiers = append(tiers, c.redis)
	}
	tiers = append(tiers, c.store)
	var to authz.Publisher // nil: nothing to notify
	if c.redis != nil || c.follower != nil {
		to = publisher{c}
	}
	c.revoker = authz.NewRevoker(c.store, to, clock)
	var tokens authz.TokenCache
	if s.Tokens.Enabled {
		c.tokens = cache.NewTokenCache(s.Tokens, registry)
		tokens = c.tokens
	}
	var replays authz.ReplayStore // nil: in memory
	if c.redis != nil {
		d := s.Binding.DPoP // used proofs are known to every sidecar
		replays = policy.NewSharedReplay(policy.NewMemoryReplay(d.ReplayEntries, clock), c.redis, d.OnReplayUnknown == "allow")
	}
	if c.rules, err = NewRules(s, replays, log, registry); err != nil {
		return nil, err
	}
	chain := authz.NewChain(newTierMetrics(registry, tiers), tiers...)
	c.events = issuer.RevocationAwareVerifier{Verifier: c.rules.Verifier, Revocations: chain}
	if c.statuses, err = c.rules.StatusLists(s, chain, registry); err != nil {
		return nil, err
	}
	var revocations authz.Tier = chain
	if c.statuses != nil {
		// An issuer's status lists say nothing about the revocations stored
		// here: both must find the token not revoked.
		revocations = authz.All(chain, c.statuses)
	}
	c.routes.Store(c.rules.Policy)
	c.authorizer = authz.NewAuthorizer(c.rules.Verifier, tokens, revocations, c.rules.Policy, clock)
	return c, nil
}

// revoked returns the channel that receives when revocations have become known; nil in
// lookup mode.
func (c *core) revoked() <-chan struct{} {
	if c.follower == nil {
		return nil
	}
	return c.follower.Revoked()
}

// OpenStore returns the store that s names. It needs no network.
func OpenStore(s Settings, log *slog.Logger, registry prometheus.Registerer) (*store.Store, error) {
	var password func() (string, error)
	if s.StorePasswordFile != "" {
		password = func() (string, error) {
			secret, err := secretfile.Read(s.StorePasswordFile)
			if err != nil {
				return "", fmt.Errorf("store_password_file: %w", err)
			}
			return secret, nil
		}
		if _, err := password(); err != nil { // fail now, not at the first connection
			return nil, err
		}
	}
	return store.Open(context.Background(), s.Store, store.Options{
		Password: password, Logger: log, Registry: registry, Clock: authz.SystemClock{},
		MaxStaleness: s.Revocation.MaxStaleness, MaxTokenTTL: s.Revocation.MaxTokenTTL,
		Standbys: s.StoreStandby,
	})
}

// OpenRedis returns the Redis that s names. It needs no network.
func OpenRedis(s Settings, log *slog.Logger, registry prometheus.Registerer) (*rediscache.Client, error) {
	return rediscache.Open(s.Redis, rediscache.Options{
		MaxStaleness: s.Revocation.MaxStaleness, Fill: !s.Revocation.Replica, Clock: authz.SystemClock{}, Logger: log, Registry: registry,
	})
}

// publisher adds revocations to this process's own replica at once and publishes
// them to the other sidecars through Redis.
type publisher struct{ *core }

// Publish implements authz.Publisher.
func (p publisher) Publish(ctx context.Context, revocations []authz.Revocation) bool {
	if p.follower != nil {
		p.follower.Add(revocations) // a caller that has its receipt may send a revoked token here next
	}
	return p.redis != nil && p.redis.Publish(ctx, revocations)
}

// schemaTimeout limits how long the follower waits for the store's schema before
// it tries to sync anyway.
const schemaTimeout = 2 * time.Second

// start begins the background work, which ends with ctx.
func (c *core) start(ctx context.Context) {
	c.rules.Verifier.Start(ctx)
	c.loops.Go(func() { c.watchStore(ctx) })
	c.loops.Go(func() { c.store.RunGC(ctx) })
	if c.follower != nil {
		c.loops.Go(func() {
			select { // a store without a schema cannot be read
			case <-c.prepared:
			case <-time.After(schemaTimeout):
			}
			c.loop(ctx, "follower", c.follower.Run)
		})
		c.loops.Go(func() {
			c.loop(ctx, "store watch", func(ctx context.Context) error { return c.store.Watch(ctx, c.follower.Notify) })
		})
		if c.redis != nil {
			c.loops.Go(func() {
				c.loop(ctx, "subscriber", func(ctx context.Context) error { return c.redis.Subscribe(ctx, c.follower.Learn) })
			})
		}
	}
}

// loop runs f until ctx ends. It starts f again if f returns early or panics.
func (c *core) loop(ctx context.Context, name string, f func(context.Context) error) {
	for {
		err := guarded(func() error { return f(ctx) })
		if ctx.Err() != nil {
			return
		}
		c.log.Error("background loop ended early; restarting it", "loop", name, "error", err)
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// guarded runs f and turns a panic into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The value may contain input; the stack says enough.
			err = fmt.Errorf("panic: %T at %s", p, debug.Stack())
		}
	}()
	return f()
}

// firstStoreRetry is the mean wait after the store could not be prepared. It doubles
// with every further failure up to two seconds.
const firstStoreRetry = 250 * time.Millisecond

// watchStore prepares the store as soon as it can be reached. With a follower it
// returns then, because syncs report the store's health; without one it goes on
// reading the store's limits.
func (c *core) watchStore(ctx context.Context) {
	var last error
	retry := firstStoreRetry
	for tried := false; ; tried = true {
		err := c.prepareStore(ctx)
		c.contact.Record(err)
		if !tried {
			close(c.prepared)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			c.storeErr.Store(nil)
		case c.storeErr.Load() != nil:
			c.storeErr.Store(&err)
		}
		changed := !tried || (err == nil) != (last == nil)
		last = err
		switch {
		case changed && err == nil:
			c.log.Info("store is usable", "store", c.store.Name())
		case changed:
			c.log.Error("store is not usable", "store", c.store.Name(), "error", err)
		}
		wait := 2 * time.Second
		switch {
		case err != nil:
			wait, retry = breaker.Jitter(retry, 0.5), min(2*retry, wait)
		case c.follower != nil:
			return
		default:
			retry = firstStoreRetry
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// prepareStore reports whether the store is usable. Until it has been usable
// once, it installs a missing schema.
func (c *core) prepareStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := c.limits(ctx)
	if c.firstError() == nil || !errors.Is(err, store.ErrSchema) {
		return err
	}
	if err := c.store.Migrate(ctx); err != nil {
		return err
	}
	return c.limits(ctx)
}

// firstError returns nil once the store has been usable, else why it is not.
func (c *core) firstError() error {
	if err := c.storeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// limits reads the store's limits and applies them to Redis. (The follower gets
// them with every sync, and the store applies max_token_ttl itself.)
func (c *core) limits(ctx context.Context) error {
	limits, err := c.store.Limits(ctx)
	if err == nil && c.redis != nil {
		c.redis.Limit(limits.MaxStaleness, limits.Incarnation)
	}
	return err
}

// pause waits for d and reports whether ctx is still active.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reload applies the routes of changed settings and logs which other stanzas need
// a restart. Invalid settings, and a panic while they are read, change nothing.
func (c *core) reload(running Settings, load func() (Settings, error), log *slog.Logger) {
	var next Settings
	var routes *policy.Policy
	var rest []string
	err := guarded(func() (err error) {
		if next, err = load(); err != nil {
			return err
		}
		rest = restartNeeded(running, next)
		routes, err = policy.Compile(next.Routes, c.rules.options)
		return err
	})
	c.reloads.reloaded(err)
	if err != nil {
		log.Error("configuration not reloaded; the running one stays in force", "error", err)
		return
	}
	c.routes.Store(routes)
	c.authorizer.SetPolicy(routes)
	log.Info("routes reloaded", "routes", len(next.Routes))
	if len(rest) > 0 {
		log.Warn("other changed settings take effect with a restart", "settings", rest)
	}
}

// restartNeeded returns the names of the stanzas that differ, except routes.
func restartNeeded(a, b Settings) []string {
	var names []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !va.Type().Field(i).IsExported() {
			continue
		}
		name := va.Type().Field(i).Tag.Get("yaml")
		if name != "routes" && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}

// close waits for the background work and closes the parts. The context of start
// must have ended.
func (c *core) close() error {
	c.loops.Wait()
	var errs []error
	if c.rules != nil {
		c.rules.Close()
	}
	if c.tokens != nil {
		c.tokens.Close()
	}
	if c.statuses != nil {
		c.statuses.Close()
	}
	if c.redis != nil {
		errs = append(errs, c.redis.Close())
	}
	if c.store != nil {
		errs = append(errs, c.store.Close())
	}
	return errors.Join(errs...)
}
