package outage

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

var (
	soakFor  = flag.Duration("soak", 12*time.Second, "how long TestSoak injects faults")
	soakSeed = flag.Uint64("soak-seed", 0, "seed of the sequence of faults; 0 means a random seed, which is logged")
)

// TestSoak injects random faults, one or two at a time, while tokens are revoked
// continuously, and judges every answer.
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
			MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond,
			Front: harness.FrontOptions{FailureModeAllow: true, Timeout: 2 * time.Second},
		})
		m := startMonitor(t, r, false)
		faults := 0
		for start := time.Now(); time.Since(start) < *soakFor && !t.Failed(); {
			// At most one fault per server: healing one would disturb another.
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
			harness.Pause(t.Context(), time.Duration(rng.Int64N(int64(beyondStaleness))))
			for _, heal := range heals {
				heal()
			}
			m.awaitRecovery(5 * time.Second)
			harness.Pause(t.Context(), time.Duration(rng.Int64N(int64(time.Second))))
		}
		m.checkDurable()
		m.end()
		t.Logf("%d faults", faults)
	})
}
