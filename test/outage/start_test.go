package outage

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// awaitAllowed waits until a new valid token is allowed, and returns how long
// that took.
func awaitAllowed(t *testing.T, c *harness.Checker, issuer *authztest.Issuer, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	harness.Eventually(t, within, "a valid token is allowed", func(ctx context.Context) error {
		if a := c.Check(ctx, issuer.Mint(nil)); a.Err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	return time.Since(start)
}

// TestColdStart starts the sidecar while a dependency is missing. The sidecar
// denies, and allows without a restart once the dependency is back.
func TestColdStart(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, lookup bool) {
		start := func(t *testing.T, o harness.RigOptions) (*harness.Rig, *harness.Checker) {
			t.Helper()
			o.Lookup, o.NoFront = lookup, true
			o.Bouncer.NoWait = true
			o.MaxStaleness, o.SyncInterval = maxStaleness, 500*time.Millisecond
			r := harness.NewRig(t, o)
			harness.Eventually(t, 20*time.Second, "the sidecar is alive", r.Bouncer.Live)
			return r, harness.NewChecker(t, r.Bouncer.GRPC)
		}
		// closed checks that every check is denied, none with an RPC error.
		closed := func(t *testing.T, r *harness.Rig, c *harness.Checker, want int) {
			t.Helper()
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				a := c.Check(ctx, r.Token(nil))
				require.NoErrorf(t, a.Err, "a valid token without the dependency: %+v, want status %d", a, want)
				require.Equalf(t, want, a.Status, "a valid token without the dependency: %+v, want status %d", a, want)
				cancel()
			}
			assert.Error(t, r.Bouncer.Ready(t.Context()), "ready although no token can be allowed")
			assert.NoError(t, r.Bouncer.Live(t.Context()), "not alive")
		}
		t.Run("without Postgres", func(t *testing.T) {
			t.Parallel()
			pg := harness.OwnPostgres(t)
			proxy := harness.Proxy(t, pg.Addr)
			proxy.Down()
			r, c := start(t, harness.RigOptions{StoreURL: pg.Via(proxy.Addr)})
			closed(t, r, c, http.StatusServiceUnavailable)
			proxy.Heal()
			t.Logf("recovered after %s", awaitAllowed(t, c, r.Issuer, 5*time.Second))
		})
		t.Run("with a Postgres that does not respond", func(t *testing.T) {
			t.Parallel()
			pg := harness.OwnPostgres(t)
			proxy := harness.Proxy(t, pg.Addr)
			proxy.BlackHole()
			r, c := start(t, harness.RigOptions{StoreURL: pg.Via(proxy.Addr)})
			closed(t, r, c, http.StatusServiceUnavailable)
			proxy.Heal()
			t.Logf("recovered after %s", awaitAllowed(t, c, r.Issuer, 5*time.Second))
		})
		t.Run("without Redis", func(t *testing.T) {
			t.Parallel()
			rd := harness.Redis(t)
			rd.Stop()
			r, c := start(t, harness.RigOptions{Postgres: true, RedisURL: rd.URL})
			awaitAllowed(t, c, r.Issuer, 10*time.Second)
			rd.Start(t)
			awaitAllowed(t, c, r.Issuer, 5*time.Second)
		})
		t.Run("without keys", func(t *testing.T) {
			t.Parallel()
			issuer := authztest.NewIssuer(authztest.Named("https://issuer.example"))
			t.Cleanup(issuer.Close)
			issuer.FailJWKS(&authztest.Fault{Status: 500})
			r, c := start(t, harness.RigOptions{Issuer: issuer})
			closed(t, r, c, http.StatusServiceUnavailable)
			issuer.FailJWKS(nil)
			t.Logf("recovered after %s", awaitAllowed(t, c, r.Issuer, 5*time.Second))
		})
	})
}

// TestKeySetFaults makes the issuer's key endpoint fail after the first fetch.
// The last good keys stay in use.
func TestKeySetFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*authztest.Fault{
		"down":     {Status: 503},
		"hanging":  {Hang: true},
		"slow":     {Delay: 5 * time.Second, Genuine: true},
		"garbage":  {Body: "<html>Login</html>"},
		"empty":    {Body: `{"keys":[]}`, Status: 500},
		"flood":    {Flood: 64 << 20, Genuine: true},
		"redirect": {Redirect: "http://127.0.0.1:1/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := harness.NewRig(t, harness.RigOptions{MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond,
				Front: harness.FrontOptions{FailureModeAllow: true, Timeout: 2 * time.Second}})
			m := startMonitor(t, r, false)
			m.resetCounts()
			r.Issuer.FailJWKS(fault)
			// An unknown kid makes the sidecar fetch keys, in vain.
			unknown := r.Issuer.Mint(nil, authztest.With(authztest.NewKey("ES256")))
			for range 50 {
				a, ok := m.check(t.Context(), unknown)
				require.False(t, ok && a.Status == http.StatusOK, "a token with an unknown key was allowed")
				harness.Pause(t.Context(), 10*time.Millisecond)
			}
			p := m.allowedShare()
			assert.GreaterOrEqualf(t, p, 0.99, "%.1f %% of valid tokens were allowed, want 99 %%", 100*p)
			r.Issuer.FailJWKS(nil)
			m.awaitRecovery(5 * time.Second)
			m.checkDurable()
			m.end()
		})
	}
}

// TestSIGKILL kills a sidecar. It leaves nothing behind that keeps the next one
// from starting or makes it allow a revoked token.
func TestSIGKILL(t *testing.T) {
	t.Parallel()
	for _, o := range []harness.RigOptions{{}, {Postgres: true, Redis: true}, {Postgres: true, Redis: true, Lookup: true}} {
		t.Run(fmt.Sprintf("postgres %t, lookup %t", o.Postgres, o.Lookup), func(t *testing.T) {
			t.Parallel()
			o.MaxStaleness, o.SyncInterval = maxStaleness, 500*time.Millisecond
			r := harness.NewRig(t, o)
			revoked := r.Token(nil)
			r.Revoke(t, map[string]any{"jti": harness.Claim(revoked, "jti")})
			r.Bouncer.Kill()
			assert.NotEqual(t, http.StatusOK, r.Front.Bearer(t, r.Token(nil)).Status, "allowed without a sidecar")
			r.Bouncer.Start(t)
			c := harness.NewChecker(t, r.Bouncer.GRPC)
			awaitAllowed(t, c, r.Issuer, 5*time.Second)
			a := c.Check(t.Context(), revoked)
			assert.Equalf(t, http.StatusUnauthorized, a.Status, "a token revoked before the kill: %+v", a)
			r.Front.AwaitStatus(t, r.Token(nil), http.StatusOK, 5*time.Second)
		})
	}
}

// TestMemoryLimit sends many distinct tokens to a process with a small
// GOMEMLIMIT. That may cost speed, but no answer.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Bouncer: harness.BouncerOptions{Plain: true, Env: []string{"GOMEMLIMIT=48MiB"}}})
	c := harness.NewChecker(t, r.Bouncer.GRPC)
	padding := strings.Repeat("x", 2000)
	const n = 8000
	late := 0
	for i := range n {
		a := c.Check(t.Context(), r.Token(map[string]any{"padding": padding, "n": i}))
		if cutOff(a) {
			late++
		} else if a.Err != nil || a.Status != http.StatusOK {
			t.Fatalf("check %d: %+v", i, a)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Bouncer.PID()))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") {
			t.Logf("%d tokens of about 3 KB, %d checks cut off at the deadline: %s", n, late, strings.TrimSpace(line))
		}
	}
}

// TestSQLiteFaults locks, fills, replaces or corrupts the database file.
func TestSQLiteFaults(t *testing.T) {
	t.Parallel()
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		r := harness.NewRig(t, harness.RigOptions{MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond})
		m := startMonitor(t, r, false)
		// No file of the process may grow beyond this, except its small log.
		r.Bouncer.LimitFileSize(t, "4096")
		harness.Pause(t.Context(), withinStaleness)
		limited, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		rec, err := r.TryRevoke(limited, map[string]any{"jti": "nowhere to put it"})
		if err == nil {
			assert.NotEqualf(t, 2, rec.Status/100, "a revocation was acknowledged on a full disk: %d %s", rec.Status, rec.Body)
		}
		r.Bouncer.LimitFileSize(t, "unlimited")
		m.awaitRecovery(5 * time.Second)
		m.checkDurable()
		m.end()
		r.Revoke(t, map[string]any{"jti": "there is room again"})
	})
	t.Run("locked", func(t *testing.T) {
		t.Parallel()
		r := harness.NewRig(t, harness.RigOptions{MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond})
		m := startMonitor(t, r, false)
		db, err := sql.Open("sqlite", "file:"+r.SQLite+"?_pragma=busy_timeout(10000)")
		must(t, err)
		defer db.Close()
		conn, err := db.Conn(t.Context())
		must(t, err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), "begin exclusive")
		must(t, err)
		m.resetCounts()
		harness.Pause(t.Context(), withinStaleness)
		p := m.allowedShare()
		assert.GreaterOrEqualf(t, p, 0.99, "%.1f %% of valid tokens were allowed while another process held the write lock, want 99 %%", 100*p)
		_, err = conn.ExecContext(t.Context(), "rollback")
		must(t, err)
		m.awaitRecovery(5 * time.Second)
		m.checkDurable()
		m.end()
	})
	t.Run("restored under the running sidecar, which is restarted", func(t *testing.T) {
		modes(t, func(t *testing.T, lookup bool) {
			r := harness.NewRig(t, harness.RigOptions{Lookup: lookup, MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond})
			m := startMonitor(t, r, false)
			db, err := sql.Open("sqlite", "file:"+r.SQLite+"?_pragma=busy_timeout(10000)")
			must(t, err)
			defer db.Close()
			m.stopRevoking() // revocations after the backup are lost, as docs/store.md says
			owner, err := os.Stat(r.SQLite)
			must(t, err)
			backup := r.SQLite + ".backup"
			_, err = db.ExecContext(t.Context(), "vacuum into '"+backup+"'")
			must(t, err)
			must(t, db.Close())
			for _, suffix := range []string{"", "-wal", "-shm"} {
				err := os.Remove(r.SQLite + suffix)
				if err != nil {
					require.ErrorIs(t, err, fs.ErrNotExist)
				}
			}
			own := owner.Sys().(*syscall.Stat_t)
			must(t, os.Chown(backup, int(own.Uid), int(own.Gid)))
			must(t, os.Rename(backup, r.SQLite))
			out := harness.Run(t, "", "--config", r.Bouncer.Config, "migrate", "--bump-epoch")
			require.Zerof(t, out.Code, "%v", out)
			after := r.Token(nil)
			out = harness.Run(t, "", "--config", r.Bouncer.Config, "revoke", "--jti="+harness.Claim(after, "jti"), "--wait", "enforced")
			require.Zerof(t, out.Code, "%v", out)
			a, ok := m.check(t.Context(), after)
			assert.Falsef(t, ok && a.Status == http.StatusOK, "revoke reports the revocation as enforced, but the token is allowed: %+v", a)
			assert.Error(t, r.Bouncer.Ready(t.Context()), "ready on a file that has been replaced")
			m.end()
			r.Bouncer.Stop(syscall.SIGTERM, 12*time.Second)
			r.Bouncer.Start(t)
			before := m.revoked
			m = startMonitor(t, r, false)
			m.mu.Lock()
			m.revoked = append(m.revoked, before...)
			m.mu.Unlock()
			m.awaitRecovery(5 * time.Second)
			r.Revoke(t, map[string]any{"jti": "goes into the new file"})
			m.checkDurable()
			m.end()
		})
	})
	t.Run("corrupt at the start", func(t *testing.T) {
		t.Parallel()
		dir := harness.Dir(t)
		path := harness.WriteFile(t, dir, "revocations.db", strings.Repeat("this is no database ", 1000))
		r := harness.NewRig(t, harness.RigOptions{StoreURL: "sqlite://" + path, NoFront: true, Bouncer: harness.BouncerOptions{NoWait: true}})
		harness.Eventually(t, 20*time.Second, "the sidecar is alive", r.Bouncer.Live)
		c := harness.NewChecker(t, r.Bouncer.GRPC)
		for range 20 {
			a := c.Check(t.Context(), r.Token(nil))
			require.NoErrorf(t, a.Err, "%+v, want status 503", a)
			require.Equalf(t, http.StatusServiceUnavailable, a.Status, "%+v, want status 503", a)
		}
		assert.Error(t, r.Bouncer.Ready(t.Context()), "ready with a corrupt database")
		log := r.Bouncer.Log()
		assert.Contains(t, log, path, "the log does not name the file and its fault")
		assert.Contains(t, log, "damaged", "the log does not name the file and its fault")
	})
	t.Run("corrupted while running", func(t *testing.T) {
		t.Parallel()
		for _, lookup := range []bool{false, true} {
			r := harness.NewRig(t, harness.RigOptions{Lookup: lookup, NoFront: true, MaxStaleness: maxStaleness, SyncInterval: 500 * time.Millisecond})
			c := harness.NewChecker(t, r.Bouncer.GRPC)
			revoked := r.Token(nil)
			r.Revoke(t, map[string]any{"jti": harness.Claim(revoked, "jti")})
			harness.Eventually(t, maxStaleness+5*time.Second, "the revoked token is denied", func(ctx context.Context) error {
				if a := c.Check(ctx, revoked); a.Status != http.StatusUnauthorized {
					return fmt.Errorf("%+v", a)
				}
				return nil
			})
			for _, suffix := range []string{"", "-wal"} {
				if st, err := os.Stat(r.SQLite + suffix); err == nil && st.Size() > 0 {
					f, err := os.OpenFile(r.SQLite+suffix, os.O_WRONLY, 0)
					must(t, err)
					_, err = f.WriteAt([]byte(strings.Repeat("\xde\xad\xbe\xef", int(st.Size())/4)), 0)
					must(t, err)
					must(t, f.Close())
				}
			}
			for start := time.Now(); time.Since(start) < maxStaleness+time.Second; {
				a := c.Check(t.Context(), revoked)
				require.NoErrorf(t, a.Err, "lookup %t: a revoked token on a corrupt file: %+v", lookup, a)
				require.NotEqualf(t, http.StatusOK, a.Status, "lookup %t: a revoked token on a corrupt file: %+v", lookup, a)
				harness.Pause(t.Context(), 20*time.Millisecond)
			}
			assert.NoError(t, r.Bouncer.Live(t.Context()))
		}
	})
}
