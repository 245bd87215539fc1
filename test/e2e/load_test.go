package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestLoadScenario checks 100 tokens 10 times each with 50 workers, Redis and
// PostgreSQL. A third of the tokens is revoked beforehand, a tenth is forged.
// Every answer must be right, also when Redis stops midway.
//
// It runs alone and without the race detector: a check is cut off after 180 ms,
// and then 503 is a right answer but no success. A busy machine gets two more
// tries; a wrong answer fails at once.
func TestLoadScenario(t *testing.T) {
	for _, lookup := range []bool{false, true} {
		for _, stop := range []bool{false, true} {
			t.Run(fmt.Sprintf("lookup %t, redis stopped midway %t", lookup, stop), func(t *testing.T) {
				r := harness.NewRig(t, harness.RigOptions{Postgres: true, Redis: true, Lookup: lookup, NoFront: true, MaxStaleness: maxStaleness, SyncInterval: time.Second,
					Bouncer: harness.BouncerOptions{Plain: true}})
				for round := 1; ; round++ {
					right := runLoad(t, r, stop)
					if right > 0.999 || t.Failed() {
						return
					}
					require.NotEqualf(t, 3, round, "%.2f %% of the answers were right, want more than 99.9 %%", 100*right)
					if stop {
						r.Redis.Start(t)
					}
				}
			})
		}
	}
}

func runLoad(t *testing.T, r *harness.Rig, stopRedis bool) (share float64) {
	t.Helper()
	const tokens, each, workers = 100, 10, 50
	type subject struct {
		token string
		want  int
	}
	subjects := make([]subject, tokens)
	var revoke []map[string]any
	for i := range subjects {
		switch {
		case i%10 == 9:
			subjects[i] = subject{r.Issuer.Mint(nil, authztest.Tampered()), 401}
		case i%3 == 0:
			s := subject{r.Token(nil), 401}
			revoke = append(revoke, map[string]any{"jti": harness.Claim(s.token, "jti")})
			subjects[i] = s
		default:
			subjects[i] = subject{r.Token(nil), 200}
		}
	}
	c := harness.NewChecker(t, r.Bouncer.GRPC)
	r.Revoke(t, revoke)
	for _, s := range subjects {
		if s.want == 401 {
			harness.Eventually(t, maxStaleness+5*time.Second, "the revoked token is denied", func(ctx context.Context) error {
				if a := c.Check(ctx, s.token); a.Status != 401 {
					return fmt.Errorf("%+v", a)
				}
				return nil
			})
		}
	}
	jobs := make(chan subject, tokens*each)
	for range each {
		for _, s := range subjects {
			jobs <- s
		}
	}
	close(jobs)
	var right, unavailable, done atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for s := range jobs {
				if stopRedis && done.Add(1) == tokens*each/2 {
					r.Redis.Stop()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				a := c.Check(ctx, s.token)
				cancel()
				switch {
				case a.Err != nil:
					t.Errorf("RPC error: %v", a.Err)
				case a.Status == s.want:
					right.Add(1)
				case a.Status == 503:
					unavailable.Add(1) // not wrong, but not a success either
				default:
					t.Errorf("status %d, want %d: %s", a.Status, s.want, a.Detail)
				}
				mu.Lock()
				took = append(took, a.Took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total := time.Since(start)
	t.Logf("%d checks in %s, %d right, %d answered with 503; p50 %s, p99 %s", tokens*each, total.Round(time.Millisecond), right.Load(), unavailable.Load(),
		harness.Percentile(took, 50).Round(10*time.Microsecond), harness.Percentile(took, 99).Round(10*time.Microsecond))
	return float64(right.Load()) / (tokens * each)
}

// TestFanOut puts two sidecars that share PostgreSQL and Redis under load. Both
// deny a token that is revoked through one of them, no later than max_staleness
// after the receipt. The test logs how soon.
func TestFanOut(t *testing.T) {
	t.Parallel()
	for _, lookup := range []bool{false, true} {
		t.Run(fmt.Sprintf("lookup %t", lookup), func(t *testing.T) {
			t.Parallel()
			r := harness.NewRig(t, harness.RigOptions{Postgres: true, Redis: true, Faults: true, Lookup: lookup, Sidecars: 2, NoFront: true,
				MaxStaleness: maxStaleness, SyncInterval: time.Second, Bouncer: harness.BouncerOptions{Plain: true}})
			checkers := []*harness.Checker{harness.NewChecker(t, r.Bouncers[0].GRPC), harness.NewChecker(t, r.Bouncers[1].GRPC)}
			stop := backgroundLoad(t, r, checkers)
			defer stop()
			for _, c := range []struct {
				name   string
				rounds int
				fault  func()
			}{
				{"with Redis", 50, func() {}},
				{"with the subscriber's connection black-holed", 8, r.RedisProxy.BlackHole},
				{"without Redis", 8, func() { r.RedisProxy.Heal(); r.RedisProxy.Down() }},
			} {
				c.fault()
				var took []time.Duration
				for range c.rounds {
					took = append(took, revokeToDeny(t, r, checkers)...)
				}
				t.Logf("%s: from receipt to denial, %d measurements: p50 %s, p99 %s", c.name, len(took),
					harness.Percentile(took, 50).Round(10*time.Microsecond), harness.Percentile(took, 99).Round(10*time.Microsecond))
			}
		})
	}
}

// revokeToDeny revokes a token that all sidecars have just allowed, and returns
// how long after the receipt each sidecar first denied it.
func revokeToDeny(t *testing.T, r *harness.Rig, checkers []*harness.Checker) []time.Duration {
	t.Helper()
	token := r.Token(nil)
	for _, c := range checkers {
		harness.Eventually(t, 5*time.Second, "a new token is allowed", func(ctx context.Context) error {
			if a := c.Check(ctx, token); a.Status != 200 {
				return fmt.Errorf("%+v", a)
			}
			return nil
		})
	}
	r.Revoke(t, map[string]any{"jti": harness.Claim(token, "jti")})
	start := time.Now()
	took := make([]time.Duration, len(checkers))
	var wg sync.WaitGroup
	for i, c := range checkers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), maxStaleness+5*time.Second)
			defer cancel()
			var lastAllowed time.Duration
			for ctx.Err() == nil {
				sent := time.Since(start)
				a := c.Check(ctx, token)
				if a.Status == 200 {
					lastAllowed = sent
					if !assert.LessOrEqualf(t, sent, maxStaleness, "allowed by a check that began %s after the receipt; max_staleness", sent) {
						return
					}
				} else if a.Status == 401 {
					took[i] = time.Since(start)
					break
				}
				harness.Pause(ctx, 200*time.Microsecond)
			}
			assert.NotZerof(t, took[i], "never denied; last allowed by a check that began after %s", lastAllowed)
		})
	}
	wg.Wait()
	for _, c := range checkers {
		assert.NotEqual(t, 200, c.Check(t.Context(), token).Status, "allowed again after a denial")
	}
	return took
}

// backgroundLoad keeps the sidecars busy with new and known tokens until stop is
// called.
func backgroundLoad(t *testing.T, r *harness.Rig, checkers []*harness.Checker) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	hot := r.Token(nil)
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				token := hot
				if n%10 == 0 {
					token = r.Token(nil)
				}
				a := checkers[i%len(checkers)].Check(ctx, token)
				if ctx.Err() == nil {
					if assert.NoErrorf(t, a.Err, "a valid token under load: %+v", a) {
						assert.Falsef(t, a.Status != 200 && a.Status != 503, "a valid token under load: %+v", a)
					}
				}
				harness.Pause(ctx, time.Millisecond)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// TestStatementsPerCheck: in replica mode, the number of SQL statements depends
// on the number of syncs and not on the number of checks.
func TestStatementsPerCheck(t *testing.T) {
	t.Parallel()
	const interval = 500 * time.Millisecond
	r := harness.NewRig(t, harness.RigOptions{OwnPostgres: []string{"log_statement", "all", "log_min_messages", "warning"}, Redis: true, NoFront: true,
		SyncInterval: interval, Bouncer: harness.BouncerOptions{Plain: true}})
	c := harness.NewChecker(t, r.Bouncer.GRPC)
	tokens := make([]string, 500)
	for i := range tokens {
		tokens[i] = r.Token(nil)
	}
	syncsOuter := syncs(t, r)
	before, redisBefore := statements(r), redisCalls(t, r)
	syncsInner := syncs(t, r)
	start := time.Now()
	var checks atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := w; n < 20_000; n += 8 {
				a := c.Check(t.Context(), tokens[n%len(tokens)])
				if !assert.Equalf(t, 200, a.Status, "%+v", a) {
					return
				}
				checks.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	least := syncs(t, r) - syncsInner
	grew, redisGrew := statements(r)-before, redisCalls(t, r)-redisBefore
	most := syncs(t, r) - syncsOuter
	perMillion := float64(grew) / float64(checks.Load()) * 1e6
	t.Logf("%d checks in %s: %d PostgreSQL statements (%.0f per million checks), %d Redis commands", checks.Load(), took.Round(time.Millisecond), grew, perMillion, redisGrew)
	// One statement per sync and no other: nothing asks the store how it is. The
	// statements are counted between two readings of the syncs at either end, which may
	// take long, and a reading may be a second old: up to three syncs.
	assert.GreaterOrEqual(t, grew, least-3, "statements that the log does not show cannot be counted")
	assert.LessOrEqualf(t, grew, most+3, "%d SQL statements in %s, want at most %d, one per sync", grew, took, most+3)
	assert.LessOrEqual(t, least, int(time.Since(start)/(interval*3/4))+4, "syncs are at least three quarters of the interval apart")
}

// TestStatementsPerRevocation: with Redis, a revocation costs PostgreSQL its own
// statement and no other, however many sidecars enforce it: while they do, they
// send no more statements than idle ones. Their syncs are 20 minutes apart here,
// except for the one that a new subscription brings forward at random.
func TestStatementsPerRevocation(t *testing.T) {
	t.Parallel()
	const sidecars, revocations = 4, 40
	r := harness.NewRig(t, harness.RigOptions{OwnPostgres: []string{"log_statement", "all", "log_min_messages", "warning"}, Redis: true, NoFront: true,
		Sidecars: sidecars, MaxStaleness: time.Hour, SyncInterval: 20 * time.Minute, Bouncer: harness.BouncerOptions{Plain: true}})
	var checkers []*harness.Checker
	for _, b := range r.Bouncers {
		checkers = append(checkers, harness.NewChecker(t, b.GRPC))
		harness.Eventually(t, 10*time.Second, "the sidecar is subscribed", func(context.Context) error {
			if !strings.Contains(b.Metrics(t), "\njwt_bouncer_redis_subscribed 1\n") {
				return errors.New("it is not")
			}
			return nil
		})
	}
	count := func() int { // without pgx's ping of a connection that was idle for a second
		return statements(r) - strings.Count(r.PG.Log(), "statement: -- ping")
	}
	for i, state := range []string{"idle", "enforcing"} {
		before, start := count(), time.Now()
		harness.Pause(t.Context(), time.Second)
		for range i * revocations {
			assert.Less(t, slices.Max(revokeToDeny(t, r, checkers)), 5*time.Second, "a message brings the revocation")
		}
		extra := count() - before - i*revocations
		t.Logf("%s for %s: %d statements beside those of the revocations", state, time.Since(start).Round(time.Millisecond), extra)
		assert.LessOrEqualf(t, extra, sidecars, "%s: more statements than one sync of each sidecar", state)
	}
}
