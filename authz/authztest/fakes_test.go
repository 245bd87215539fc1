package authztest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// memoryReplay is the plainest replay store.
type memoryReplay struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (m *memoryReplay) Seen(_ context.Context, key string, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().Before(m.until[key]) {
		return true, nil
	}
	if m.until == nil {
		m.until = map[string]time.Time{}
	}
	m.until[key] = time.Now().Add(ttl)
	return false, nil
}

func TestFakesKeepTheContracts(t *testing.T) {
	t.Parallel()
	t.Run("replay store", func(t *testing.T) {
		t.Parallel()
		TestReplayStore(t, func(*testing.T) authz.ReplayStore { return &memoryReplay{} })
	})
	t.Run("filler", func(t *testing.T) {
		t.Parallel()
		TestFiller(t, func(*testing.T) FillerSubject { return FillerSubject{&MemoryCache{}} })
	})
	t.Run("publisher", func(t *testing.T) {
		t.Parallel()
		p := &MemoryPublisher{}
		TestPublisher(t, func(*testing.T) PublisherSubject { return PublisherSubject{p, p} })
		TestTier(t, func(*testing.T) TierSubject {
			ledger := &Memory{} // fills what a ledger fills
			return TierSubject{Tier: p, Revoke: func(ctx context.Context, r ...authz.Revocation) error {
				appended, err := ledger.Append(ctx, r)
				p.Publish(ctx, appended.Revocations)
				return err
			}}
		})
	})
	t.Run("token cache", func(t *testing.T) {
		t.Parallel()
		TestTokenCache(t, func(*testing.T) authz.TokenCache { return &MemoryTokens{} })
	})
}

// brokenReplay changes what goes into a replay store and what comes out.
type brokenReplay struct {
	memoryReplay
	in  func(ctx context.Context, key string, ttl time.Duration) (string, time.Duration)
	out func(ctx context.Context, seen bool) bool
}

func (b *brokenReplay) Seen(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	if b.in != nil {
		key, ttl = b.in(ctx, key, ttl)
	}
	seen, err := b.memoryReplay.Seen(ctx, key, ttl)
	if b.out != nil {
		seen = b.out(ctx, seen)
	}
	return seen, err
}

func TestReplaySuiteCatches(t *testing.T) {
	t.Parallel()
	always := func(_ context.Context, key string, _ time.Duration) (string, time.Duration) { return key, time.Hour }
	for name, c := range map[string]struct {
		broken *brokenReplay
		caught string
	}{
		"never seen":    {&brokenReplay{out: func(context.Context, bool) bool { return false }}, "only the first use of a key is new"},
		"seen for ever": {&brokenReplay{in: func(_ context.Context, key string, _ time.Duration) (string, time.Duration) { return key, 0 }}, "remembers for the ttl and forgets"},
		"case-blind": {&brokenReplay{in: func(_ context.Context, key string, ttl time.Duration) (string, time.Duration) {
			return strings.ToLower(key), ttl
		}}, "every key is its own"},
		"seen without user": {&brokenReplay{in: always, out: func(ctx context.Context, seen bool) bool { return seen || ctx.Err() != nil }}, "a caller who left"},
		"all seen":          {&brokenReplay{out: func(context.Context, bool) bool { return true }}, "a ttl of zero or less"},
		"none seen":         {&brokenReplay{out: func(context.Context, bool) bool { return false }}, "new once, under concurrency"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caught(t, authz.ReplayStore(c.broken), ReplayCases(), c.caught)
		})
	}
}

// brokenFiller makes a different fill, and a different answer.
type brokenFiller struct {
	MemoryCache
	fill   func(c *MemoryCache, q authz.Query, v authz.Verdict, mark time.Duration)
	lookup func(c *MemoryCache, q *authz.Query, v authz.Verdict) authz.Verdict
}

func (b *brokenFiller) Fill(q authz.Query, v authz.Verdict, mark time.Duration) {
	if b.fill != nil {
		b.fill(&b.MemoryCache, q, v, mark)
		return
	}
	b.MemoryCache.Fill(q, v, mark)
}

func (b *brokenFiller) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	v, err := b.MemoryCache.Lookup(ctx, q)
	if b.lookup != nil {
		v = b.lookup(&b.MemoryCache, q, v)
	}
	return v, err
}

// keyedBy is a filler that knows no more of a question than one key.
func keyedBy(key func(*authz.Query) authz.Key) *brokenFiller {
	return &brokenFiller{
		fill: func(c *MemoryCache, q authz.Query, v authz.Verdict, mark time.Duration) {
			c.Fill(authz.Query{TokenKey: key(&q)}, v, mark)
		},
		lookup: func(c *MemoryCache, q *authz.Query, _ authz.Verdict) authz.Verdict {
			v, _ := c.Lookup(context.Background(), &authz.Query{TokenKey: key(q)})
			return v
		},
	}
}

func TestFillerSuiteCatches(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		broken *brokenFiller
		caught string
	}{
		"forgets revocations": {&brokenFiller{fill: func(c *MemoryCache, q authz.Query, v authz.Verdict, mark time.Duration) {
			c.Fill(q, v, mark)
			if v == authz.NotRevoked {
				delete(c.revoked, q.Hash())
			}
		}}, "revoked wins over not revoked"},
		"by the jti":   {keyedBy(func(q *authz.Query) authz.Key { return q.Keys[0] }), "learns nothing about other tokens"},
		"by the token": {keyedBy(func(q *authz.Query) authz.Key { return q.TokenKey }), "learns nothing about other questions"},
		"unknown is good": {&brokenFiller{fill: func(c *MemoryCache, q authz.Query, v authz.Verdict, mark time.Duration) {
			if v == authz.Unknown {
				v = authz.NotRevoked
			}
			c.Fill(q, v, mark)
		}}, "learns nothing from Unknown"},
		"believes everything": {&brokenFiller{fill: func(c *MemoryCache, q authz.Query, v authz.Verdict, _ time.Duration) {
			c.Fill(q, v, c.boot())
		}}, "does not believe what is too old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caught(t, FillerSubject{c.broken}, FillerCases(), c.caught)
		})
	}
}

// brokenPublisher changes what is published.
type brokenPublisher struct {
	MemoryPublisher
	publish func(ctx context.Context, p *MemoryPublisher, rs []authz.Revocation) bool
}

func (b *brokenPublisher) Publish(ctx context.Context, rs []authz.Revocation) bool {
	return b.publish(ctx, &b.MemoryPublisher, rs)
}

func TestPublisherSuiteCatches(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		publish func(ctx context.Context, p *MemoryPublisher, rs []authz.Revocation) bool
		caught  string
	}{
		"only claims to": {func(context.Context, *MemoryPublisher, []authz.Revocation) bool { return true }, "others see each kind at once"},
		"nothing is a failure": {func(ctx context.Context, p *MemoryPublisher, rs []authz.Revocation) bool {
			return p.Publish(ctx, rs) && len(rs) > 0
		}, "nothing to publish"},
		"replaces": {func(_ context.Context, p *MemoryPublisher, rs []authz.Revocation) bool {
			p.entries = map[authz.Key]authz.Entry{}
			for _, r := range rs {
				p.entries[r.Key()] = r.Entry()
			}
			return true
		}, "publishing again weakens nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &brokenPublisher{publish: c.publish}
			caught(t, PublisherSubject{b, b}, PublisherCases(), c.caught)
		})
	}
	t.Run("loses what its caller left", func(t *testing.T) {
		t.Parallel()
		b := &brokenPublisher{publish: func(ctx context.Context, p *MemoryPublisher, rs []authz.Revocation) bool {
			return ctx.Err() == nil && p.Publish(ctx, rs)
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // the case would wait for the background
		defer cancel()
		if publishCanceled(ctx, PublisherSubject{b, b}) == nil {
			t.Error("not caught")
		}
	})
}

// brokenTokens looks tokens up by a part of their text.
type brokenTokens struct {
	MemoryTokens
	key func(raw string) string
}

func (b *brokenTokens) Get(raw string) (*authz.Token, bool) { return b.MemoryTokens.Get(b.key(raw)) }
func (b *brokenTokens) Put(t *authz.Token)                  { b.tokens.Store(b.key(t.Raw), t) }

func TestTokenCacheSuiteCatches(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(string) string{
		"trims":      strings.TrimSpace,
		"case-blind": strings.ToLower,
		"a prefix":   func(raw string) string { return raw[:min(len(raw), 10)] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caught(t, authz.TokenCache(&brokenTokens{key: key}), TokenCacheCases(), "never returns another token")
		})
	}
}
