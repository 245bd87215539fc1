package cache

import (
	"encoding/json"
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
	tokens *otter.Cache[string, *authz.Token]
	hits   prometheus.Counter
	misses prometheus.Counter
}

var _ authz.TokenCache = (*TokenCache)(nil)

// NewTokenCache returns a cache of at most maxBytes bytes whose entries are
// good for ttl.
func NewTokenCache(maxBytes int64, ttl time.Duration, reg prometheus.Registerer) *TokenCache {
	c := &TokenCache{
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "auth_cache_hits_total", Help: "Tokens found in the cache of verified tokens.",
		}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "auth_cache_misses_total", Help: "Tokens not found in the cache of verified tokens.",
		}),
	}
	c.tokens = otter.Must(&otter.Options[string, *authz.Token]{
		MaximumWeight:    uint64(maxBytes),
		Weigher:          func(_ string, t *authz.Token) uint32 { return weight(t) },
		ExpiryCalculator: otter.ExpiryWriting[string, *authz.Token](ttl),
	})
	if reg != nil {
		reg.MustRegister(c.hits, c.misses, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "jwt_bouncer_token_cache_bytes", Help: "Estimated memory of the tokens remembered.",
		}, func() float64 { return float64(c.tokens.WeightedSize()) }))
	}
	return c
}

// Get implements authz.TokenCache. It does not keep raw.
func (c *TokenCache) Get(raw string) (*authz.Token, bool) {
	t, ok := c.tokens.GetIfPresent(raw)
	if ok {
		c.hits.Inc()
	} else {
		c.misses.Inc()
	}
	return t, ok
}

// Put implements authz.TokenCache. t.Raw must not alias memory that is reused.
func (c *TokenCache) Put(t *authz.Token) { c.tokens.Set(t.Raw, t) }

// Close ends the cache's own goroutines.
func (c *TokenCache) Close() { c.tokens.StopAllGoroutines() }

// weight estimates what remembering t costs in bytes. Text that fields share
// with Raw or with Claims is counted twice rather than not at all.
func weight(t *authz.Token) uint32 {
	const (
		fixed  = 512 // the token, its keys, the cache's node, the map's bucket
		answer = 512 // the adapter's encoded answer beyond the claims it repeats
	)
	n := fixed + answer + len(t.Raw) + 2*len(t.Issuer) + len(t.Subject) + len(t.ID) + len(t.Session) + len(t.KeyID)
	for _, s := range t.Audience {
		n += 16 + len(s)
	}
	for _, s := range t.Scopes {
		n += 16 + len(s)
	}
	return uint32(min(n+2*weightOf(t.Claims), 1<<30))
}

func weightOf(v any) int {
	const header = 32 // an interface with what it points to, or a map's slot
	switch v := v.(type) {
	case string:
		return header + len(v)
	case json.Number:
		return header + len(v)
	case []any:
		n := header
		for _, e := range v {
			n += weightOf(e)
		}
		return n
	case map[string]any:
		n := 2 * header
		for k, e := range v {
			n += header + len(k) + weightOf(e)
		}
		return n
	}
	return header
}
