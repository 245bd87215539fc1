package outage

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// shippedPooler runs pgbouncer with the file of k8s/components/pgbouncer in front of
// pg. Only addresses and paths differ. It pools the login jwt_bouncer.
func shippedPooler(t *testing.T, pg *harness.PG) *harness.Pooler {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "k8s/components/pgbouncer/pgbouncer.ini"))
	require.NoError(t, err)
	host, port, err := net.SplitHostPort(pg.Addr)
	require.NoError(t, err)
	return harness.PgBouncerFile(t, func(dir string, own int) string {
		users := harness.WriteFile(t, dir, "userlist.txt", `"jwt_bouncer" "pool-password"`+"\n")
		ini := string(text)
		for old, replacement := range map[string]string{
			"host=postgres port=5432 dbname=jwt_bouncer": fmt.Sprintf("host=%s port=%s dbname=%s", host, port, pg.Database),
			"listen_addr = 0.0.0.0":                      "listen_addr = 127.0.0.1",
			"listen_port = 6432":                         fmt.Sprintf("listen_port = %d", own),
			"/etc/pgbouncer-users/userlist.txt":          users,
		} {
			require.Equal(t, 1, strings.Count(ini, old), old)
			ini = strings.Replace(ini, old, replacement, 1)
		}
		return ini
	})
}

// The pooler of the manifests carries sidecars whose login has only the rights that
// roles.sh gives it: they become ready and stay fresh, and a revocation is enforced.
func TestPoolerOfTheManifests(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	for _, sql := range []string{
		"create role authz_sidecar nologin", "create role authz_revoker nologin",
		"create role jwt_bouncer login password 'pool-password' in role authz_sidecar, authz_revoker",
	} {
		pg.Exec(t, sql)
	}
	owner := harness.NewRig(t, harness.RigOptions{StoreURL: pg.URL, NoFront: true}) // installs the schema
	require.NotNil(t, owner.Bouncer)
	pooler := shippedPooler(t, pg)
	url := func(password string) string {
		return fmt.Sprintf("postgres://jwt_bouncer:%s@%s/jwt_bouncer?sslmode=disable", password, pooler.Addr)
	}

	_, err := pgx.Connect(t.Context(), url("another-password"))
	require.ErrorContains(t, err, "authentication failed")

	const sidecars = 6
	r := harness.NewRig(t, harness.RigOptions{StoreURL: url("pool-password"), Sidecars: sidecars, MaxStaleness: 3 * time.Second, SyncInterval: 500 * time.Millisecond})
	token := r.Token(map[string]any{"jti": "pooled"})
	for _, f := range r.Fronts {
		require.Equal(t, http.StatusOK, f.Bearer(t, token).Status)
	}
	r.Revoke(t, map[string]any{"iss": r.Issuer.Name, "jti": "pooled"})
	for _, f := range r.Fronts {
		f.AwaitStatus(t, token, http.StatusUnauthorized, 3*time.Second)
	}
	other := r.Token(nil)
	harness.Pause(t.Context(), 4*time.Second) // longer than max_staleness: they pass only if syncs go on to prove
	for _, f := range r.Fronts {
		assert.Equal(t, http.StatusOK, f.Bearer(t, other).Status)
	}
	conn := pg.Connect(t)
	var sessions int
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, conn.QueryRow(ctx, "select count(*) from pg_stat_activity where usename = 'jwt_bouncer'").Scan(&sessions))
	assert.Positive(t, sessions)
	assert.LessOrEqual(t, sessions, 25, "default_pool_size and reserve_pool_size")
}

// No setting of the pooler makes an old answer pass for a fresh one: every answer
// carries the question's nonce and says whether it came from the primary and from a
// transaction of its own. Nor does a sidecar depend on the settings that other
// programs need, or that are discouraged.
func TestPoolerSettings(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	owner := harness.NewRig(t, harness.RigOptions{StoreURL: pg.URL, NoFront: true}) // installs the schema
	require.NotNil(t, owner.Bouncer)
	for name, settings := range map[string][]string{
		"statement pooling": {"statement"},
		"session reset":     {"transaction", "server_reset_query = DISCARD ALL", "server_reset_query_always = 1"},
		"parameters lost":   {"transaction", "ignore_startup_parameters = client_encoding,application_name,standard_conforming_strings"},
		"short waits":       {"transaction", "query_wait_timeout = 1", "query_timeout = 1"},
	} {
		t.Run(name, func(t *testing.T) {
			pooler := harness.PgBouncer(t, pg, settings[0], settings[1:]...)
			r := harness.NewRig(t, harness.RigOptions{StoreURL: pg.Via(pooler.Addr), MaxStaleness: 2 * time.Second, SyncInterval: 300 * time.Millisecond})
			jti := strings.ReplaceAll(name, " ", "-")
			token := r.Token(map[string]any{"jti": jti})
			require.Equal(t, http.StatusOK, r.Front.Bearer(t, token).Status)
			r.Revoke(t, map[string]any{"iss": r.Issuer.Name, "jti": jti})
			r.Front.AwaitStatus(t, token, http.StatusUnauthorized, 2*time.Second)
			harness.Pause(t.Context(), 3*time.Second) // longer than max_staleness
			assert.Equal(t, http.StatusOK, r.Front.Bearer(t, r.Token(nil)).Status, "syncs go on to prove freshness")
		})
	}
}
