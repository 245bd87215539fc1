package outage

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/test/harness"
)

// TestPgBouncer puts a pooler between the sidecar and PostgreSQL. With
// transaction pooling, each transaction may run in another session, so the
// product must not rely on session state: prepared statements, settings,
// LISTEN. (Statement pooling forbids transactions and is not supported.)
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, pool := range []string{"session", "transaction"} {
		modes(t, func(t *testing.T, lookup bool) {
			pg := harness.OwnPostgres(t)
			pooler := harness.PgBouncer(t, pg, pool)
			r := harness.NewRig(t, harness.RigOptions{StoreURL: pg.Via(pooler.Addr), Redis: true, Lookup: lookup,
				MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond})
			m := startMonitor(t, r, false)
			m.resetCounts()
			harness.Pause(t.Context(), withinStaleness)
			p := m.allowedShare()
			assert.GreaterOrEqualf(t, p, 0.99, "%.1f %% of valid tokens were allowed, want 99 %%", 100*p)
			for range 3 {
				pg.Terminate(t)
				harness.Pause(t.Context(), 300*time.Millisecond)
			}
			pooler.Kill()
			harness.Pause(t.Context(), 300*time.Millisecond)
			pooler.Start(t)
			m.awaitRecovery(5 * time.Second)
			m.checkDurable()
			m.end()
		}, fmt.Sprintf("%s pooling, ", pool))
	}
}
