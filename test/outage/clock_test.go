package outage

import (
	"net/http"
	"testing"
	"time"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestWallClockStepped steps the wall clocks of an installation, singly and
// together, forwards and back, far beyond the life of any token. What is
// revoked before or meanwhile is denied whatever the clocks say. Good tokens
// pass while the sidecar's clock agrees with the issuer's and is not behind the
// database's, and without a restart once that is so again.
func TestWallClockStepped(t *testing.T) {
	t.Parallel()
	const far = 36 * time.Hour // max_token_ttl is 24
	modes(t, func(t *testing.T, lookup bool) {
		issuer, sidecar, postgres, redis := harness.NewClock(t), harness.NewClock(t), harness.NewClock(t), harness.NewClock(t)
		i := authztest.NewIssuer(authztest.Named("https://issuer.example"), authztest.Clock(issuer.Now))
		t.Cleanup(i.Close)
		r := harness.NewRig(t, harness.RigOptions{Issuer: i, OwnPostgres: []string{}, PGClock: postgres, Redis: true, RedisClock: redis,
			Lookup: lookup, MaxStaleness: bound, SyncInterval: 500 * time.Millisecond, Revocation: "sweep_interval: 1s",
			Bouncer: harness.BouncerOptions{Clock: sidecar}, Front: harness.FrontOptions{FailureModeAllow: true, Timeout: 2 * time.Second}})
		for _, c := range []struct {
			name   string
			clocks []*harness.Clock
		}{
			{"sidecar's", []*harness.Clock{sidecar}},
			{"issuer's and sidecar's", []*harness.Clock{issuer, sidecar}},
			{"PostgreSQL's", []*harness.Clock{postgres}},
			{"Redis's", []*harness.Clock{redis}},
			{"every", []*harness.Clock{issuer, sidecar, postgres, redis}},
		} {
			for _, by := range []time.Duration{far, -far} {
				t.Run(c.name+" clock by "+by.String(), func(t *testing.T) {
					w := watching(t, r, false)
					w.mayRefuse.Store(true) // the clocks are stepped one after the other
					for _, clock := range c.clocks {
						clock.Step(by)
					}
					want := http.StatusOK
					switch {
					case sidecar.Now().Sub(issuer.Now()).Abs() > time.Minute:
						want = http.StatusUnauthorized // to it they have expired, or are from the future
					case postgres.Now().Sub(sidecar.Now()) > time.Minute:
						want = http.StatusServiceUnavailable // others may have deleted what matters to it
					}
					r.Redis.Do(t, "FLUSHALL") // nor does Redis remember it for them
					if want == http.StatusOK {
						w.recovered(5 * time.Second)
					}
					harness.Pause(t.Context(), bound) // what was cached before is not believed any more
					w.mayRefuse.Store(want == http.StatusUnauthorized)
					w.forget()
					harness.Pause(t.Context(), short)
					if share := w.share(want); share < 0.9 {
						t.Errorf("%.1f %% of good tokens were answered %d", 100*share, want)
					}
					w.mayRefuse.Store(true)
					for _, clock := range c.clocks {
						clock.Step(0)
					}
					w.recovered(5 * time.Second)
					w.durable()
					w.end()
				})
			}
		}
	})
}
