//go:build pgbouncer

package outage

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// TestPgBouncer: a transaction pooler between sidecar and PostgreSQL. It gives
// each transaction another session, so nothing may depend on one: neither
// prepared statements nor settings nor LISTEN. (Statement pooling allows no
// transactions and is not supported.) Needs Debian's package
// pgbouncer, hence the build tag: `make test-pgbouncer`.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, pool := range []string{"session", "transaction"} {
		modes := func(lookup bool) {
			t.Run(fmt.Sprintf("%s pooling, %s", pool, pick(lookup, "lookup", "replica")), func(t *testing.T) {
				t.Parallel()
				pg := harness.OwnPostgres(t)
				addr, restart := startPgBouncer(t, pg, pool)
				r := harness.NewRig(t, harness.RigOptions{StoreURL: pg.Via(addr), Redis: true, Lookup: lookup,
					MaxStaleness: bound, SyncInterval: 500 * time.Millisecond})
				w := watching(t, r, false)
				w.forget()
				pause(t.Context(), short)
				if p := w.passed(); p < 0.99 {
					t.Errorf("%.1f %% of good tokens passed, want all", 100*p)
				}
				for range 3 {
					pg.Terminate(t)
					pause(t.Context(), 300*time.Millisecond)
				}
				restart()
				w.recovered(5 * time.Second)
				w.durable()
				w.end()
				if got := r.Front.Bearer(t, r.Token(nil)); got.Status != http.StatusOK {
					t.Errorf("status %d", got.Status)
				}
			})
		}
		modes(false)
		modes(true)
	}
}

func startPgBouncer(t *testing.T, pg *harness.PG, pool string) (addr string, restart func()) {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Fatal("pgbouncer is not installed: apt-get install pgbouncer")
	}
	dir, port := harness.Dir(t), harness.Port(t)
	host, pgPort := split(pg.Addr)
	users := harness.WriteFile(t, dir, "users.txt", `"postgres" ""`)
	conf := harness.WriteFile(t, dir, "pgbouncer.ini", fmt.Sprintf(`[databases]
* = user=postgres host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
auth_file = %s
pool_mode = %s
default_pool_size = 4
`, host, pgPort, port, users, pool))
	var cmd *exec.Cmd
	run := func() {
		log, err := os.Create(filepath.Join(dir, "pgbouncer.log"))
		must(t, err)
		defer log.Close()
		cmd = exec.Command(path, conf)
		cmd.Env = os.Environ()
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr = nil
		}
		must(t, cmd.Start())
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	run()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "pgbouncer.log"))
			t.Logf("pgbouncer:\n%.4000s", b)
		}
	})
	return fmt.Sprintf("127.0.0.1:%d", port), func() {
		stop()
		pause(t.Context(), 300*time.Millisecond)
		run()
	}
}
