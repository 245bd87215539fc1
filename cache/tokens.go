package cache

import (
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// TokenCacheConfig is the stanza "token_cache".
type TokenCacheConfig struct {
	Enabled  bool          `yaml:"enabled" doc:"Whether to remember verified tokens, so that a token seen before is not verified again. Revocation is checked on every request all the same."`
	MaxBytes int64         `yaml:"max_bytes" doc:"Memory for remembered tokens in bytes; the least used are evicted."`
	TTL      time.Duration `yaml:"ttl" doc:"Time after which a token is verified again, however long it is valid."`
}

// DefaultTokenCacheConfig returns the defaults.
func DefaultTokenCacheConfig() TokenCacheConfig {
	return TokenCacheConfig{Enabled: true, MaxBytes: 64 << 20, TTL: time.Hour}
}

// Validate reports every invalid field.
func (c *TokenCacheConfig) Validate(report authz.Report) {
	if !c.Enabled {
		return
	}
	if c.MaxBytes < 1<<20 || c.MaxBytes > 1<<40 {
		report("max_bytes", "must be between 1 MiB (1048576) and 1 TiB, is %d; to disable the cache set enabled: off", c.MaxBytes)
	}
	if c.TTL < time.Second {
		report("ttl", "must be at least 1s, is %s; to disable the cache set enabled: off", c.TTL)
	}
}

// TokenCache remembers verified tokens by their whole text, so that no hash
// collision can make it return another token. It is bounded in bytes. Only tokens
// that a Verifier accepted belong in it.
type TokenCache struct {
	tokens *otter.Cache[string, remembered]
	hits   prometheus.Counter
	misses prometheus.Counter
	ttl    time.Duration

	mu      sync.Mutex
	janitor *time.Timer // nil: closed
}

type remembered struct {
	token *authz.Token
	since time.Time
}

var _ authz.TokenCache = (*TokenCache)(nil)

// NewTokenCache returns a cache of at most c.MaxBytes bytes that forgets a token
// after c.TTL. The caller ends it with Close.
func NewTokenCache(c TokenCacheConfig, reg prometheus.Registerer) *TokenCache {
	t := &TokenCache{
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "auth_cache_hits_total", Help: "Tokens found in the cache of verified tokens.",
		}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "auth_cache_misses_total", Help: "Tokens not found in the cache of verified tokens.",
		}),
		ttl: c.TTL,
		tokens: otter.Must(&otter.Options[string, remembered]{
			MaximumWeight: uint64(c.MaxBytes),
			Weigher:       func(_ string, r remembered) uint32 { return uint32(min(r.token.Size(), 1<<30)) },
		}),
	}
	// The library's own expiry reads the clock at every hit, which doubles the cost
	// of a hit; here the exact second does not matter.
	t.janitor = time.AfterFunc(t.every(), t.clean)
	if reg != nil {
		reg.MustRegister(t.hits, t.misses, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "jwt_bouncer_token_cache_bytes", Help: "Estimated memory of the remembered tokens.",
		}, func() float64 { return float64(t.tokens.WeightedSize()) }))
	}
	return t
}

// Get implements authz.TokenCache. It keeps no reference to raw.
func (c *TokenCache) Get(raw string) (*authz.Token, bool) {
	r, ok := c.tokens.GetIfPresent(raw)
	if !ok {
		c.misses.Inc()
		return nil, false
	}
	c.hits.Inc()
	return r.token, true
}

// Peek implements authz.TokenCache.
func (c *TokenCache) Peek(raw string) (*authz.Token, bool) {
	e, ok := c.tokens.GetEntryQuietly(raw)
	return e.Value.token, ok
}

// Put implements authz.TokenCache. t.Raw must not alias memory that is reused.
func (c *TokenCache) Put(t *authz.Token) { c.tokens.Set(t.Raw, remembered{t, time.Now()}) }

// Close forgets all tokens and ends the background work.
func (c *TokenCache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.janitor == nil {
		return
	}
	c.janitor.Stop()
	c.janitor = nil
	c.tokens.InvalidateAll()
	c.tokens.StopAllGoroutines()
}

func (c *TokenCache) every() time.Duration { return max(c.ttl/16, time.Millisecond) }

// clean forgets the tokens that would be too old before the next cleaning.
func (c *TokenCache) clean() {
	oldest := time.Now().Add(c.every() - c.ttl)
	for raw, r := range c.tokens.All() {
		if r.since.Before(oldest) {
			c.tokens.Invalidate(raw)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.janitor != nil {
		c.janitor.Reset(c.every())
	}
}
