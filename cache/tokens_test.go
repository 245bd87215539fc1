package cache

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func token(i int) *authz.Token {
	t := &authz.Token{Raw: fmt.Sprintf("%s.%s.%010d", strings.Repeat("a", 100), strings.Repeat("b", 400), i) + strings.Repeat("c", 250), Issuer: "https://issuer.example", Subject: fmt.Sprint("user-", i),
		Claims: map[string]any{"sub": fmt.Sprint("user-", i), "iss": "https://issuer.example", "aud": []any{"api"}}}
	return t
}

func newTestTokens(maxBytes int64, ttl time.Duration, reg prometheus.Registerer) *TokenCache {
	return NewTokenCache(TokenCacheConfig{Enabled: true, MaxBytes: maxBytes, TTL: ttl}, reg)
}

func TestTokenCacheKeepsNoReferenceToTheRequest(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := newTestTokens(1<<20, time.Hour, reg)
	defer c.Close()
	one := token(1)
	buffer := []byte(one.Raw)
	alias := unsafe.String(&buffer[0], len(buffer))
	_, ok := c.Get(alias)
	assert.False(t, ok, "found before it was put")
	c.Put(one)
	got, ok := c.Get(alias)
	if assert.Truef(t, ok, "got %p %v", got, ok) {
		assert.Samef(t, one, got, "%v", ok)
	}
	copy(buffer, token(2).Raw) // the request's buffer is reused
	_, ok = c.Get(alias)
	assert.False(t, ok, "another token was taken for the remembered one")
	got, ok = c.Get(token(1).Raw)
	if assert.True(t, ok, "lost when the request's buffer changed") {
		assert.Same(t, one, got, "lost when the request's buffer changed")
	}
	for name, want := range map[string]float64{"auth_cache_hits_total": 2, "auth_cache_misses_total": 2} {
		assert.Equalf(t, want, metric(t, reg, name), "%s", name)
	}
}

// Peek leaves no trace: neither in the metrics nor in the order of eviction.
func TestTokenCachePeek(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := newTestTokens(1<<20, time.Hour, reg)
	defer c.Close()
	one := token(1)
	c.Put(one)
	got, ok := c.Peek(one.Raw)
	assert.True(t, ok)
	assert.Same(t, one, got)
	got, ok = c.Peek(token(2).Raw)
	assert.False(t, ok)
	assert.Nil(t, got)
	for _, name := range []string{"auth_cache_hits_total", "auth_cache_misses_total"} {
		assert.Zero(t, metric(t, reg, name), name)
	}
}

func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	require.NoError(t, err)
	sum, found := 0.0, false
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			found = true
		}
	}
	assert.Truef(t, found, "no metric %s", name)
	return sum
}

func TestTokenCacheForgetsAfterTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newTestTokens(1<<20, time.Hour, nil)
		defer c.Close()
		c.Put(token(1))
		time.Sleep(50 * time.Minute)
		c.Put(token(2))
		_, ok := c.Get(token(1).Raw)
		assert.True(t, ok, "forgotten long before its time")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		_, ok = c.Get(token(1).Raw)
		assert.False(t, ok, "remembered beyond the TTL")
		_, ok = c.Get(token(2).Raw)
		assert.True(t, ok, "forgotten with the other")
	})
}

// TestTokenCacheBytes fills the cache far beyond its limit with tokens of all sizes
// and checks that the heap grows no further than the limit.
func TestTokenCacheBytes(t *testing.T) {
	const limit = 16 << 20
	c := newTestTokens(limit, time.Hour, nil)
	defer c.Close()
	before := heap()
	for i := range 60_000 {
		k := token(i)
		if i%3 == 0 {
			roles := make([]any, 40)
			for j := range roles {
				roles[j] = fmt.Sprint("role-", i, "-", j)
			}
			k.Claims["roles"] = roles
		}
		if i%3 == 1 { // many small objects, which are short as text
			groups := make([]any, 200)
			for j := range groups {
				groups[j] = map[string]any{"id": true}
			}
			k.Claims["groups"] = groups
		}
		k.SetKeys()
		c.Put(k)
	}
	c.tokens.CleanUp()
	gained := heap() - before
	t.Logf("%d tokens, weight %d, heap %d", c.tokens.EstimatedSize(), c.tokens.WeightedSize(), gained)
	if c.tokens.WeightedSize() > limit || c.tokens.EstimatedSize() < 500 {
		t.Errorf("%d tokens weigh %d, limit %d", c.tokens.EstimatedSize(), c.tokens.WeightedSize(), limit)
	}
	assert.LessOrEqualf(t, gained, int64(limit*9/8), "the heap gained %d bytes, limit %d", gained, limit)
}

func TestTokenCacheConcurrent(t *testing.T) {
	t.Parallel()
	c := newTestTokens(1<<20, time.Hour, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				k := token((i * (g + 1)) % 700)
				if got, ok := c.Get(k.Raw); ok {
					if !assert.Equal(t, k.Raw, got.Raw, "another token's entry") {
						return
					}
				} else {
					c.Put(k)
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	c.Close()
	_, ok := c.Get(token(1).Raw)
	assert.False(t, ok, "closed, but not empty")
}

func BenchmarkTokenCache(b *testing.B) {
	c := newTestTokens(64<<20, time.Hour, nil)
	defer c.Close()
	var raws []string
	for i := range 1000 {
		t := token(i)
		c.Put(t)
		raws = append(raws, strings.Clone(t.Raw))
	}
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			_, ok := c.Get(raws[i%1000])
			require.True(b, ok, "missed")
		}
	})
	b.Run("hit-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			i := 0
			for pb.Next() {
				i++
				if _, ok := c.Get(raws[i%1000]); !ok {
					b.Fatal("missed")
				}
			}
		})
	})
	miss := token(5000).Raw
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, ok := c.Get(miss)
			require.False(b, ok, "hit")
		}
	})
	n := 10000
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n++
			c.Put(token(n))
		}
	})
}
