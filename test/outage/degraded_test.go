package outage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// readiness is the body of /readyz.
type readiness struct {
	Status string
	Parts  []struct {
		Name, State, Reason string
		Age                 *float64 `json:"age_seconds"`
		Bound               float64  `json:"bound_seconds"`
	}
}

// In an outage of store, Redis and keys together, /readyz stays 200, so that no
// probe takes the sidecar out of service; body and `health` say what does not work.
func TestDegraded(t *testing.T) {
	t.Parallel()
	for mode, lookup := range map[string]bool{"replica": false, "lookup": true} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			issuer := authztest.NewIssuer(authztest.Named("https://issuer.example"))
			r := harness.NewRig(t, harness.RigOptions{OwnPostgres: []string{}, Redis: true, Lookup: lookup, Issuer: issuer, NoFront: true, MaxStaleness: maxStaleness, SyncInterval: time.Second})
			bouncer := r.Bouncer.HTTP
			health := func(args ...string) harness.Result {
				return harness.Run(t, "", append([]string{"health", "--config", r.Bouncer.Config}, args...)...)
			}
			require.Equal(t, "ready", awaitStatus(t, bouncer, "ready").Status)
			quiet := health("--strict")
			require.Equal(t, 0, quiet.Code, quiet)

			r.PG.Stop()
			require.NoError(t, r.Redis.Pause())
			issuer.Close()
			var out readiness
			harness.Eventually(t, 30*time.Second, "every part degraded", func(ctx context.Context) (err error) {
				if out, err = readyz(ctx, bouncer); err != nil {
					return err
				}
				for _, p := range out.Parts {
					wanted := "degraded"
					if p.Name == "keys" || p.Name == "issuer https://issuer.example" {
						continue // the keys are fetched again much later
					}
					if p.State != wanted || p.Name == "revocations" && !lookup && *p.Age < p.Bound {
						return fmt.Errorf("%+v", out)
					}
				}
				return nil
			})
			assert.Equal(t, "degraded", out.Status)
			names := map[string]string{}
			for _, p := range out.Parts {
				names[p.Name] = p.Reason
				assert.NotNilf(t, p.Age, "%s has no age", p.Name)
			}
			assert.Contains(t, names["revocations"], "denying tokens (503)")
			assert.Contains(t, names["store"], "has not answered for ")
			assert.Contains(t, names["redis"], "has not answered for ")
			assert.Contains(t, names, "issuer https://issuer.example")
			assert.Len(t, names, 5)

			usual := health()
			assert.Equal(t, 0, usual.Code, "health without --strict is a probe")
			assert.Contains(t, usual.Stdout, "degraded")
			assert.Contains(t, usual.Stdout, "denying tokens (503)")
			assert.Equal(t, 6, health("--strict").Code)

			require.NoError(t, r.Redis.Resume())
			r.PG.Start(t)
			awaitStatus(t, bouncer, "ready")
		})
	}
}

func awaitStatus(t *testing.T, base, status string) (out readiness) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "status "+status, func(ctx context.Context) (err error) {
		if out, err = readyz(ctx, base); err == nil && out.Status != status {
			err = fmt.Errorf("%+v", out)
		}
		return err
	})
	return out
}

// readyz returns the body of /readyz. It is an error if the code is not 200.
func readyz(ctx context.Context, base string) (out readiness, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return out, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(text, &out)
}
