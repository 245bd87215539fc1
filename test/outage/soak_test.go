package outage

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

var (
	soakFor  = flag.Duration("soak", 12*time.Second, "how long TestSoak makes faults")
	soakSeed = flag.Uint64("soak-seed", 0, "seed of the faults' order; 0: a random one, which is logged")
)

// TestSoak makes random faults, one or two at a time, for as long as it is
// told, while tokens are revoked all the time and every answer is judged.
func TestSoak(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		seed := *soakSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Logf("-soak-seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		r := harness.NewRig(t, harness.RigOptions{
			OwnPostgres: []string{"max_connections", "60"}, Redis: true, Faults: true, Lookup: lookup,
			MaxStaleness: bound, SyncInterval: 500 * time.Millisecond,
			Front: harness.FrontOptions{FailureModeAllow: true, Timeout: 2 * time.Second},
		})
		w := watching(t, r, false)
		faults := 0
		for start := time.Now(); time.Since(start) < *soakFor && !t.Failed(); {
			// At most one of each server: two faults of one server would undo
			// each other's healing.
			var heals []func()
			which := rng.IntN(3)
			if which != 0 {
				f := redisFaults[rng.IntN(len(redisFaults))]
				t.Logf("%s  %s", time.Since(start).Round(time.Second), f.name)
				heals = append(heals, f.inject(t, r))
			}
			if which != 1 {
				f := postgresFaults[rng.IntN(len(postgresFaults))]
				t.Logf("%s  %s", time.Since(start).Round(time.Second), f.name)
				heals = append(heals, f.inject(t, r))
			}
			faults += len(heals)
			harness.Pause(t.Context(), time.Duration(rng.Int64N(int64(long))))
			for _, heal := range heals {
				heal()
			}
			w.recovered(5 * time.Second)
			harness.Pause(t.Context(), time.Duration(rng.Int64N(int64(time.Second))))
		}
		w.durable()
		w.end()
		t.Logf("%d faults", faults)
	})
}
