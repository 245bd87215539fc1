package outage

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/test/harness"
)

// modes runs a test in replica and in lookup mode. A test that calls it more
// than once gives each call a prefix for the subtests' names.
func modes(t *testing.T, run func(t *testing.T, lookup bool), prefix ...string) {
	for _, lookup := range []bool{false, true} {
		t.Run(strings.Join(prefix, "")+pick(lookup, "lookup", "replica"), func(t *testing.T) {
			t.Parallel()
			run(t, lookup)
		})
	}
}

// TestPostgresFailover kills the primary, promotes its standby to a new
// timeline, and redirects the address. Replication is synchronous
// (synchronous_standby_names), as docs/operations.md requires: otherwise the
// standby could lack acknowledged revocations.
func TestPostgresFailover(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		r := harness.NewRig(t, harness.RigOptions{OwnPostgres: []string{}, Redis: true, Faults: true, Lookup: lookup,
			MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond})
		standby := r.PG.Standby(t)
		r.PG.Exec(t, "alter system set synchronous_standby_names = '*'")
		r.PG.Exec(t, "select pg_reload_conf()")
		m := startMonitor(t, r, false)
		harness.Pause(t.Context(), 500*time.Millisecond)

		// Reading from a standby proves nothing until it is promoted: the
		// primary is still running and may commit revocations that the standby
		// has not received.
		r.PGProxy.Redirect(standby.Addr)
		harness.Pause(t.Context(), withinStaleness)
		r.PG.Crash()
		promote(t, standby)
		r.PGProxy.Drop()
		took := m.awaitRecovery(10 * time.Second)
		m.checkDurable()
		m.end()
		t.Logf("recovered %s after the promotion", took.Round(time.Millisecond))
	})
}

// TestSentinelFailover kills the master; the sentinels promote its replica.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		g := harness.Sentinel(t)
		r := harness.NewRig(t, harness.RigOptions{Postgres: true, Lookup: lookup, MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond,
			Redis: false, RedisURL: fmt.Sprintf("{addrs: [%s], master_name: %s}", quoted(g.Addrs), g.Name)})
		m := startMonitor(t, r, false)
		m.resetCounts()
		g.Master.Stop()
		harness.Eventually(t, 30*time.Second, "the sentinels promote the replica", func(ctx context.Context) error {
			now, err := g.Current(ctx)
			if err == nil && now != g.Replica.Addr {
				err = fmt.Errorf("the master is %s", now)
			}
			return err
		})
		harness.Pause(t.Context(), withinStaleness)
		p := m.allowedShare()
		assert.GreaterOrEqualf(t, p, 0.9, "%.1f %% of valid tokens were allowed during the failover, want 90 %%", 100*p)
		m.awaitRecovery(5 * time.Second)
		m.checkDurable()
		m.end()
	})
}

// TestClusterMasterLost kills one of three masters, so that no node serves a
// third of the slots.
func TestClusterMasterLost(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		c := harness.RedisCluster(t, 3)
		r := harness.NewRig(t, harness.RigOptions{Postgres: true, Lookup: lookup, MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond,
			RedisURL: fmt.Sprintf("{addrs: [%s], cluster: true}", quoted(c.Addrs))})
		m := startMonitor(t, r, false)
		m.resetCounts()
		c.Nodes[1].Stop()
		harness.Pause(t.Context(), 3*time.Second)
		p := m.allowedShare()
		assert.GreaterOrEqualf(t, p, 0.9, "%.1f %% of valid tokens were allowed without one master, want 90 %%", 100*p)
		c.Nodes[1].Start(t)
		m.awaitRecovery(5 * time.Second)
		m.checkDurable()
		m.end()
	})
}

func quoted(list []string) string { return `"` + strings.Join(list, `", "`) + `"` }

// promote makes the standby a primary that waits for no standby.
func promote(t *testing.T, standby *harness.PGServer) {
	t.Helper()
	standby.Promote(t)
	db := standby.Use("postgres")
	db.Exec(t, "alter system set synchronous_standby_names = ''")
	db.Exec(t, "select pg_reload_conf()")
}
