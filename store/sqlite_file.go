package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

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
}

// sqlitePlace is the path of the store and the file that is there.
type sqlitePlace struct {
	path string
	o    *Options
	now  atomic.Pointer[sqliteFile]

	changing sync.Mutex
	closed   bool
	old      sync.WaitGroup // files being closed
}

// errReplaced: what was read proves nothing, and what was written is lost.
var errReplaced = fmt.Errorf("%w: the file has been replaced or removed since it was opened", ErrUnproven)

func (p *sqlitePlace) open(nth int) (*sqliteFile, error) {
	info, err := os.Stat(p.path)
	if err != nil {
		return nil, fmt.Errorf("store: sqlite: %w", err)
	}
	// FULL: a commit is on disk before revoke succeeds. WAL: readers never wait
	// for the writer. A reader waits shortly for a lock only while another
	// process recovers or closes the file.
	return &sqliteFile{
		info: info, nth: nth,
		write: p.connect(1, p.o.WriteTimeout, "immediate", "synchronous(FULL)", "journal_mode(WAL)"),
		read:  p.connect(p.o.Lookups, p.o.LookupTimeout/2, "deferred", "query_only(1)"),
		feed:  p.connect(2, p.o.FeedTimeout/2, "deferred", "query_only(1)"),
	}, nil
}

func (p *sqlitePlace) connect(conns int, busy time.Duration, lock string, pragmas ...string) *sql.DB {
	// rw: a connection does not make a file where there is none any more.
	q := url.Values{"mode": {"rw"}, "_txlock": {lock}, "_pragma": pragmas}
	q.Add("_pragma", "busy_timeout("+strconv.FormatInt(max(busy.Milliseconds(), 1), 10)+")")
	q.Add("_pragma", "trusted_schema(0)")
	dsn := (&url.URL{Scheme: "file", Path: p.path, RawQuery: q.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		panic(err) // the driver is linked in, and opening connects to nothing
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db
}

// check is asked after f was read or written: is it still the file at the
// path? When it is not, and the one there is a store, that is used from now on.
func (p *sqlitePlace) check(f *sqliteFile) error {
	info, err := os.Stat(p.path)
	if err == nil && os.SameFile(info, f.info) {
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

func (p *sqlitePlace) close() error {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.closed = true
	p.old.Wait()
	return p.now.Load().close()
}

func (f *sqliteFile) close() error {
	return errors.Join(f.read.Close(), f.feed.Close(), f.write.Close())
}

func (f *sqliteFile) about(ctx context.Context) (Limits, error) {
	var version, compatible int
	var staleness, ttl int64
	if err := f.read.QueryRowContext(ctx, `select schema_version, schema_compatible, max_staleness, max_token_ttl from meta`).
		Scan(&version, &compatible, &staleness, &ttl); err != nil {
		return Limits{}, err
	}
	if err := checkSchema(version, compatible); err != nil {
		return Limits{}, err
	}
	return Limits{SchemaVersion: version, MaxStaleness: time.Duration(staleness) * time.Microsecond, MaxTokenTTL: time.Duration(ttl) * time.Microsecond}, nil
}

// unsure is err for a write: what came after its commit leaves it open
// whether the revocation is where anybody looks.
func unsure(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", authz.ErrOutcomeUnknown, err)
}
