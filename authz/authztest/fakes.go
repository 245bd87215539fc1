package authztest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"jwtbouncer/authz"
)

// MemoryCache is a cache of verdicts in memory, the tier and the filler of it. It
// passes their contract suites. The zero MemoryCache believes a verdict for 30 s.
type MemoryCache struct {
	authz.AlwaysWaits

	Clock authz.Clock // nil: authz.SystemClock

	mu      sync.Mutex
	revoked map[authz.Key]bool
	good    map[authz.Key]time.Duration // hash of the question → mark
}

var (
	_ authz.Tier   = (*MemoryCache)(nil)
	_ authz.Filler = (*MemoryCache)(nil)
)

func (c *MemoryCache) boot() time.Duration {
	if c.Clock == nil {
		return authz.SystemClock{}.Boot()
	}
	return c.Clock.Boot()
}

// Name implements authz.Tier.
func (*MemoryCache) Name() string { return "memory" }

// Lookup implements authz.Tier.
func (c *MemoryCache) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	question := q.Hash()
	mark, good := c.good[question]
	switch {
	case ctx.Err() != nil:
		return authz.Unknown, ctx.Err()
	case c.revoked[question]:
		return authz.Revoked, nil
	case good && c.boot()-mark <= 30*time.Second:
		return authz.NotRevoked, nil
	}
	return authz.Unknown, nil
}

// Begin implements authz.Filler.
func (c *MemoryCache) Begin(context.Context, *authz.Query) (mark time.Duration, ok bool) {
	return c.boot(), true
}

// Fill implements authz.Filler.
func (c *MemoryCache) Fill(q authz.Query, v authz.Verdict, mark time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil {
		c.good, c.revoked = map[authz.Key]time.Duration{}, map[authz.Key]bool{}
	}
	switch v {
	case authz.Revoked:
		c.revoked[q.Hash()] = true
	case authz.NotRevoked:
		if mark >= 0 {
			c.good[q.Hash()] = mark
		}
	}
}

// MemoryPublisher publishes into memory. It is the tier that sees the published
// revocations, too, and passes both contract suites.
type MemoryPublisher struct {
	authz.AlwaysWaits

	mu      sync.Mutex
	entries map[authz.Key]authz.Entry
}

var (
	_ authz.Publisher = (*MemoryPublisher)(nil)
	_ authz.Tier      = (*MemoryPublisher)(nil)
)

// Publish implements authz.Publisher.
func (p *MemoryPublisher) Publish(_ context.Context, revocations []authz.Revocation) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries := maps.Clone(p.entries)
	if entries == nil {
		entries = map[authz.Key]authz.Entry{}
	}
	for _, r := range revocations {
		e := r.Entry()
		if old, ok := entries[e.Key]; ok {
			e = e.Merge(old)
		}
		entries[e.Key] = e
	}
	p.entries = entries
	return true
}

// Name implements authz.Tier.
func (*MemoryPublisher) Name() string { return "memory" }

// Lookup implements authz.Tier.
func (p *MemoryPublisher) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if err := ctx.Err(); err != nil {
		return authz.Unknown, err
	}
	p.mu.Lock()
	entries := p.entries
	p.mu.Unlock()
	if slices.ContainsFunc(q.Keys, func(k authz.Key) bool {
		e, ok := entries[k]
		return ok && e.Revokes(q.IssuedAt)
	}) {
		return authz.Revoked, nil
	}
	return authz.Unknown, nil
}

// MemoryTokens is an authz.TokenCache without limits.
type MemoryTokens struct{ tokens sync.Map }

var _ authz.TokenCache = (*MemoryTokens)(nil)

// Get implements authz.TokenCache.
func (c *MemoryTokens) Get(raw string) (*authz.Token, bool) {
	t, ok := c.tokens.Load(raw)
	if !ok {
		return nil, false
	}
	return t.(*authz.Token), true //nolint:forcetypeassert // only Put stores
}

// Peek implements authz.TokenCache.
func (c *MemoryTokens) Peek(raw string) (*authz.Token, bool) { return c.Get(raw) }

// Put implements authz.TokenCache.
func (c *MemoryTokens) Put(t *authz.Token) { c.tokens.Store(t.Raw, t) }
