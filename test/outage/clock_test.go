package outage

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestWallClockStepped steps the wall clocks of an installation forwards and
// back by more than the lifetime of any token, one clock at a time and together.
// Tokens revoked before or meanwhile are denied whatever the clocks show. Valid
// tokens are allowed while the sidecar's clock agrees with the issuer's and is
// not behind the database's, and again without a restart once that is true.
func TestWallClockStepped(t *testing.T) {
	t.Parallel()
	const far = 36 * time.Hour // max_token_ttl is 24h
	modes(t, func(t *testing.T, lookup bool) {
		issuer, sidecar, postgres, redis := harness.NewClock(t), harness.NewClock(t), harness.NewClock(t), harness.NewClock(t)
		i := authztest.NewIssuer(authztest.Named("https://issuer.example"), authztest.Clock(issuer.Now))
		t.Cleanup(i.Close)
		r := harness.NewRig(t, harness.RigOptions{Issuer: i, OwnPostgres: []string{}, PGClock: postgres, Redis: true, RedisClock: redis,
			Lookup: lookup, MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond, Revocation: "sweep_interval: 1s",
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
					m := startMonitor(t, r, false)
					m.mayDenyValid.Store(true) // the clocks are stepped one after the other
					for _, clock := range c.clocks {
						clock.Step(by)
					}
					want := http.StatusOK
					switch {
					case sidecar.Now().Sub(issuer.Now()).Abs() > time.Minute:
						want = http.StatusUnauthorized // the sidecar sees expired tokens, or tokens from the future
					case postgres.Now().Sub(sidecar.Now()) > time.Minute:
						want = http.StatusServiceUnavailable // the store may have deleted revocations that the sidecar still needs
					}
					r.Redis.Do(t, "FLUSHALL") // so that no cached verdict hides a wrong one
					if want == http.StatusOK {
						m.awaitRecovery(5 * time.Second)
					}
					harness.Pause(t.Context(), maxStaleness) // until verdicts cached before the step have expired
					m.mayDenyValid.Store(want == http.StatusUnauthorized)
					m.resetCounts()
					harness.Pause(t.Context(), withinStaleness)
					share := m.share(want)
					assert.GreaterOrEqualf(t, share, 0.9, "%.1f %% of valid tokens were answered with %d, want 90 %%", 100*share, want)
					m.mayDenyValid.Store(true)
					for _, clock := range c.clocks {
						clock.Step(0)
					}
					m.awaitRecovery(5 * time.Second)
					m.checkDurable()
					m.end()
				})
			}
		}
	})
}
