package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestMigration follows docs/migration.md. Services with the older scheme (rows
// in revoked_tokens, keys token:revoked:{jti}) continue to revoke tokens, which
// Envoy then denies, and see the revocations made here.
func TestMigration(t *testing.T) {
	t.Parallel()
	for _, lookup := range []bool{false, true} {
		t.Run(fmt.Sprintf("lookup %t", lookup), func(t *testing.T) {
			t.Parallel()
			redis := harness.Redis(t)
			r := harness.NewRig(t, harness.RigOptions{Postgres: true, Lookup: lookup, MaxStaleness: maxStaleness, SyncInterval: time.Second,
				Config: fmt.Sprintf("redis: {url: %q, legacy_keys: true}\n", redis.URL)})
			old := r.Token(nil)
			r.PG.Exec(t, `create table revoked_tokens (jti text primary key, user_id text, expires_at timestamptz, revoked_at timestamptz default now())`)
			r.PG.Exec(t, `insert into revoked_tokens (jti, user_id, expires_at) values ($1, 'u', now() + interval '1 hour')`, harness.Claim(old, "jti"))
			res := harness.Run(t, "", "--config", r.Bouncer.Config, "migrate", "--bridge", r.Issuer.Name)
			require.Zerof(t, res.Code, "migrate --bridge: %+v", res)
			r.Front.AwaitStatus(t, old, 401, maxStaleness+5*time.Second)

			byRow := r.Token(nil)
			require.Equal(t, 200, r.Front.Bearer(t, byRow).Status, "before the row is inserted")
			r.PG.Exec(t, `insert into revoked_tokens (jti) values ($1)`, harness.Claim(byRow, "jti"))
			r.Front.AwaitStatus(t, byRow, 401, maxStaleness+5*time.Second)
			r.PG.Exec(t, `delete from revoked_tokens`)
			// The revocation stays. A verdict from before it may still reach Redis, and is believed
			// for the rest of its max_staleness.
			r.Front.AwaitStatus(t, byRow, 401, maxStaleness+5*time.Second)

			// A key alone, as redis-py's setex writes it, is seen only in lookup mode.
			byKey := r.Token(nil)
			redis.Do(t, "SETEX", "token:revoked:"+harness.Claim(byKey, "jti"), 600, "1")
			want := 200
			if lookup {
				want = 401
			}
			assert.Equal(t, want, r.Front.Bearer(t, byKey).Status, "key only")

			// A revocation made here is visible to services that read the old keys.
			here := r.Token(nil)
			key := harness.Claim(here, "jti")
			redis.Do(t, "SET", "token:valid:"+key, "{}")
			r.Revoke(t, map[string]any{"iss": r.Issuer.Name, "jti": key})
			harness.Eventually(t, 5*time.Second, "the old keys show the revocation", func(context.Context) error {
				if redis.Do(t, "EXISTS", "token:revoked:"+key) != int64(1) || redis.Do(t, "EXISTS", "token:valid:"+key) != int64(0) {
					return errors.New("token:revoked is missing, or token:valid still exists")
				}
				return nil
			})
		})
	}
}
