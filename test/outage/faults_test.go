package outage

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

const (
	withinStaleness = 1500 * time.Millisecond      // short enough for the replica to stay fresh
	beyondStaleness = maxStaleness + 2*time.Second // so long that nothing stays fresh
)

// fault is one way in which a dependency fails.
type fault struct {
	name string
	hold time.Duration // how long it lasts
	// inject causes the fault and returns the function that heals it.
	inject func(t *testing.T, r *harness.Rig) (heal func())
	// The share of valid tokens that must be allowed during the fault, in
	// replica and in lookup mode.
	replica, lookup float64
}

var redisFaults = []fault{
	{"redis killed and restarted empty", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.Redis.Stop()
		return func() { r.Redis.Start(t) }
	}, 1, 0.9},
	{"redis frozen (SIGSTOP)", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		must(t, r.Redis.Pause())
		return func() { must(t, r.Redis.Resume()) }
	}, 1, 0.9},
	{"redis black hole", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.BlackHole()
		return r.RedisProxy.Heal
	}, 1, 0.9},
	{"redis 60 ms slow", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.Latency(60 * time.Millisecond)
		return r.RedisProxy.Heal
	}, 1, 0.9},
	{"redis 800 ms slow", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.Latency(800 * time.Millisecond)
		return r.RedisProxy.Heal
	}, 1, 0.9},
	{"redis resets connections", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.Reset()
		return r.RedisProxy.Heal
	}, 1, 0.9},
	{"redis replies truncated", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.Cut(7)
		return r.RedisProxy.Heal
	}, 1, 0.9},
	{"redis flapping", 2 * time.Second, func(t *testing.T, r *harness.Rig) func() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				r.RedisProxy.Down()
				harness.Pause(ctx, 100*time.Millisecond)
				r.RedisProxy.Heal()
				harness.Pause(ctx, 100*time.Millisecond)
			}
		}()
		return func() { cancel(); <-done; r.RedisProxy.Heal() }
	}, 1, 0.9},
	{"redis DEBUG SLEEP", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		done := make(chan struct{})
		go func() { defer close(done); r.Redis.Do(t, "DEBUG", "SLEEP", "1.4") }()
		return func() { <-done }
	}, 1, 0.9},
	{"redis CLIENT PAUSE", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.Redis.Do(t, "CLIENT", "PAUSE", 1400, "ALL")
		return func() {}
	}, 1, 0.9},
	{"redis READONLY", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		other := harness.Redis(t)
		host, port, err := net.SplitHostPort(other.Addr)
		must(t, err)
		r.Redis.Do(t, "REPLICAOF", host, port)
		return func() { r.Redis.Do(t, "REPLICAOF", "NO", "ONE") }
	}, 1, 0.9},
	{"redis out of memory", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.Redis.Do(t, "CONFIG", "SET", "maxmemory", "1")
		return func() { r.Redis.Do(t, "CONFIG", "SET", "maxmemory", "0") }
	}, 1, 0.9},
	{"redis evicts", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.Redis.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
		r.Redis.Do(t, "CONFIG", "SET", "maxmemory", "1")
		return func() { r.Redis.Do(t, "CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction") }
	}, 1, 0.9},
	{"redis FLUSHALL repeatedly", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		return repeat(t, 20*time.Millisecond, func() { r.Redis.Do(t, "FLUSHALL") })
	}, 1, 0.9},
	{"redis maxclients reached", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.Redis.Do(t, "CONFIG", "SET", "maxclients", "1")
		r.RedisProxy.Drop()
		return func() {
			r.Redis.Stop() // a CONFIG SET would need a connection
			r.Redis.Start(t)
		}
	}, 1, 0.9},
	{"redis password changed", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.Redis.Do(t, "CONFIG", "SET", "requirepass", "changed")
		r.RedisProxy.Drop()
		return func() {
			r.Redis.Stop()
			r.Redis.Start(t)
		}
	}, 1, 0.9},
	{"redis subscribers killed repeatedly", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		return repeat(t, 50*time.Millisecond, func() { r.Redis.Do(t, "CLIENT", "KILL", "TYPE", "pubsub") })
	}, 1, 0.9},
}

var postgresFaults = []fault{
	{"postgres stopped", withinStaleness, stopPostgres, 1, 0},
	{"postgres stopped beyond max_staleness", beyondStaleness, stopPostgres, 0, 0},
	{"postgres killed", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.PG.Crash()
		return func() { r.PG.Start(t) }
	}, 1, 0},
	{"postgres frozen (SIGSTOP)", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		must(t, r.PG.Pause())
		return func() { must(t, r.PG.Resume()) }
	}, 1, 0},
	{"postgres black hole", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.BlackHole()
		return r.PGProxy.Heal
	}, 1, 0},
	{"postgres black hole beyond max_staleness", beyondStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.BlackHole()
		return r.PGProxy.Heal
	}, 0, 0},
	{"postgres responses lost", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.BlackHoleAnswers()
		return r.PGProxy.Heal
	}, 1, 0},
	{"postgres 60 ms slow", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.Latency(60 * time.Millisecond)
		return r.PGProxy.Heal
	}, 1, 0},
	{"postgres 800 ms slow", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.Latency(800 * time.Millisecond)
		return r.PGProxy.Heal
	}, 1, 0},
	{"postgres resets connections", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.Reset()
		return r.PGProxy.Heal
	}, 1, 0},
	{"postgres responses truncated", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.PGProxy.Cut(600)
		return r.PGProxy.Heal
	}, 1, 0},
	{"postgres sessions terminated", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.PG.Terminate(t)
		return func() {}
	}, 1, 0.9},
	{"postgres sessions terminated repeatedly", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		return repeat(t, 300*time.Millisecond, func() { r.PG.Terminate(t) })
	}, 1, 0.9},
	{"postgres table locked", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		c := r.PG.Connect(t)
		tx, err := c.Begin(t.Context())
		must(t, err)
		_, err = tx.Exec(t.Context(), "lock table authz.revocations in access exclusive mode")
		must(t, err)
		return func() { must(t, tx.Rollback(context.WithoutCancel(t.Context()))) }
	}, 1, 0},
	{"postgres read-only", withinStaleness, func(t *testing.T, r *harness.Rig) func() {
		r.PG.Exec(t, "alter database "+r.PG.Database+" set default_transaction_read_only = on")
		r.PG.Terminate(t)
		return func() {
			c := r.PG.Use("postgres").Connect(t)
			_, err := c.Exec(t.Context(), "alter database "+r.PG.Database+" set default_transaction_read_only = off")
			must(t, err)
			r.PG.Terminate(t)
		}
	}, 1, 0.9},
	{"postgres connections exhausted", withinStaleness, exhaust, 1, 0},
}

var bothFaults = []fault{
	{"both black holes", withinStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.BlackHole()
		r.PGProxy.BlackHole()
		return func() { r.RedisProxy.Heal(); r.PGProxy.Heal() }
	}, 1, 0},
	{"both down beyond max_staleness", beyondStaleness, func(_ *testing.T, r *harness.Rig) func() {
		r.RedisProxy.Down()
		r.PGProxy.Down()
		return func() { r.RedisProxy.Heal(); r.PGProxy.Heal() }
	}, 0, 0},
}

func stopPostgres(t *testing.T, r *harness.Rig) func() {
	r.PG.Stop()
	return func() { r.PG.Start(t) }
}

// exhaust takes every connection slot and ends the product's sessions, so that
// the product cannot reconnect.
func exhaust(t *testing.T, r *harness.Rig) func() {
	ctx := context.WithoutCancel(t.Context())
	var held []*pgx.Conn
	fill := func() {
		for len(held) < 300 {
			c, err := pgx.Connect(ctx, r.PG.Use("postgres").URL)
			if err != nil {
				return
			}
			held = append(held, c)
		}
	}
	fill()
	// One held session ends the product's; new ones take the freed slots.
	for range 3 {
		_, err := held[0].Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", r.PG.Database)
		must(t, err)
		fill()
	}
	return func() {
		for _, c := range held {
			_ = c.Close(ctx)
		}
	}
}

func repeat(t *testing.T, every time.Duration, do func()) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			do()
			harness.Pause(ctx, every)
		}
	}()
	return func() { cancel(); <-done }
}

func must(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

// TestFaults injects every fault in turn, on one installation for each mode and
// each setting of what happens when revocation is unknown.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, lookup := range []bool{false, true} {
		for _, allow := range []bool{false, true} {
			for _, group := range []struct {
				name   string
				faults []fault
			}{{"redis", redisFaults}, {"postgres", append(append([]fault(nil), postgresFaults...), bothFaults...)}} {
				mode := fmt.Sprintf("%s, on_revocation_unknown %s, %s", pick(lookup, "lookup", "replica"), pick(allow, "allow", "deny"), group.name)
				t.Run(mode, func(t *testing.T) {
					t.Parallel()
					r := harness.NewRig(t, harness.RigOptions{
						OwnPostgres: []string{"max_connections", "60"}, Redis: true, Faults: true,
						// Without the race detector: it makes checks so slow that they
						// miss deadlines for want of CPU. Other tests use it.
						Bouncer: harness.BouncerOptions{Plain: true},
						Lookup:  lookup, Allow: allow, MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond,
						Front: harness.FrontOptions{FailureModeAllow: true, Timeout: 2 * time.Second},
					})
					for _, f := range group.faults {
						t.Run(f.name, func(t *testing.T) {
							f.run(t, r, lookup, allow)
						})
					}
				})
			}
		}
	}
}

func (f fault) run(t *testing.T, r *harness.Rig, lookup, allow bool) {
	awaitFreshReplica(t, r)
	m := startMonitor(t, r, lookup && allow)
	m.resetCounts()
	heal := f.inject(t, r)
	harness.Pause(t.Context(), f.hold)
	passed := m.allowedShare()
	want := f.replica
	if lookup {
		want = f.lookup
	}
	if allow {
		want = max(want, 0.9) // unknown revocation is allowed
	}
	// Some checks coincide with the start of the fault, and on a busy machine
	// some miss their deadline anyway.
	slack := 0.15
	if f.name == "postgres sessions terminated" {
		slack = 0 // promised in docs/how-it-fails.md
	}
	assert.GreaterOrEqualf(t, passed, want-slack, "%.1f %% of valid tokens were allowed during the fault, want %.0f %%", 100*passed, 100*want)
	heal()
	took := m.awaitRecovery(5 * time.Second)
	m.checkDurable()
	m.end()
	t.Logf("%.1f %% of valid tokens were allowed during the fault; recovered after %s", 100*passed, took.Round(time.Millisecond))
	select {
	case <-r.Bouncer.Exited():
		t.Fatal("the sidecar has ended")
	default:
	}
}

func pick(v bool, yes, no string) string {
	if v {
		return yes
	}
	return no
}
