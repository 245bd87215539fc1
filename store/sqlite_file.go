package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"jwtbouncer/authz"
)

// sqliteFile is the store's file and the connections to it.
//
// They belong to the file that was at the path when it was opened, known by its
// inode. SQLite knows it only by its path: it would read another file, put there
// by a restore, together with the log and the shared memory of the old one. So
// once the path leads elsewhere, nothing is proven and nothing is written until
// the process is restarted. (When connections to a file that has moved are
// closed, SQLite leaves the log at the path alone.)
type sqliteFile struct {
	path     string
	info     os.FileInfo // identifies the file
	o        *Options
	replaced atomic.Bool

	write *sql.DB // one connection: SQLite has one writer, and queueing here is fairer than its busy loop
	read  *sql.DB
	feed  *sql.DB
	list  *sql.DB // one connection: a long list must not keep lookups waiting

	connecting sync.RWMutex // held for writing while all connections are being closed
	reopening  sync.Mutex
	reopened   time.Time    // last time
	generation atomic.Int64 // of the connections
}

// errReplaced: anything read proves nothing, and anything written is lost.
var errReplaced = fmt.Errorf("%w: the file has been replaced or removed since it was opened: remove the -wal and -shm files of the old one, then restart", ErrUnproven)

const (
	readerConns = 2 // of the feed: one reads, one watches
	// reopenEvery is how often connections are made anew at most, should it not help.
	reopenEvery = time.Second
	// drainTime is how long new connections wait for the old ones to be closed. It
	// is a part of the time a lookup has; a feed that takes longer leaves
	// reopening to the next failure.
	drainTime = 50 * time.Millisecond
)

func openSQLiteFile(path string, o *Options) (*sqliteFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("store: sqlite: %w", err)
	}
	f := &sqliteFile{path: path, info: info, o: o}
	connect := func(conns int, busy time.Duration, lock string, pragmas ...string) *sql.DB {
		// rw: a connection does not create a file that has been removed.
		q := url.Values{"mode": {"rw"}, "_txlock": {lock}, "_pragma": pragmas}
		q.Add("_pragma", "busy_timeout("+strconv.FormatInt(max(busy.Milliseconds(), 1), 10)+")")
		q.Add("_pragma", "trusted_schema(0)")
		dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
		db := sql.OpenDB(pinned{driver: &sqlite.Driver{}, dsn: dsn, file: f})
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
		return db
	}
	// FULL: a commit is on disk before revoke succeeds. WAL: readers never wait
	// for the writer. A reader waits shortly for a lock only while another
	// process recovers or closes the file.
	f.write = connect(1, o.WriteTimeout, "immediate", "synchronous(FULL)", "journal_mode(WAL)")
	f.read = connect(o.Lookups, o.LookupTimeout/2, "deferred", "query_only(1)")
	f.list = connect(1, o.WriteTimeout, "deferred", "query_only(1)")
	f.feed = connect(readerConns, o.FeedTimeout/2, "deferred", "query_only(1)")
	return f, nil
}

// pinned opens connections to one file and to no other that has taken its place.
type pinned struct {
	driver driver.Driver
	dsn    string
	file   *sqliteFile
}

func (c pinned) Driver() driver.Driver { return c.driver }

func (c pinned) Connect(context.Context) (driver.Conn, error) {
	c.file.connecting.RLock()
	defer c.file.connecting.RUnlock()
	if err := c.file.check(); err != nil {
		return nil, err
	}
	conn, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	if err := c.file.check(); err != nil { // replaced in between
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// check returns an error once the path has led to another file. It is called
// after every reading and before and after every writing.
func (f *sqliteFile) check() error {
	if !f.replaced.Load() {
		info, err := os.Stat(f.path)
		if err == nil && os.SameFile(info, f.info) {
			return nil
		}
		if !f.replaced.Swap(true) {
			f.o.Logger.Error("the store's file was replaced or removed: this process proves nothing until it is restarted", "path", f.path)
		}
	}
	return fmt.Errorf("sqlite %s: %w", f.path, errReplaced)
}

// reading runs op, once more if its connection had to be reopened, and makes
// sure that it read the store's own file.
func (f *sqliteFile) reading(op func() error) error {
	err := op()
	if f.reopen(err) {
		err = op()
	}
	if replaced := f.check(); replaced != nil {
		return replaced // whatever else went wrong, that is why
	}
	return err
}

// writing runs op in a transaction, once more if its connection had to be
// reopened.
func (f *sqliteFile) writing(ctx context.Context, op func(*sql.Tx) error) error {
	err := f.transact(ctx, op)
	if f.reopen(err) {
		err = f.transact(ctx, op)
	}
	return err
}

func (f *sqliteFile) transact(ctx context.Context, op func(*sql.Tx) error) error {
	if err := f.check(); err != nil {
		return err
	}
	tx, err := f.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := op(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		var se *sqlite.Error
		if errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_IOERR {
			// The write-ahead log may hold the commit although syncing it failed.
			return fmt.Errorf("%w: sqlite %s: %w", authz.ErrOutcomeUnknown, f.path, err)
		}
		return err
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("%w: %w", authz.ErrOutcomeUnknown, err)
	}
	return nil
}

// reopen closes all connections if err is due to them, and reports whether a
// second try is worthwhile. SQLite opens a -wal or -shm that it may not write
// for reading only, and stays with that; a connection meets such files in the
// moment between another user's process creating them (an operator's
// `jwt-bouncer revoke`, as root) and giving them to the owner of the store. All
// connections of a process share one -shm, so all of them have to be closed.
func (f *sqliteFile) reopen(err error) bool {
	var se *sqlite.Error
	if !errors.As(err, &se) || se.Code()&0xff != sqlite3.SQLITE_READONLY || errors.Is(err, authz.ErrOutcomeUnknown) {
		return false
	}
	before := f.generation.Load()
	f.reopening.Lock()
	defer f.reopening.Unlock()
	if f.generation.Load() != before {
		return true // by another caller
	}
	if time.Since(f.reopened) < reopenEvery || !f.writable() {
		return false
	}
	f.reopened = time.Now()
	f.o.Logger.Warn("the store was open for reading only; reopening it", "path", f.path)
	f.connecting.Lock()
	defer f.connecting.Unlock()
	f.generation.Add(1)
	for _, db := range f.pools() {
		db.SetMaxIdleConns(-1) // closes idle connections now and the others when they are given back
	}
	for start := time.Now(); time.Since(start) < drainTime && f.open() > 0; {
		time.Sleep(time.Millisecond)
	}
	for _, db := range f.pools() {
		db.SetMaxIdleConns(db.Stats().MaxOpenConnections)
	}
	return true
}

func (f *sqliteFile) open() (n int) {
	for _, db := range f.pools() {
		n += db.Stats().OpenConnections
	}
	return n
}

// writable reports whether the file and its companions can be written now.
func (f *sqliteFile) writable() bool {
	path := f.path
	if resolved, err := filepath.EvalSymlinks(path); err == nil { // as SQLite does
		path = resolved
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		err := unix.Access(path+suffix, unix.W_OK)
		if errors.Is(err, os.ErrNotExist) { // it has to be created
			err = unix.Access(filepath.Dir(path), unix.W_OK)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// pools returns the writer last: the last connection to be closed checkpoints.
func (f *sqliteFile) pools() []*sql.DB { return []*sql.DB{f.read, f.feed, f.list, f.write} }

func (f *sqliteFile) close() error {
	var errs []error
	for _, db := range f.pools() {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// createFile makes sure that the file exists and is readable by its owner
// alone; SQLite gives its companions (-wal, -shm) the same mode.
func createFile(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("store: sqlite: directory %s does not exist and cannot be created (create it, owned by uid %d): %w", dir, os.Getuid(), err)
		}
	}
	// An existing file is not opened: closing it would release the locks that
	// another store in this process holds on it (POSIX locks are like that).
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, os.ErrExist):
		var info os.FileInfo
		if info, err = os.Stat(path); err == nil && !info.Mode().IsRegular() {
			err = errors.New("not a regular file")
		}
		if err == nil {
			err = unix.Access(path, unix.R_OK|unix.W_OK)
		}
	}
	if err != nil {
		hint := ""
		if errors.Is(err, os.ErrPermission) {
			hint = fmt.Sprintf(" (uid %d needs to write the file and its directory)", os.Getuid())
		}
		return fmt.Errorf("store: sqlite: %s: %w%s", path, err, hint)
	}
	return nil
}
