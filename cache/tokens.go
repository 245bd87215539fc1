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
	Enabled  bool          `yaml:"enabled" doc:"Remember verified tokens, so that a token seen before is not verified again; revocation is checked every time all the same."`
	MaxBytes int64         `yaml:"max_bytes" doc:"Memory for remembered tokens in bytes; the least used give way."`
	TTL      time.Duration `yaml:"ttl" doc:"A token is verified anew after this time, however long it is valid."`
}

// DefaultTokenCacheConfig returns the stanza as it is when nothing is written.
func DefaultTokenCacheConfig() TokenCacheConfig {
	return TokenCacheConfig{Enabled: true, MaxBytes: 64 << 20, TTL: time.Hour}
}

// Validate reports every fault of the stanza.
func (c *TokenCacheConfig) Validate(fault authz.Fault) {
	if !c.Enabled {
		return
	}
	if c.MaxBytes < 1<<20 || c.MaxBytes > 1<<40 {
		fault("max_bytes", "%d is not between 1 MiB (1048576) and 1 TiB; to do without the cache set enabled: off", c.MaxBytes)
	}
	if c.TTL < time.Second {
		fault("ttl", "%s is less than 1s; to do without the cache set enabled: off", c.TTL)
	}
}

// TokenCache remembers verified tokens by their whole text: another token is
// never taken for one that is remembered, whatever their hashes. It is bounded
// by bytes. Only what a Verifier accepted belongs into it.
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

// NewTokenCache returns a cache of at most c.MaxBytes bytes whose entries are
// good for c.TTL. Close ends it.
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
			Weigher:       func(_ string, r remembered) uint32 { return weight(r.token) },
		}),
	}
	// The library's own expiry reads the clock at every hit, which doubles its
	// cost; here nothing depends on the second.
	t.janitor = time.AfterFunc(t.every(), t.clean)
	if reg != nil {
		reg.MustRegister(t.hits, t.misses, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "jwt_bouncer_token_cache_bytes", Help: "Estimated memory of the tokens remembered.",
		}, func() float64 { return float64(t.tokens.WeightedSize()) }))
	}
	return t
}

// Get implements authz.TokenCache. It does not keep raw.
func (c *TokenCache) Get(raw string) (*authz.Token, bool) {
	r, ok := c.tokens.GetIfPresent(raw)
	if !ok {
		c.misses.Inc()
		return nil, false
	}
	c.hits.Inc()
	return r.token, true
}

// Put implements authz.TokenCache. t.Raw must not alias memory that is reused.
func (c *TokenCache) Put(t *authz.Token) { c.tokens.Set(t.Raw, remembered{t, time.Now()}) }

// Close forgets all tokens and ends what the cache does by itself.
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

// clean forgets every token that would be too old before the next cleaning.
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

// weight is what remembering t costs in bytes.
func weight(t *authz.Token) uint32 { return uint32(min(t.Size(), 1<<30)) }
