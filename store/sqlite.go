package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"jwtbouncer/authz"
)

// sqliteStore keeps the ledger in one file. Several processes may share it:
// SQLite admits one writer at a time, and readers always see the last commit,
// so reading the file is proof.
type sqliteStore struct {
	path   string
	place  sqlitePlace
	lookup *lookups
	o      *Options
	met    *metrics
}

var _ engine = (*sqliteStore)(nil)

func openSQLite(path string, o *Options, met *metrics) (*sqliteStore, error) {
	if err := createFile(path); err != nil {
		return nil, err
	}
	s := &sqliteStore{path: path, place: sqlitePlace{path: path, o: o}, o: o, met: met}
	file, err := s.place.open(0)
	if err != nil {
		return nil, err
	}
	s.place.now.Store(file)
	s.lookup = newLookups("sqlite", o, met, s.read)
	return s, nil
}

// createFile makes sure that the file exists and is its owner's alone; SQLite
// gives its companions (-wal, -shm) the same mode.
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

func (s *sqliteStore) Name() string { return "sqlite" }

// fail names the store and sorts the cause: an invalid row, an interrupted
// call, or a file that cannot be used.
func (s *sqliteStore) fail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, authz.ErrInvalid), errors.Is(err, authz.ErrUnavailable), errors.Is(err, authz.ErrOutcomeUnknown):
		return err
	}
	hint := ""
	var se *sqlite.Error
	if errors.As(err, &se) {
		switch se.Code() & 0xff {
		case sqlite3.SQLITE_INTERRUPT:
			err = errors.Join(context.Canceled, err)
		case sqlite3.SQLITE_CONSTRAINT:
			return fmt.Errorf("%w: %w", authz.ErrInvalid, err)
		case sqlite3.SQLITE_ERROR:
			return fmt.Errorf("%w: sqlite %s: %w (is the schema installed? run `jwt-bouncer migrate`)", ErrSchema, s.path, err)
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			hint = " (the file is damaged: restore it from a backup, then run `jwt-bouncer migrate --bump-epoch`)"
		case sqlite3.SQLITE_FULL:
			hint = " (free space on its file system)"
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			hint = " (another process holds its lock)"
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
			hint = fmt.Sprintf(" (uid %d needs to write the file, its -wal and -shm, and its directory)", os.Getuid())
		}
	}
	return fmt.Errorf("%w: sqlite %s: %w%s", authz.ErrUnavailable, s.path, err, hint)
}

func (s *sqliteStore) migrate(ctx context.Context) error {
	var err error
	// Processes that start together may run the same migration: each is one
	// transaction, the second fails as a whole, and on the next try it finds
	// nothing left to do.
	for try := range 6 {
		if try > 0 {
			select {
			case <-ctx.Done():
				return s.fail(errors.Join(ctx.Err(), err))
			case <-time.After(time.Duration(10+rand.IntN(50<<try)) * time.Millisecond): //nolint:gosec // spreads retries, guards nothing
			}
		}
		if err = s.migrateOnce(ctx); err == nil {
			return nil
		}
	}
	return s.fail(err)
}

func (s *sqliteStore) migrateOnce(ctx context.Context) (err error) {
	file := s.place.now.Load()
	defer func() { s.place.renewed(file, err) }() // for the next try
	p, err := goose.NewProvider(goose.DialectSQLite3, file.write, migrationsOf("sqlite"), goose.WithDisableGlobalRegistry(true), goose.WithSlog(s.o.Logger))
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	// Not closed: it would close the writer.
	if _, err := p.Up(ctx); err != nil {
		return err
	}
	return s.raiseLimits(ctx)
}

// raiseLimits writes the configured limits where they are above the stored
// ones. What was stored under the shorter token lifetime is made to last for
// the longer one.
func (s *sqliteStore) raiseLimits(ctx context.Context) error {
	return s.inWrite(ctx, func(tx *sql.Tx) error {
		ttl := s.o.MaxTokenTTL.Microseconds()
		if _, err := tx.ExecContext(ctx, `update meta set max_staleness = ?1 where max_staleness < ?1`, s.o.MaxStaleness.Microseconds()); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `update meta set max_token_ttl = ?1 where max_token_ttl < ?1`, ttl)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `update revocations set expires_at = max(revoked_at, coalesce(not_before, 0)) + ?1
			where expires_at < max(revoked_at, coalesce(not_before, 0)) + ?1 and max(revoked_at, coalesce(not_before, 0)) + ?1 > ?2`,
			ttl, s.o.Clock.Now().UnixMicro())
		return err
	})
}

// inWrite runs f in one write transaction, once more when the connection that
// it got cannot write.
func (s *sqliteStore) inWrite(ctx context.Context, f func(*sql.Tx) error) error {
	file := s.place.now.Load()
	err := s.write(ctx, file, f)
	if s.place.renewed(file, err) {
		err = s.write(ctx, s.place.now.Load(), f)
	}
	return err
}

func (s *sqliteStore) write(ctx context.Context, file *sqliteFile, f func(*sql.Tx) error) error {
	if err := s.place.check(file); err != nil {
		return err // nothing is written in vain
	}
	tx, err := file.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		var se *sqlite.Error
		if errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_IOERR {
			// The write-ahead log may hold the commit although syncing it failed.
			return fmt.Errorf("%w: sqlite %s: %w", authz.ErrOutcomeUnknown, s.path, err)
		}
		return err
	}
	return unsure(s.place.check(file))
}

func (s *sqliteStore) about(ctx context.Context) (limits Limits, err error) {
	err = s.place.use(func(file *sqliteFile) error {
		limits, err = file.about(ctx)
		return err
	})
	if errors.Is(err, ErrSchema) {
		err = fmt.Errorf("sqlite %s: %w", s.path, err)
	}
	return limits, s.fail(err)
}

func (s *sqliteStore) bumpEpoch(ctx context.Context) error {
	return s.fail(s.inWrite(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `update meta set epoch = ?`, newEpoch())
		return err
	}))
}

func (s *sqliteStore) collect(ctx context.Context, now time.Time) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.WriteTimeout)
	defer cancel()
	defer s.met.done("gc", time.Now(), &err)
	err = s.inWrite(ctx, func(tx *sql.Tx) error {
		if err := adopt(ctx, tx); err != nil {
			return err
		}
		// Small batches: another process's revoke waits for each.
		res, err := tx.ExecContext(ctx, `delete from revocations where id in (select id from revocations where expires_at < ? limit 1000)`,
			now.Add(-s.o.GCGrace).UnixMicro())
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, s.fail(err)
}

func (*sqliteStore) bridge(context.Context, BridgeOptions) (int64, error) { return 0, errNoBridge }

func (s *sqliteStore) Close() error {
	s.lookup.close()
	return s.place.close()
}
