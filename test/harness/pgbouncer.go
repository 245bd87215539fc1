package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Pooler is one pgbouncer process.
type Pooler struct {
	*Process
	Addr string // host:port

	path, conf, dir string
}

// PgBouncer starts a pooler in front of pg's server; mode is its pool_mode.
// settings are further lines of its section [pgbouncer]: the last one of a name is
// in force. If pgbouncer is not installed, the test is skipped, but fails in CI.
func PgBouncer(t testing.TB, pg *PG, mode string, settings ...string) *Pooler {
	t.Helper()
	host, port, err := net.SplitHostPort(pg.Addr)
	require.NoError(t, err)
	return PgBouncerFile(t, func(dir string, own int) string {
		return fmt.Sprintf(`[databases]
* = user=postgres host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
auth_file = %s
pool_mode = %s
default_pool_size = 4
%s
`, host, port, own, WriteFile(t, dir, "users.txt", `"postgres" ""`), mode, strings.Join(settings, "\n"))
	})
}

// PgBouncerFile is PgBouncer with a configuration of the test, which ini returns for
// a directory that pgbouncer can read and the port on which it has to listen.
func PgBouncerFile(t testing.TB, ini func(dir string, port int) string) *Pooler {
	t.Helper()
	NeedsProcess(t)
	path, err := find("pgbouncer", []string{"pgbouncer", "/usr/sbin/pgbouncer"}, "pgbouncer/usr/sbin/pgbouncer")
	switch {
	case err != nil && os.Getenv("CI") == "":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	p := &Pooler{dir: Dir(t), path: path}
	own := Port(t)
	p.Addr = fmt.Sprintf("127.0.0.1:%d", own)
	p.conf = WriteFile(t, p.dir, "pgbouncer.ini", ini(p.dir, own))
	p.Start(t)
	t.Cleanup(func() { p.attach(t); p.Kill() })
	return p
}

// Start restarts a pooler that was killed.
func (p *Pooler) Start(t testing.TB) {
	t.Helper()
	// If it was unpacked rather than installed, its libraries are beside it.
	libraries, _ := filepath.Glob(filepath.Join(filepath.Dir(p.path), "../lib/*-linux-gnu"))
	var env []string
	for _, dir := range libraries {
		env = append(env, "LD_LIBRARY_PATH="+dir)
	}
	var err error
	p.Process, err = start(command{name: "pgbouncer", path: p.path, args: []string{p.conf}, dir: p.dir, env: env, death: syscall.SIGKILL})
	require.NoError(t, err)
	err = p.await(10*time.Second, func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", p.Addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	require.NoError(t, err)
}
