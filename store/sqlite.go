package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"jwtbouncer/authz"
)

// sqliteStore keeps the ledger in one file. Several processes may share it:
// SQLite admits one writer at a time, and readers always see the last commit,
// so reading the file is proof.
type sqliteStore struct {
	path string
	file *sqliteFile
	o    *Options
	met  *metrics
}

var _ engine = (*sqliteStore)(nil)

func openSQLite(path string, o *Options, met *metrics) (*sqliteStore, error) {
	if err := createFile(path); err != nil {
		return nil, err
	}
	file, err := openSQLiteFile(path, o)
	if err != nil {
		return nil, err
	}
	return &sqliteStore{path: path, file: file, o: o, met: met}, nil
}

func (s *sqliteStore) Name() string { return "sqlite" }

// fail names the store and classifies the cause: an invalid row, an interrupted
// call, or a file that cannot be used.
func (s *sqliteStore) fail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrSchema):
		return fmt.Errorf("sqlite %s: %w", s.path, err)
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

func (s *sqliteStore) Migrate(ctx context.Context) error {
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
		if err = s.migrateOnce(ctx); err == nil || errors.Is(err, errReplaced) || errors.Is(err, ErrSchema) {
			return s.fail(err)
		}
		s.file.reopen(err) // for the next try
	}
	return s.fail(err)
}

func (s *sqliteStore) migrateOnce(ctx context.Context) error {
	if err := s.file.check(); err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.file.write, migrationsOf("sqlite"), goose.WithDisableGlobalRegistry(true), goose.WithSlog(s.o.Logger))
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	// The provider is not closed: that would close the writer.
	applied, err := p.Up(ctx)
	if err != nil {
		return err
	}
	return s.raiseLimits(ctx, installed(applied))
}

// raiseLimits writes the configured limits where they are above the stored
// ones. A store that was just installed has had no time to delete anything by
// its first limit, so nothing has to be remembered of it.
func (s *sqliteStore) raiseLimits(ctx context.Context, isNew bool) error {
	return s.file.writing(ctx, func(tx *sql.Tx) error {
		var m sqliteMeta
		if err := m.scan(tx.QueryRowContext(ctx, `select `+sqliteMetaColumns+` from meta`)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `update meta set max_staleness = max(max_staleness, ?1), max_token_ttl = max(max_token_ttl, ?2)
			where max_staleness < ?1 or max_token_ttl < ?2`, s.o.MaxStaleness.Microseconds(), s.o.MaxTokenTTL.Microseconds())
		if err != nil || !isNew {
			return err
		}
		_, err = tx.ExecContext(ctx, `update meta set previous_token_ttl = null, raised_at = null`)
		return err
	})
}

func (s *sqliteStore) Limits(ctx context.Context) (Limits, error) {
	var m sqliteMeta
	err := s.file.reading(func() error {
		return m.scan(s.file.read.QueryRowContext(ctx, `select `+sqliteMetaColumns+` from meta`))
	})
	if err != nil {
		return Limits{}, s.fail(err)
	}
	return m.limits(), nil
}

func (s *sqliteStore) BumpEpoch(ctx context.Context) error {
	return s.fail(s.file.writing(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `update meta set epoch = random() & 4611686018427387903`)
		return err
	}))
}

func (s *sqliteStore) collect(ctx context.Context, now time.Time) (total int64, err error) {
	err = s.file.writing(ctx, func(tx *sql.Tx) error {
		total = 0
		// Small batches: another process's revoke waits for each.
		for _, statement := range []string{
			`delete from revocations where id in (select id from revocations
				where ttl_from is null and expires_at < ?1 limit 1000)`,
			`delete from revocations where id in (select id from revocations
				where ttl_from < ?1 - (select max_token_ttl from meta) and coalesce(expires_at, 0) < ?1 limit 1000)`,
		} {
			res, err := tx.ExecContext(ctx, statement, now.Add(-authz.ExpiredKept).UnixMicro())
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	})
	return total, s.fail(err)
}

// MissingRoles implements engine: SQLite has no roles.
func (*sqliteStore) MissingRoles(context.Context) (string, error) { return "", nil }

func (s *sqliteStore) Ready() error { return s.file.check() }

// InstallBridge implements engine.
func (*sqliteStore) InstallBridge(context.Context, BridgeOptions) (int64, error) {
	return 0, errors.New("a bridge needs a postgres store: no other writer shares a SQLite file")
}

func (s *sqliteStore) Close() error { return s.file.close() }

// sqliteMeta is the row of facts for the whole fleet.
type sqliteMeta struct {
	version                   int
	fileID                    string
	epoch, seq                int64
	maxStaleness, maxTokenTTL int64 // microseconds
	previousTTL, raisedAt     sql.NullInt64
}

const sqliteMetaColumns = `meta.schema_version, meta.file_id, meta.epoch, meta.seq, meta.max_staleness, meta.max_token_ttl, meta.previous_token_ttl, meta.raised_at`

// scan reads sqliteMetaColumns, and behind them more, from one row.
func (m *sqliteMeta) scan(row *sql.Row, more ...any) error {
	err := row.Scan(append([]any{&m.version, &m.fileID, &m.epoch, &m.seq, &m.maxStaleness, &m.maxTokenTTL, &m.previousTTL, &m.raisedAt}, more...)...)
	if err != nil {
		return err
	}
	return checkSchema(m.version)
}

// tokens bounds the tokens for which the absence of a revocation is proof.
func (m *sqliteMeta) tokens() authz.TokenLimit {
	return authz.TokenLimit{Max: micro(m.maxTokenTTL), RaisedFrom: micro(m.previousTTL.Int64), Raised: ceilSeconds(m.raisedAt.Int64)}
}

func (m *sqliteMeta) limits() Limits {
	return Limits{MaxStaleness: micro(m.maxStaleness), MaxTokenTTL: micro(m.maxTokenTTL), Incarnation: fmt.Sprintf("%s/%d", m.fileID, m.epoch)}
}
