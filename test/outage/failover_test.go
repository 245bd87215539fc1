package outage

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// modes runs a test in both modes. Where one test does so several times, each
// has a prefix to its names.
func modes(t *testing.T, run func(t *testing.T, lookup bool), prefix ...string) {
	for _, lookup := range []bool{false, true} {
		t.Run(strings.Join(prefix, "")+pick(lookup, "lookup", "replica"), func(t *testing.T) {
			t.Parallel()
			run(t, lookup)
		})
	}
}

// TestPostgresFailover: the primary dies, its standby is promoted to a new
// timeline, and the address follows. Streaming is asynchronous here, so what
// had not arrived is waited for before: that is what synchronous_standby_names
// is for, and docs/operations.md says so.
func TestPostgresFailover(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		r := harness.NewRig(t, harness.RigOptions{OwnPostgres: []string{}, Redis: true, Faults: true, Lookup: lookup,
			MaxStaleness: bound, SyncInterval: 500 * time.Millisecond})
		standby := r.PG.Standby(t)
		r.PG.Exec(t, "alter system set synchronous_standby_names = '*'")
		r.PG.Exec(t, "select pg_reload_conf()")
		w := watching(t, r, false)
		harness.Pause(t.Context(), 500*time.Millisecond)

		// Reading a standby, before it is promoted, must not count as proof:
		// the primary is alive behind and may commit what it has not seen.
		r.PGProxy.Redirect(standby.Addr)
		harness.Pause(t.Context(), short)
		r.PG.Crash()
		promote(t, standby)
		r.PGProxy.Drop()
		took := w.recovered(10 * time.Second)
		w.durable()
		w.end()
		t.Logf("recovered %s after the promotion", took.Round(time.Millisecond))
	})
}

// TestSentinelFailover: the master dies and the sentinels promote its replica.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		g := harness.Sentinel(t)
		r := harness.NewRig(t, harness.RigOptions{Postgres: true, Lookup: lookup, MaxStaleness: bound, SyncInterval: 500 * time.Millisecond,
			Redis: false, RedisURL: fmt.Sprintf("{addrs: [%s], master_name: %s}", quoted(g.Addrs), g.Name)})
		w := watching(t, r, false)
		w.forget()
		g.Master.Stop()
		harness.Eventually(t, 30*time.Second, "failover", func(ctx context.Context) error {
			now, err := g.Current(ctx)
			if err == nil && now != g.Replica.Addr {
				err = fmt.Errorf("the master is %s", now)
			}
			return err
		})
		harness.Pause(t.Context(), short)
		if p := w.passed(); p < 0.9 {
			t.Errorf("%.1f %% of good tokens passed during the failover, want 90 %%", 100*p)
		}
		w.recovered(5 * time.Second)
		w.durable()
		w.end()
	})
}

// TestClusterMasterLost: a third of the slots has nobody to serve it.
func TestClusterMasterLost(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		c := harness.RedisCluster(t, 3)
		r := harness.NewRig(t, harness.RigOptions{Postgres: true, Lookup: lookup, MaxStaleness: bound, SyncInterval: 500 * time.Millisecond,
			RedisURL: fmt.Sprintf("{addrs: [%s], cluster: true}", quoted(c.Addrs))})
		w := watching(t, r, false)
		w.forget()
		c.Nodes[1].Stop()
		harness.Pause(t.Context(), 3*time.Second)
		if p := w.passed(); p < 0.9 {
			t.Errorf("%.1f %% of good tokens passed without one master, want 90 %%", 100*p)
		}
		c.Nodes[1].Start(t)
		w.recovered(5 * time.Second)
		w.durable()
		w.end()
	})
}

func quoted(list []string) string { return `"` + strings.Join(list, `", "`) + `"` }

// promote makes the standby a primary that waits for no standby of its own.
func promote(t *testing.T, standby *harness.PGServer) {
	t.Helper()
	standby.Promote(t)
	db := standby.Use("postgres")
	db.Exec(t, "alter system set synchronous_standby_names = ''")
	db.Exec(t, "select pg_reload_conf()")
}
