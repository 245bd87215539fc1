package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/statuslist"
	"jwtbouncer/cache"
	"jwtbouncer/store"
)

// core is everything behind the doors: verification, tiers, write path.
type core struct {
	rules      *Rules
	tokens     *cache.TokenCache // nil: switched off
	store      *store.Store
	redis      *cache.Redis    // nil: not configured
	replica    *cache.Replica  // nil: lookup mode
	follower   *cache.Follower // nil: lookup mode
	speakers   issuer.RevocationAwareVerifier
	statuses   *statuslist.Lists // nil: not configured
	revoker    *authz.Revoker
	authorizer *authz.Authorizer
	routes     atomic.Pointer[policy.Policy] // those the authorizer has
	log        *slog.Logger
	reloads    reloadMetrics
	loops      sync.WaitGroup
	storeWell  storeHealth
	asked      chan struct{} // closed when the store has been asked once, and got its schema if it had none
}

// newCore joins the parts. It needs no network: what is away is reported by
// readiness and heals by itself.
func newCore(s Settings, log *slog.Logger, registry prometheus.Registerer) (*core, error) {
	clock := authz.SystemClock{}
	c := &core{log: log, reloads: newReloadMetrics(registry), asked: make(chan struct{})}
	var err error
	defer func() {
		if err != nil {
			_ = c.close() // the cause is what matters
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
		c.redis.Limit(0, "") // until the store has told its max_staleness, and which it is
		tiers = append(tiers, c.redis)
	}
	tiers = append(tiers, c.store)
	c.revoker = authz.NewRevoker(c.store, c.publisher(), s.Revocation.MaxStaleness, clock)
	var tokens authz.TokenCache
	if s.Tokens.Enabled {
		c.tokens = cache.NewTokenCache(s.Tokens, registry)
		tokens = c.tokens
	}
	var replays policy.ReplayStore // nil: in memory
	if c.redis != nil {
		replays = c.redis // used proofs are known to every sidecar
	}
	if c.rules, err = NewRules(s, replays, log, registry); err != nil {
		return nil, err
	}
	chain := authz.NewChain(newTierMetrics(registry, tiers), tiers...)
	c.speakers = issuer.RevocationAwareVerifier{Verifier: c.rules.Verifier, Revocations: chain}
	if c.statuses, err = c.rules.StatusLists(s, chain, registry); err != nil {
		return nil, err
	}
	if c.statuses != nil {
		// An issuer's status lists say nothing about the revocations stored
		// here: both must find the token not revoked.
		chain = authz.NewChain(nil, authz.All(chain, c.statuses))
	}
	c.routes.Store(c.rules.Policy)
	c.authorizer = authz.NewAuthorizer(c.rules.Verifier, tokens, chain, c.rules.Policy, clock)
	return c, nil
}

// OpenStore opens the store that s names. It needs no network.
func OpenStore(s Settings, log *slog.Logger, registry prometheus.Registerer) (*store.Store, error) {
	var password func() (string, error)
	if s.StorePasswordFile != "" {
		password = func() (string, error) {
			text, err := os.ReadFile(s.StorePasswordFile)
			if err != nil {
				return "", fmt.Errorf("store_password_file: %w", err)
			}
			return strings.TrimRight(string(text), "\r\n"), nil
		}
		if _, err := password(); err != nil { // a wrong path is told at once, not at the first connection
			return nil, err
		}
	}
	return store.Open(context.Background(), s.Store, store.Options{
		Password: password, Logger: log, Registry: registry, Clock: authz.SystemClock{},
		MaxStaleness: s.Revocation.MaxStaleness, MaxTokenTTL: s.Revocation.MaxTokenTTL,
	})
}

// OpenRedis prepares the connections to the Redis that s names. It needs no network.
func OpenRedis(s Settings, log *slog.Logger, registry prometheus.Registerer) (*cache.Redis, error) {
	return cache.OpenRedis(s.Redis, cache.RedisOptions{
		MaxStaleness: s.Revocation.MaxStaleness, Fill: !s.Revocation.Replica, Clock: authz.SystemClock{}, Logger: log, Registry: registry,
	})
}

// publisher tells this process's own replica at once and the other sidecars
// through Redis. nil: there is neither.
func (c *core) publisher() authz.Publisher {
	if c.redis == nil && c.follower == nil {
		return nil
	}
	return publisher{c}
}

type publisher struct{ *core }

func (p publisher) Publish(ctx context.Context, revocations []authz.Revocation) bool {
	if p.follower != nil {
		// The caller was told that the token is revoked and may use this sidecar next.
		for i := range revocations {
			p.replica.Add(revocations[i].Entry())
		}
		p.follower.Hint()
	}
	return p.redis != nil && p.redis.Publish(ctx, revocations)
}

// schemaTime is how long a follower waits for the store to have a schema: one
// that does not answer must not keep it from asking for itself.
const schemaTime = 2 * time.Second

// start begins the background work, which ends with ctx.
func (c *core) start(ctx context.Context) {
	c.rules.Verifier.Start(ctx)
	c.loops.Go(func() { c.keepStore(ctx) })
	c.loops.Go(func() { c.store.RunGC(ctx) })
	if c.follower != nil {
		c.loops.Go(func() {
			select { // of a store without a schema there is nothing to read
			case <-c.asked:
			case <-time.After(schemaTime):
			}
			c.loop(ctx, "follower", c.follower.Run)
		})
		c.loops.Go(func() {
			c.loop(ctx, "store watch", func(ctx context.Context) error { return c.store.Watch(ctx, c.follower.Hint) })
		})
		if c.redis != nil {
			c.loops.Go(func() {
				c.loop(ctx, "subscriber", func(ctx context.Context) error { return c.redis.Subscribe(ctx, c.follower.Hint) })
			})
		}
	}
}

// loop runs one of the endless functions again should it end early, with an
// error or a panic.
func (c *core) loop(ctx context.Context, name string, f func(context.Context) error) {
	guarded := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				// What is in it may come from outside; the stack says enough.
				err = fmt.Errorf("panic: %T at %s", p, debug.Stack())
			}
		}()
		return f(ctx)
	}
	for {
		err := guarded()
		if ctx.Err() != nil {
			return
		}
		c.log.Error("background loop ended; starting it again", "loop", name, "error", err)
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// keepStore brings the schema up to date once the store can be reached, and
// keeps its state for readiness. From then on a follower's syncs tell how the
// store is; without one it is asked for its max_staleness all the time.
func (c *core) keepStore(ctx context.Context) {
	first := sync.OnceFunc(func() { close(c.asked) })
	for {
		err := c.askStore(ctx)
		first()
		changed := c.storeWell.set(err)
		switch {
		case ctx.Err() != nil:
			return
		case changed && err == nil:
			c.log.Info("store is usable", "store", c.store.Name())
		case changed:
			c.log.Error("store is not usable", "store", c.store.Name(), "error", err)
		}
		wait := 2 * time.Second
		switch {
		case err != nil:
			wait = 500 * time.Millisecond
		case c.follower != nil:
			return
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// askStore reports whether the store can be used. Until it could be for the
// first time, a schema that is missing is installed.
func (c *core) askStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	limits, err := c.limits(ctx)
	old := err == nil && limits.SchemaVersion < store.SchemaVersion
	switch {
	case c.storeWell.everWell() == nil:
		return err
	case old && c.store.Name() == "postgres":
		// It serves. Migrating is for somebody who may, and who is not behind
		// a pooler that hands the migration's lock to another session.
		c.log.Warn("the store's schema is old, run `jwt-bouncer migrate`", "version", limits.SchemaVersion, "current", store.SchemaVersion)
		return nil
	case old || errors.Is(err, store.ErrSchema):
		if err := c.store.Migrate(ctx); err != nil {
			return err
		}
		_, err = c.limits(ctx)
	}
	return err
}

// limits reads the fleet's limits and keeps to them. (A follower is told with
// every sync, and the store's own answers keep to max_token_ttl.)
func (c *core) limits(ctx context.Context) (store.Limits, error) {
	limits, err := c.store.Limits(ctx)
	if err == nil && c.redis != nil {
		c.redis.Limit(limits.MaxStaleness, limits.Identity)
	}
	return limits, err
}

// pause waits for d and reports whether ctx is still alive.
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

// storeHealth is what the last look at the store said.
type storeHealth struct {
	mu         sync.Mutex
	seen, ever bool
	err        error
}

// set reports whether the store went from usable to not, or back.
func (h *storeHealth) set(err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := !h.seen || (err == nil) != (h.err == nil)
	h.seen, h.err = true, err
	h.ever = h.ever || err == nil
	return changed
}

// everWell returns nil once the store has answered, else why it has not.
func (h *storeHealth) everWell() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ever:
		return nil
	case !h.seen:
		return errors.New("the store has not been asked yet")
	}
	return h.err
}

// parts are what /readyz lists. A sidecar is ready when it can prove things:
// keys of an issuer are there, and either everything has been loaded once or,
// in lookup mode, the store has answered once. It does not become unready when
// the store goes away later: it goes on denying with reasons, and taking every
// sidecar out of service at once would help nobody.
func (c *core) parts() []httpapi.Part {
	return []httpapi.Part{
		{Name: "keys", Ready: c.rules.Verifier.Ready},
		{Name: "revocations", Ready: c.revocationsReady},
	}
}

func (c *core) revocationsReady() error {
	if c.follower == nil {
		return c.storeWell.everWell()
	}
	if !c.follower.Ready() {
		return errors.Join(errors.New("the revocations have not been loaded yet"), c.storeWell.everWell())
	}
	return nil
}

func (c *core) ready() error {
	var errs []error
	for _, p := range c.parts() {
		if err := p.Ready(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// reload takes the routes of changed settings. Anything else that changed is
// named and waits for a restart; settings with a fault change nothing.
func (c *core) reload(running Settings, load func() (Settings, error), log *slog.Logger) {
	next, err := load()
	var routes *policy.Policy
	if err == nil {
		routes, err = policy.Compile(next.Routes, c.rules.options)
	}
	c.reloads.reloaded(err)
	if err != nil {
		log.Error("configuration not reloaded: nothing has changed", "error", err)
		return
	}
	c.routes.Store(routes)
	c.authorizer.SetPolicy(routes)
	log.Info("routes reloaded", "routes", len(next.Routes))
	if rest := restartNeeded(running, next); len(rest) > 0 {
		log.Warn("these settings changed as well and take effect with a restart", "settings", rest)
	}
}

// restartNeeded names the stanzas that differ, apart from routes.
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

// close ends what start began; ctx of start must have ended.
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
