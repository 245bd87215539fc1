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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"jwtbouncer/authz"
)

// sqliteFile are the connections to one file. They hold on to it even when
// another is put in its place, as a restore does.
type sqliteFile struct {
	info  os.FileInfo // tells it from one that takes its place
	nth   int         // of the files that have been at the path, from 0
	write *sql.DB     // one connection: SQLite has one writer, and queueing here is fairer than its busy loop
	read  *sql.DB
	feed  *sql.DB
	list  *sql.DB                     // one connection: a long list must not keep lookups waiting
	again atomic.Bool                 // it has been opened again, and these connections are being closed
	log   atomic.Pointer[os.FileInfo] // its write-ahead log, which lives as long as a connection; nil: not seen yet
}

// sqlitePlace is the path of the store and the file that is there.
type sqlitePlace struct {
	path string
	o    *Options
	now  atomic.Pointer[sqliteFile]

	changing sync.Mutex
	closed   bool
	renewal  time.Time
	old      sync.WaitGroup // files being closed
}

// errReplaced: what was read proves nothing, and what was written is lost.
var errReplaced = fmt.Errorf("%w: the file has been replaced or removed since it was opened", ErrUnproven)

func (p *sqlitePlace) open(nth int) (*sqliteFile, error) {
	info, err := os.Stat(p.path)
	if err != nil {
		return nil, fmt.Errorf("store: sqlite: %w", err)
	}
	return p.connections(info, nth, nil), nil
}

// connections begin once after is closed; nil: at once.
func (p *sqlitePlace) connections(info os.FileInfo, nth int, after <-chan struct{}) *sqliteFile {
	connect := func(conns int, busy time.Duration, lock string, pragmas ...string) *sql.DB {
		// rw: a connection does not make a file where there is none any more.
		q := url.Values{"mode": {"rw"}, "_txlock": {lock}, "_pragma": pragmas}
		q.Add("_pragma", "busy_timeout("+strconv.FormatInt(max(busy.Milliseconds(), 1), 10)+")")
		q.Add("_pragma", "trusted_schema(0)")
		dsn := (&url.URL{Scheme: "file", Path: p.path, RawQuery: q.Encode()}).String()
		db := sql.OpenDB(pinned{driver: &sqlite.Driver{}, dsn: dsn, path: p.path, info: info, after: after})
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
		return db
	}
	// FULL: a commit is on disk before revoke succeeds. WAL: readers never wait
	// for the writer. A reader waits shortly for a lock only while another
	// process recovers or closes the file.
	return &sqliteFile{
		info: info, nth: nth,
		write: connect(1, p.o.WriteTimeout, "immediate", "synchronous(FULL)", "journal_mode(WAL)"),
		read:  connect(p.o.Lookups, p.o.LookupTimeout/2, "deferred", "query_only(1)"),
		list:  connect(1, p.o.WriteTimeout, "deferred", "query_only(1)"),
		feed:  connect(2, p.o.FeedTimeout/2, "deferred", "query_only(1)"),
	}
}

// pinned connects to one file: never to what has taken its place, which would
// be read with the old one's log.
type pinned struct {
	driver driver.Driver
	dsn    string
	path   string
	info   os.FileInfo
	after  <-chan struct{}
}

func (c pinned) Driver() driver.Driver { return c.driver }

func (c pinned) Connect(ctx context.Context) (driver.Conn, error) {
	if c.after != nil {
		select {
		case <-c.after:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !c.there() {
		return nil, errReplaced
	}
	conn, err := c.driver.Open(c.dsn)
	if err == nil && !c.there() { // in between
		return nil, errors.Join(errReplaced, conn.Close())
	}
	return conn, err
}

func (c pinned) there() bool {
	info, err := os.Stat(c.path)
	return err == nil && os.SameFile(info, c.info)
}

// check is asked after f was read or written: is it still the file at the
// path? When it is not, and the one there is a store, that is used from now on.
func (p *sqlitePlace) check(f *sqliteFile) error {
	var wal os.FileInfo // before the file: it is of no later one
	if f.log.Load() == nil {
		wal, _ = os.Stat(p.wal())
	}
	info, err := os.Stat(p.path)
	if err == nil && os.SameFile(info, f.info) {
		if wal != nil {
			f.log.CompareAndSwap(nil, &wal)
		}
		return nil
	}
	if err == nil {
		err = p.follow(f)
	}
	if err != nil {
		return fmt.Errorf("sqlite %s: %w: %w", p.path, errReplaced, err)
	}
	return fmt.Errorf("sqlite %s: %w", p.path, errReplaced)
}

// follow opens the file that has taken the place of f. Nothing is created: an
// empty file would know of no revocation.
func (p *sqlitePlace) follow(f *sqliteFile) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	if p.closed || p.now.Load() != f {
		return nil
	}
	// SQLite would take the pages in it for the new file's, and answer from a
	// mixture of both.
	if wal := f.log.Load(); wal != nil {
		if info, err := os.Stat(p.wal()); err == nil && os.SameFile(info, *wal) {
			return errors.New("the new file stands beside the -wal of the old one: remove the -wal and -shm files")
		}
	}
	next, err := p.open(f.nth + 1)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := next.about(ctx); err != nil {
		return errors.Join(err, next.close())
	}
	p.o.Logger.Warn("another file was put in the place of the store; using that", "path", p.path)
	p.now.Store(next)
	p.old.Go(func() { _ = f.close() }) // waits for what is under way
	return nil
}

// use reads with f, once more when the connections it got had to be closed.
func (p *sqlitePlace) use(f func(*sqliteFile) error) error {
	file := p.now.Load()
	err := f(file)
	if p.renewed(file, err) {
		file = p.now.Load()
		err = f(file)
	}
	if moved := p.check(file); moved != nil {
		return moved // whatever went wrong, that is why
	}
	return err
}

// renewed reports whether err is due to these connections, and it is worth
// trying again with the present ones. SQLite opens a -wal or -shm that it may
// not write for reading only, and stays with that; and it need only meet them
// in the moment between another user's process creating them (an operator's
// `jwt-bouncer revoke`, as root) and giving them to the owner of the file.
func (p *sqlitePlace) renewed(f *sqliteFile, err error) bool {
	var se *sqlite.Error
	switch {
	case err == nil, errors.Is(err, authz.ErrOutcomeUnknown):
		return false
	case f.again.Load():
		return true
	case !errors.As(err, &se) || se.Code()&0xff != sqlite3.SQLITE_READONLY:
		return false
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	if p.closed || p.now.Load() != f || time.Since(p.renewal) < renewEvery || !p.writable() {
		return f.again.Load()
	}
	p.renewal = time.Now()
	closed := make(chan struct{})
	// Which log there is will be seen: SQLite makes another if this process
	// was the last that had it open.
	next := p.connections(f.info, f.nth, closed)
	p.o.Logger.Warn("the store was open for reading only; opening it again", "path", p.path)
	p.now.Store(next)
	f.again.Store(true) // last: whoever sees it finds next
	p.old.Go(func() {
		defer close(closed)
		_ = f.close()
		f.drain(drainTime)
	})
	return true
}

// renewEvery is how often the connections are made anew at most, should it not help.
const renewEvery = time.Second

// drainTime is how long new connections wait for the old ones to be closed: all
// of a process share one -shm, open as the first of them found it. It is a part
// of the time a lookup has; a feed that takes longer leaves it to the next write.
const drainTime = 50 * time.Millisecond

func (f *sqliteFile) drain(limit time.Duration) {
	for start := time.Now(); time.Since(start) < limit; time.Sleep(time.Millisecond) {
		open := 0
		for _, db := range f.pools() {
			open += db.Stats().OpenConnections
		}
		if open == 0 {
			return
		}
	}
}

// writable reports whether the file and its companions can be written now.
func (p *sqlitePlace) writable() bool {
	wal := p.wal()
	for _, path := range []string{p.path, wal, strings.TrimSuffix(wal, "-wal") + "-shm"} {
		err := unix.Access(path, unix.W_OK)
		if errors.Is(err, os.ErrNotExist) { // it has to be made there
			err = unix.Access(filepath.Dir(path), unix.W_OK)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// wal is the path of the write-ahead log. SQLite follows symbolic links first.
func (p *sqlitePlace) wal() string {
	if path, err := filepath.EvalSymlinks(p.path); err == nil {
		return path + "-wal"
	}
	return p.path + "-wal"
}

func (p *sqlitePlace) close() error {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.closed = true
	p.old.Wait()
	return p.now.Load().close()
}

// pools are all of them, the writer last: who closes a file last checkpoints it.
func (f *sqliteFile) pools() []*sql.DB { return []*sql.DB{f.read, f.feed, f.list, f.write} }

func (f *sqliteFile) close() error {
	var errs []error
	for _, db := range f.pools() {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// unsure is err for a write: what came after its commit leaves it open
// whether the revocation is where anybody looks.
func unsure(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", authz.ErrOutcomeUnknown, err)
}
