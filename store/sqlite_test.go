package store_test

import (
	"bytes"
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

func openFile(t testing.TB, path string) *stdsql.DB {
	t.Helper()
	db, err := stdsql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	return db
}

func connectTo(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	return c
}

// noAllow checks that a store that cannot work says so and allows nothing.
func noAllow(t *testing.T, s *store.Store, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	v, lookupErr := s.Lookup(ctx, queryFor(jti("revoked")))
	assert.NotEqualf(t, authz.NotRevoked, v, "lookup, %v", lookupErr)
	assert.Falsef(t, v == authz.Unknown && !errors.Is(lookupErr, authz.ErrUnavailable), "lookup: %s, %v", v, lookupErr)
	_, err := s.Append(ctx, []authz.Revocation{jti("new")})
	if assert.Error(t, err, "append") {
		assert.NotErrorIs(t, err, authz.ErrInvalid, "append")
	}
	assert.Falsef(t, want != "" && !strings.Contains(err.Error(), want), "append: %v, want %q", err, want)
	assert.Containsf(t, err.Error(), "sqlite", "append: %v does not name the store", err)
}

func TestSQLiteCorrupt(t *testing.T) {
	t.Parallel()
	fill := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "r.db")
		s := open(t, "sqlite://"+path, store.Options{})
		batch := []authz.Revocation{jti("revoked")}
		for i := range 5000 {
			batch = append(batch, jti(fmt.Sprint(i)))
		}
		_, err := s.Append(t.Context(), batch)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		return path
	}
	t.Run("not a database", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "r.db")
		require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("no database. "), 1000), 0o600))
		s := openOnly(t, "sqlite://"+path, store.Options{})
		noAllow(t, s, "restore it from a backup")
		for what, err := range map[string]error{"ping": usable(t, s), "migrate": s.Migrate(t.Context())} {
			assert.ErrorIsf(t, err, authz.ErrUnavailable, "%s", what)
			assert.Containsf(t, err.Error(), path, "%s: %v", what, err)
		}
	})
	t.Run("pages overwritten", func(t *testing.T) {
		t.Parallel()
		path := fill(t)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		info, _ := f.Stat()
		_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, int(info.Size())-4096), 4096)
		require.NoError(t, err)
		f.Close()
		s := openOnly(t, "sqlite://"+path, store.Options{})
		noAllow(t, s, "")
		_, err = s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		assert.ErrorIs(t, err, authz.ErrUnavailable, "changes")
	})
	t.Run("cut off", func(t *testing.T) {
		t.Parallel()
		path := fill(t)
		require.NoError(t, os.Truncate(path, 8192))
		noAllow(t, openOnly(t, "sqlite://"+path, store.Options{}), "")
	})
	t.Run("emptied", func(t *testing.T) {
		t.Parallel()
		path := fill(t)
		require.NoError(t, os.Truncate(path, 0))
		noAllow(t, openOnly(t, "sqlite://"+path, store.Options{}), "jwt-bouncer migrate")
	})
}

func TestSQLiteLocked(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	s := open(t, url, store.Options{WriteTimeout: 300 * time.Millisecond, LookupTimeout: 300 * time.Millisecond})
	_, err := s.Append(t.Context(), []authz.Revocation{jti("revoked")})
	require.NoError(t, err)
	db := openFile(t, strings.TrimPrefix(url, "sqlite://"))
	defer db.Close()
	_, err = db.Exec("begin immediate")
	require.NoError(t, err)
	_, err = s.Append(t.Context(), []authz.Revocation{jti("a")})
	assert.ErrorIs(t, err, authz.ErrUnavailable, "while another process writes")
	v, err := s.Lookup(t.Context(), queryFor(jti("revoked")))
	assert.Equalf(t, authz.Revoked, v, "a writer blocks readers, %v", err)
	assert.NoErrorf(t, err, "a writer blocks readers: %s", v)
	_, err = db.Exec("rollback")
	require.NoError(t, err)
	healed(t, s)
}

// TestSQLiteChild is what other tests run as a process of its own.
func TestSQLiteChild(t *testing.T) {
	mode, path := os.Getenv("STORE_CHILD"), os.Getenv("STORE_CHILD_PATH")
	if mode == "" {
		t.Log("runs only as a child of other tests")
		return
	}
	switch mode {
	case "revoke":
		s := open(t, "sqlite://"+path, store.Options{})
		for i := range 50 {
			_, err := s.Append(t.Context(), []authz.Revocation{jti(fmt.Sprintf("child-%d-%d", os.Getpid(), i))})
			require.NoError(t, err)
		}
	case "full":
		s := openOnly(t, "sqlite://"+path, store.Options{})
		const size = 300 << 10
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: size}))
		var last error
		stored := 0
		for i := 0; i < 10_000 && last == nil; i++ {
			if _, last = s.Append(t.Context(), []authz.Revocation{jti(fmt.Sprintf("full-%d", i))}); last == nil {
				stored++
			}
		}
		assert.Falsef(t, !errors.Is(last, authz.ErrUnavailable) && !errors.Is(last, authz.ErrOutcomeUnknown), "after %d: %v", stored, last)
		for i := range stored {
			v, err := s.Lookup(t.Context(), queryFor(jti(fmt.Sprintf("full-%d", i))))
			require.Equalf(t, authz.Revoked, v, "%d of %d, %v", i, stored, err)
		}
		fmt.Printf("stored %d, then: %v\n", stored, last)
	case "read-only":
		s, err := store.Open(t.Context(), "sqlite://"+path, store.Options{})
		if err == nil {
			s.Close()
		}
		fmt.Printf("open: %v\n", err)
	case "read-only log":
		readOnlyLog(t, path)
	case "migrate beside a read-only log":
		s := openOnly(t, "sqlite://"+path, store.Options{})
		limited, cancel := context.WithTimeout(t.Context(), time.Second) // it would go on trying
		defer cancel()
		assert.Error(t, s.Migrate(limited), "migrated what cannot be written")
		writableLog(t, path)
		assert.NoError(t, s.Migrate(t.Context()), "once it can be written")
	case "read-only directory":
		lines := &lineCounter{of: "reopening it"}
		s := openOnly(t, "sqlite://"+path, store.Options{Logger: slog.New(slog.NewTextHandler(lines, nil))})
		for range 20 {
			_, _ = s.Lookup(t.Context(), queryFor(jti("before")))
			_, _ = s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
			_, err := s.Append(t.Context(), []authz.Revocation{jti("x")})
			assert.ErrorIs(t, err, authz.ErrUnavailable, "stored in a directory that cannot be written")
		}
		n := lines.n.Load()
		assert.Zerof(t, n, "opened again %d times, to no avail", n)
	}
}

// lineCounter counts lines of a log.
type lineCounter struct {
	of string
	n  atomic.Int64
}

func (c *lineCounter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.of) {
		c.n.Add(1)
	}
	return len(b), nil
}

func writableLog(t *testing.T, path string) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		require.NoError(t, os.Chmod(path+suffix, 0o600))
	}
}

// readOnlyLog begins with a -wal and -shm that cannot be written, and then they
// can be.
func readOnlyLog(t *testing.T, path string) {
	s := openOnly(t, "sqlite://"+path, store.Options{})
	enforced(t, s, "before", "read beside a log that cannot be written")
	_, err := s.Append(t.Context(), []authz.Revocation{jti("refused")})
	assert.ErrorIs(t, err, authz.ErrUnavailable, "stored where nothing can be written")
	assert.Containsf(t, err.Error(), "needs to write the file, its -wal and -shm", "stored where nothing can be written: %v", err)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for range 4 { // what goes on beside the revocation notices nothing
		others.Go(func() {
			for ctx.Err() == nil {
				v, err := s.Lookup(t.Context(), queryFor(jti("before")))
				if !assert.Falsef(t, v != authz.Revoked || err != nil, "meanwhile: %v %v", v, err) {
					return
				}
			}
		})
	}
	watched := make(chan struct{}, 100)
	others.Go(func() { _ = s.Watch(ctx, func() { watched <- struct{}{} }) })
	<-watched // it has a connection that it keeps
	writableLog(t, path)
	// At once, unless the machine is so busy that the old connections are not
	// closed in time: then a later one succeeds.
	harness.Eventually(t, 30*time.Second, "stored", func(ctx context.Context) error {
		_, err := s.Append(ctx, []authz.Revocation{jti("after")})
		return err
	})
	cancel()
	others.Wait()
	enforced(t, s, "after", "stored once the log could be written")
}

func child(t *testing.T, mode, path string, asNobody bool) (output string, err error) {
	t.Helper()
	exe, exeErr := os.Executable()
	require.NoError(t, exeErr)
	if asNobody && os.Getuid() == 0 {
		// User nobody cannot read the test binary where it is.
		b, readErr := os.ReadFile(exe)
		require.NoError(t, readErr)
		exe = filepath.Join(filepath.Dir(path), "child.test")
		require.NoError(t, os.WriteFile(exe, b, 0o755))
	}
	cmd := exec.Command(exe, "-test.run=^TestSQLiteChild$", "-test.v", "-test.count=1")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "STORE_CHILD="+mode, "STORE_CHILD_PATH="+path)
	if asNobody && os.Getuid() == 0 {
		u, err := user.Lookup("nobody")
		require.NoError(t, err)
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Several processes share one file: a sidecar and command lines that revoke.
func TestSQLiteProcesses(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	s := open(t, url, store.Options{})
	f := &followed{feed: s}
	f.sync(t)
	ended := make(chan error, 3)
	for range cap(ended) {
		go func() {
			out, err := child(t, "revoke", strings.TrimPrefix(url, "sqlite://"), false)
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			ended <- err
		}()
	}
	for i := range 30 { // this process writes too
		_, err := s.Append(t.Context(), []authz.Revocation{jti(fmt.Sprint(i))})
		assert.NoError(t, err)
		f.sync(t)
	}
	for range cap(ended) {
		assert.NoError(t, <-ended)
	}
	f.sync(t)
	want := 30 + 50*cap(ended)
	assert.Lenf(t, f.Entries, want, "%d of %d", len(f.Entries), want)
}

func TestSQLiteFull(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	open(t, url, store.Options{}).Close()
	out, err := child(t, "full", strings.TrimPrefix(url, "sqlite://"), false)
	t.Log(out)
	if assert.NoError(t, err) {
		assert.Containsf(t, out, "stored ", "%v", err)
	}
	// With room again it works, and nothing that was stored is gone.
	s := open(t, url, store.Options{})
	v, err := s.Lookup(t.Context(), queryFor(jti("full-0")))
	assert.Equalf(t, authz.Revoked, v, "%v", err)
	assert.NoErrorf(t, err, "%s", v)
	healed(t, s)
}

func TestSQLiteReadOnly(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "store-") // reachable for nobody, which t.TempDir is not
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "r.db")
	open(t, "sqlite://"+path, store.Options{}).Close()
	require.NoError(t, os.Chmod(path, 0o444))
	out, err := child(t, "read-only", path, true)
	if assert.NoErrorf(t, err, "%s", out) {
		if assert.Containsf(t, out, "permission denied", "%v", err) {
			if assert.Containsf(t, out, "sqlite", "%v", err) {
				assert.Containsf(t, out, "needs to write", "%v", err)
			}
		}
	}
}

// A process of another user creates the -wal and -shm and gives them to the owner
// of the file a moment later. A process that opens them in between can only read
// them, and would for ever: so it reopens them.
func TestSQLiteReadOnlyLog(t *testing.T) {
	t.Parallel()
	dir := harness.Dir(t)
	path := filepath.Join(dir, "r.db")
	s := open(t, "sqlite://"+path, store.Options{}) // keeps the log there
	_, err := s.Append(t.Context(), []authz.Revocation{jti("before")})
	require.NoError(t, err)
	giveReadOnly(t, path)
	out, err := child(t, "read-only log", path, true)
	assert.NoErrorf(t, err, "%s", out)
	enforced(t, s, "after", "stored by the other process")

	path = filepath.Join(dir, "empty.db")
	db := openFile(t, path)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), "pragma journal_mode=wal; create table other (x)")
	require.NoError(t, err)
	giveReadOnly(t, path)
	out, err = child(t, "migrate beside a read-only log", path, true)
	assert.NoErrorf(t, err, "%s", out)
}

// giveReadOnly gives the file to the owner of its directory, its companions
// without leave to write them.
func giveReadOnly(t *testing.T, path string) {
	t.Helper()
	owner, err := os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	own := owner.Sys().(*syscall.Stat_t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		require.NoError(t, os.Chown(path+suffix, int(own.Uid), int(own.Gid)))
		if suffix != "" {
			require.NoError(t, os.Chmod(path+suffix, 0o400))
		}
	}
}

// Reopening does not help where nothing can be written at all.
func TestSQLiteReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	dir := harness.Dir(t)
	path := filepath.Join(dir, "r.db")
	s, err := store.Open(t.Context(), "sqlite://"+path, store.Options{})
	require.NoError(t, err)
	require.NoError(t, errors.Join(s.Migrate(t.Context()), s.Close()))
	owner, err := os.Stat(dir)
	require.NoError(t, err)
	own := owner.Sys().(*syscall.Stat_t)
	mode := os.FileMode(0o755) // root's own, and the child is somebody else
	if os.Getuid() != 0 {
		mode = 0o555
	}
	require.NoError(t, errors.Join(os.Chown(path, int(own.Uid), int(own.Gid)), os.Chown(dir, os.Getuid(), os.Getgid()), os.Chmod(dir, mode)))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	out, err := child(t, "read-only directory", path, true)
	assert.NoErrorf(t, err, "%s", out)
}

// Only the program computes keys: a row without one is refused, and so is what
// enforcement could not read. What is stored can only be made to last longer.
func TestSQLiteByHand(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	f, s := newFollowed(t, url)
	_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
	f.sync(t)
	db := openFile(t, strings.TrimPrefix(url, "sqlite://"))
	defer db.Close()
	const insert = `insert into revocations (kind, iss, value, ttl_from, key) values `
	for _, text := range []string{
		`update revocations set ttl_from = ttl_from - 1`, `update revocations set ttl_from = null`, `update revocations set value = 'x'`, `update revocations set not_before = 5`,
		`update revocations set key = zeroblob(16)`, `delete from revocations`,
		`insert into revocations (kind, iss, value, ttl_from) values (1, 'i', 'v', 1)`,
		insert + `(11, 'i', 'v', 1, zeroblob(16))`, insert + `(1, '', 'v', 1, zeroblob(16))`, insert + `(5, 'i', 'v', 1, zeroblob(16))`, insert + `(1, 'i', 'v', null, zeroblob(16))`,
		insert + `(1.5, 'i', 'v', 1, zeroblob(16))`, insert + `(1, 'i', x'00ff', 1, zeroblob(16))`, insert + `(1, 'i', 'v', '2026-12-23T00:00:00Z', zeroblob(16))`,
		insert + `(1, 'i', 'v', 9.5e18, zeroblob(16))`, insert + `(1, 'i', 'v', 1, '0123456789abcdef')`,
	} {
		_, err := db.ExecContext(t.Context(), text)
		assert.Errorf(t, err, "allowed: %s", text)
	}
	_, err = db.ExecContext(t.Context(), `update revocations set expires_at = ttl_from + 90000000000`)
	assert.NoError(t, err)
	before := f.Entries[jti("a").Key()]
	f.sync(t)
	e := f.Entries[jti("a").Key()]
	assert.Equalf(t, before.Expires+3600, e.Expires, "extended from %d to %d", before.Expires, e.Expires)
}

// replaced checks that a store whose file is gone proves nothing, writes
// nothing and says what to do.
func replaced(t *testing.T, s *store.Store, when string) {
	t.Helper()
	for _, value := range []string{"never revoked", "before"} {
		v, err := s.Lookup(t.Context(), queryFor(jti(value)))
		assert.Equalf(t, authz.Unknown, v, "%s: %v", when, err)
		assert.ErrorIsf(t, err, authz.ErrUnavailable, "%s: %v %v", when, v, err)
	}
	_, appendErr := s.Append(t.Context(), []authz.Revocation{jti("lost")})
	_, feedErr := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
	_, _, listErr := s.List(t.Context(), authz.Filter{})
	_, gcErr := s.GC(t.Context())
	for what, err := range map[string]error{
		"append": appendErr, "changes": feedErr, "list": listErr, "gc": gcErr, "ping": usable(t, s), "ready": s.Ready(),
		"migrate": s.Migrate(t.Context()), "epoch": s.BumpEpoch(t.Context()),
	} {
		assert.ErrorIsf(t, err, store.ErrUnproven, "%s, %s", when, what)
		assert.Containsf(t, err.Error(), "replaced or removed", "%s, %s: %v", when, what, err)
		assert.Containsf(t, err.Error(), "remove the -wal and -shm files", "%s, %s: %v", when, what, err)
	}
}

// A file is put in the place of the one in use, as a restore does. What is read
// from the old one proves nothing and what is written to it is no success, until
// the process is restarted, whatever is at the path meanwhile.
func TestSQLiteReplaced(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	path := strings.TrimPrefix(url, "sqlite://")
	s := open(t, url, store.Options{})
	_, err := s.Append(t.Context(), []authz.Revocation{jti("before")})
	require.NoError(t, err)
	db := openFile(t, path)
	_, err = db.ExecContext(t.Context(), `vacuum into '`+path+`.backup'`)
	require.NoError(t, err)
	db.Close()
	require.NoError(t, s.Ready())
	remove := func() {
		t.Helper()
		for _, name := range []string{path, path + "-wal", path + "-shm"} {
			err := os.Remove(name)
			if err != nil {
				require.ErrorIs(t, err, os.ErrNotExist)
			}
		}
	}
	remove()
	replaced(t, s, "removed")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	replaced(t, s, "an empty file")
	remove()
	require.NoError(t, os.Rename(path+".backup", path))
	other := open(t, url, store.Options{}) // another process, after the restore
	_, err = other.Append(t.Context(), []authz.Revocation{jti("after")})
	require.NoError(t, err)
	replaced(t, s, "a restored file")
	// leaves the new file's log alone
	require.NoError(t, s.Close())
	again := openOnly(t, url, store.Options{})
	for _, value := range []string{"before", "after"} {
		enforced(t, other, value, "in the new file")
		enforced(t, again, value, "after a restart")
	}
}

// A restore by renaming alone leaves the old file's log beside the new file, and
// SQLite takes the pages in it for the new one's. Nothing is proven by such a
// mixture, and the running process does not change the new file.
func TestSQLiteReplacedBesideTheOldLog(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	path := strings.TrimPrefix(url, "sqlite://")
	s := open(t, url, store.Options{})
	revoke := func(prefix string, n int) {
		t.Helper()
		batch := make([]authz.Revocation, n)
		for i := range batch {
			batch[i] = jti(fmt.Sprint(prefix, i))
		}
		_, err := s.Append(t.Context(), batch)
		require.NoError(t, err)
	}
	checkpoint := func() {
		t.Helper()
		db := openFile(t, path)
		defer db.Close()
		_, err := db.ExecContext(t.Context(), "pragma wal_checkpoint(truncate)")
		require.NoError(t, err)
	}
	revoke("old", 1000)
	checkpoint()
	backup, err := os.ReadFile(path) // page for page, as sqlite3's .backup copies
	require.NoError(t, err)
	revoke("more", 3000)
	checkpoint()
	revoke("last", 3)
	require.NoError(t, os.WriteFile(path+".backup", backup, 0o600))
	require.NoError(t, os.Rename(path+".backup", path))
	for i := range 1000 {
		v, _, err := ask(t.Context(), s, jti(fmt.Sprint("old", i)), time.Second)
		require.NotEqualf(t, authz.NotRevoked, v, "revoked in both files, and %v %v", v, err)
	}
	replaced(t, s, "beside the old log")
	require.NoError(t, s.Close())
	now, err := os.ReadFile(path)
	if assert.NoErrorf(t, err, "the new file was changed: %d bytes of %d", len(now), len(backup)) {
		assert.Equalf(t, backup, now, "the new file was changed: %d bytes of %d, %v", len(now), len(backup), err)
	}
	for _, name := range []string{path + "-wal", path + "-shm"} { // as the message says
		require.NoError(t, os.Remove(name))
	}
	enforced(t, openOnly(t, url, store.Options{}), "old1", "in the new file")
}
