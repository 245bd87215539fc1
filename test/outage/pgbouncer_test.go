package outage

import (
	"fmt"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// TestPgBouncer: a pooler between sidecar and PostgreSQL. By transaction it
// gives each of them another session, so nothing may depend on one: neither
// prepared statements nor settings nor LISTEN. (Statement pooling allows no
// transactions and is not supported.)
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, pool := range []string{"session", "transaction"} {
		modes(t, func(t *testing.T, lookup bool) {
			pg := harness.OwnPostgres(t)
			pooler := harness.PgBouncer(t, pg, pool)
			r := harness.NewRig(t, harness.RigOptions{StoreURL: pg.Via(pooler.Addr), Redis: true, Lookup: lookup,
				MaxStaleness: bound, SyncInterval: 500 * time.Millisecond})
			w := watching(t, r, false)
			w.forget()
			harness.Pause(t.Context(), short)
			if p := w.passed(); p < 0.99 {
				t.Errorf("%.1f %% of good tokens passed, want all", 100*p)
			}
			for range 3 {
				pg.Terminate(t)
				harness.Pause(t.Context(), 300*time.Millisecond)
			}
			pooler.Kill()
			harness.Pause(t.Context(), 300*time.Millisecond)
			pooler.Start(t)
			w.recovered(5 * time.Second)
			w.durable()
			w.end()
		}, fmt.Sprintf("%s pooling, ", pool))
	}
}
