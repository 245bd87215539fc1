package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/cache"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// loadStorm starts followers at once on a store with so many revocations, and
// returns how long revoking took meanwhile and without them, and how long it took
// until all had loaded.
func loadStorm(t testing.TB, followers, revocations int) (alone, meanwhile []time.Duration, all time.Duration) {
	pg := harness.OwnPostgres(t, "max_connections", fmt.Sprint(2*followers+50))
	open := func() *store.Store {
		s, err := store.Open(t.Context(), pg.URL, store.Options{ConnectTimeout: time.Minute, WriteTimeout: time.Minute})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.Close()) })
		return s
	}
	revoker := open()
	require.NoError(t, revoker.Migrate(t.Context()))
	for range revocations / 20_000 {
		pg.Exec(t, `insert into authz.revocations (kind, iss, value) select 1, 'i', gen_random_uuid()::text from generate_series(1, 20000)`)
	}
	_, err := revoker.Pack(t.Context(), "n")
	require.NoError(t, err)
	n := 0
	revoke := func() time.Duration {
		n++
		start := time.Now()
		_, err := revoker.Append(t.Context(), []authz.Revocation{{Kind: authz.KindJTI, Issuer: "https://issuer.example", Value: fmt.Sprint(n), RevokedBy: "test"}})
		require.NoError(t, err)
		return time.Since(start)
	}
	for range 200 {
		alone = append(alone, revoke())
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	config := cache.DefaultRevocationConfig()
	var loaded []*cache.Follower
	for range followers {
		f := cache.NewFollower(open(), cache.NewReplica(), cache.FollowerOptions{Config: config})
		loaded = append(loaded, f)
		wg.Go(func() { _ = f.Run(ctx) })
	}
	start := time.Now()
	var done atomic.Bool
	wg.Go(func() {
		for _, f := range loaded {
			for !f.Ready() && ctx.Err() == nil {
				harness.Pause(ctx, 5*time.Millisecond)
			}
		}
		all = time.Since(start)
		done.Store(true)
	})
	for !done.Load() && ctx.Err() == nil {
		meanwhile = append(meanwhile, revoke())
		harness.Pause(ctx, 5*time.Millisecond)
	}
	return alone, meanwhile, all
}

// TestLoadsDoNotStarveRevoking: sidecars that start at once load in turn.
func TestLoadsDoNotStarveRevoking(t *testing.T) {
	alone, meanwhile, all := loadStorm(t, 30, 20_000)
	t.Logf("revoking took %s (p50) and %s (p99), and while 30 sidecars loaded, for %s, %s and %s", harness.Percentile(alone, 50), harness.Percentile(alone, 99),
		all.Round(time.Millisecond), harness.Percentile(meanwhile, 50), harness.Percentile(meanwhile, 99))
	assert.Less(t, harness.Percentile(meanwhile, 99), 2*time.Second)
}

// BenchmarkLoadStorm is the same with 200 sidecars and 200,000 revocations:
// go test ./test/e2e -run - -bench LoadStorm -benchtime 1x.
func BenchmarkLoadStorm(b *testing.B) {
	for b.Loop() {
		alone, meanwhile, all := loadStorm(b, 200, 200_000)
		for name, took := range map[string][]time.Duration{"alone": alone, "meanwhile": meanwhile} {
			b.ReportMetric(float64(harness.Percentile(took, 50).Microseconds())/1000, name+"-p50-ms")
			b.ReportMetric(float64(harness.Percentile(took, 99).Microseconds())/1000, name+"-p99-ms")
		}
		b.ReportMetric(all.Seconds(), "all-loaded-s")
	}
}
