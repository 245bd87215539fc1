package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// ask looks up one token as a request would.
func ask(ctx context.Context, s authz.Tier, r authz.Revocation, within time.Duration) (authz.Verdict, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	start := time.Now()
	v, err := s.Lookup(ctx, queryFor(r))
	return v, time.Since(start), err
}

// healed waits until lookups, writes and the feed work again.
func healed(t testing.TB, s *store.Store) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "healing", func(ctx context.Context) error {
		if v, _, err := ask(ctx, s, jti("good"), time.Second); v != authz.NotRevoked {
			return fmt.Errorf("lookup: %s, %w", v, err)
		}
		if _, err := s.Append(ctx, []authz.Revocation{jti("bad")}); err != nil {
			return err
		}
		if v, _, err := ask(ctx, s, jti("bad"), time.Second); v != authz.Revoked {
			return fmt.Errorf("lookup: %s, %w", v, err)
		}
		snap, err := s.Changes(ctx, authz.Position{}, "n", func(authz.Row) {})
		if err == nil && !snap.Proves {
			err = errors.New("no proof")
		}
		return err
	})
}

// Whatever happens to the server, there is no verdict without proof, an answer
// in time, few connections, and healing without a restart.
func TestPostgresFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		begin, end func(t *testing.T, pg *harness.PG, p *harness.FaultProxy)
	}{
		"paused": {
			func(_ *testing.T, pg *harness.PG, _ *harness.FaultProxy) { pg.Pause() },
			func(_ *testing.T, pg *harness.PG, _ *harness.FaultProxy) { pg.Resume() },
		},
		"stopped": {
			func(_ *testing.T, pg *harness.PG, _ *harness.FaultProxy) { pg.Stop() },
			func(t *testing.T, pg *harness.PG, _ *harness.FaultProxy) { pg.Start(t) },
		},
		"black hole": {
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.BlackHole() },
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Heal() },
		},
		"slow": {
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Latency(800 * time.Millisecond) },
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Heal() },
		},
		"reset": {
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Reset() },
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Heal() },
		},
		"answers cut": {
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Cut(7) },
			func(_ *testing.T, _ *harness.PG, p *harness.FaultProxy) { p.Heal() },
		},
		"table locked": {
			func(t *testing.T, pg *harness.PG, _ *harness.FaultProxy) {
				c := pg.Connect(t)
				sql(t, c, "set application_name = 'locker'")
				sql(t, c, "begin")
				sql(t, c, "lock table authz.revocations in access exclusive mode")
			},
			func(t *testing.T, pg *harness.PG, _ *harness.FaultProxy) {
				pg.Exec(t, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'locker' and datname = current_database()")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pg := harness.Postgres(t)
			if name == "paused" || name == "stopped" {
				pg = harness.OwnPostgres(t)
			}
			proxy := harness.Proxy(t, pg.Addr)
			open(t, pg.URL, store.Options{})
			reg := prometheus.NewRegistry()
			s := openOnly(t, pg.Via(proxy.Addr), store.Options{Registry: reg, LookupTimeout: 300 * time.Millisecond,
				ConnectTimeout: time.Second, WriteTimeout: 2 * time.Second, FeedTimeout: time.Second})
			healed(t, s)
			before := dials(t, reg)

			fault.begin(t, pg, proxy)
			var mu sync.Mutex
			var wg sync.WaitGroup
			slowest, unknown := time.Duration(0), 0
			for range 16 {
				wg.Go(func() {
					for range 50 { // most of them behind the open breaker
						v, took, err := ask(t.Context(), s, jti("bad"), 150*time.Millisecond)
						mu.Lock()
						slowest = max(slowest, took)
						switch {
						case v == authz.NotRevoked:
							t.Errorf("a revoked token is not revoked, %v", err)
						case v == authz.Unknown:
							unknown++
							assert.ErrorIs(t, err, authz.ErrUnavailable)
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			// the deadline is 150 ms; the rest is the test machine
			assert.LessOrEqualf(t, slowest, 2*time.Second, "an answer took %s", slowest)
			assert.NotZero(t, unknown, "no lookup failed: the fault had no effect")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			// A server that is merely slow may manage one of these in a second.
			_, err := s.Append(ctx, []authz.Revocation{jti("during")})
			if err == nil {
				assert.Equal(t, "slow", name, "revoked during the fault")
			}
			snap, err := s.Changes(ctx, authz.Position{}, "n", func(authz.Row) {})
			if err == nil || snap.Proves {
				assert.Equalf(t, "slow", name, "a sync during the fault: %+v", snap)
			}
			cancel()
			// Thousands of requests may not have become thousands of connections.
			assert.LessOrEqual(t, dials(t, reg)-before, float64(60), "dials")
			fault.end(t, pg, proxy)
			start := time.Now()
			healed(t, s)
			t.Logf("%d unknown, slowest %s, %v dials, healed after %s", unknown, slowest, dials(t, reg)-before, time.Since(start))
		})
	}
}

// dials is how many connections were tried.
func dials(t testing.TB, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "jwt_bouncer_store_connects_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == "tried" {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// While the breaker is open, no user's request goes to the server.
func TestBreakerProbesByItself(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	open(t, pg.URL, store.Options{})
	reg := prometheus.NewRegistry()
	s := openOnly(t, pg.Via(proxy.Addr), store.Options{Registry: reg, LookupTimeout: 200 * time.Millisecond})
	harness.Eventually(t, 20*time.Second, "the first lookup", func(ctx context.Context) error {
		_, err := s.Lookup(ctx, queryFor(jti("a")))
		return err
	})
	proxy.BlackHole()
	state := func() float64 {
		families, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "jwt_bouncer_store_breaker_state" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	harness.Eventually(t, 20*time.Second, "the breaker to open", func(ctx context.Context) error {
		s.Lookup(ctx, queryFor(jti("a")))
		if n := state(); n != 2 {
			return fmt.Errorf("state %v", n)
		}
		return nil
	})
	start := time.Now()
	for range 100 {
		v, err := s.Lookup(t.Context(), queryFor(jti("a")))
		require.Equalf(t, authz.Unknown, v, "%v", err)
		require.ErrorIsf(t, err, authz.ErrUnavailable, "%s", v)
	}
	// 100 timeouts would be 20 s
	took := time.Since(start)
	assert.LessOrEqualf(t, took, 10*time.Second, "100 lookups behind an open breaker took %s", took)
	proxy.Heal()
	// Without any more requests, it closes all the same.
	harness.Eventually(t, 20*time.Second, "the breaker to close", func(context.Context) error {
		if n := state(); n != 0 {
			return fmt.Errorf("state %v", n)
		}
		return nil
	})
	v, err := s.Lookup(t.Context(), queryFor(jti("a")))
	assert.Equalf(t, authz.NotRevoked, v, "%v", err)
	assert.NoErrorf(t, err, "%s", v)
	problems, err := testutil.GatherAndLint(reg)
	if assert.NoErrorf(t, err, "%v", problems) {
		assert.LessOrEqualf(t, len(problems), 0, "%v, %v", problems, err)
	}
}

// Sessions terminated by an administrator cost hardly a lookup.
func TestTerminatedSessions(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	failed := 0
	const rounds = 10
	for range rounds {
		for range 10 {
			if v, err := s.Lookup(t.Context(), queryFor(jti("a"))); v != authz.NotRevoked || err != nil {
				failed++
			}
		}
		pg.Terminate(t)
	}
	assert.LessOrEqualf(t, failed, rounds, "%d of %d lookups failed", failed, 10*rounds)
	healed(t, s)
}

// A sidecar starts while its database is away, says what is wrong, and heals.
func TestStartWithoutDatabase(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	open(t, pg.URL, store.Options{})
	pg.Stop()
	s := openOnly(t, pg.URL, store.Options{Password: func() (string, error) { return "s3cret", nil }, LookupTimeout: 500 * time.Millisecond})
	err := usable(t, s)
	assert.ErrorIs(t, err, authz.ErrUnavailable)
	assert.Containsf(t, err.Error(), pg.Addr, "%v", err)
	assert.Containsf(t, err.Error(), "postgres", "%v", err)
	assert.NotContainsf(t, fmt.Sprint(err), "s3cret", "the password is in %v", err)
	v, err := s.Lookup(t.Context(), queryFor(jti("a")))
	assert.Equalf(t, authz.Unknown, v, "%v", err)
	assert.ErrorIsf(t, err, authz.ErrUnavailable, "%s", v)
	_, err = s.Append(t.Context(), []authz.Revocation{jti("a")})
	assert.ErrorIs(t, err, authz.ErrUnavailable)
	for range 50 { // wake-ups during an outage are no storm of dials
		_, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		assert.ErrorIs(t, err, authz.ErrUnavailable)
	}
	pg.Start(t)
	healed(t, s)
}

// A pooler or proxy may answer with an error that has no SQLSTATE.
func TestErrorWithoutCode(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { refuseEverything(c) })
		}
	})
	s := openOnly(t, "postgres://u@"+l.Addr().String()+"/d?sslmode=disable", store.Options{})
	v, _, err := ask(t.Context(), s, jti("a"), 5*time.Second)
	assert.Equalf(t, authz.Unknown, v, "%v %v", v, err)
	assert.ErrorIsf(t, err, authz.ErrUnavailable, "%v %v", v, err)
	assert.Containsf(t, err.Error(), "no more connections", "%v %v", v, err)
}

func refuseEverything(c net.Conn) {
	defer c.Close()
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	for {
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
		if _, err := b.Receive(); err != nil {
			return
		}
		b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Message: "no more connections"})
	}
}
