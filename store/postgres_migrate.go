package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// migrationLock is the advisory lock under which migrations run, one process
// at a time. Its value is arbitrary, and must not change.
const migrationLock int64 = -4891426068537921071

// migrate works on a connection of its own, without the other pools' time
// limits: building an index may take its time.
func (p *postgresStore) migrate(ctx context.Context) error {
	db := stdlib.OpenDB(*p.config.Copy(), stdlib.OptionBeforeConnect(p.login))
	defer db.Close()
	// The version table lives in the schema, so the schema comes first.
	// "if not exists" still fails when two sessions create it at the same instant.
	for try := 0; ; try++ {
		_, err := db.ExecContext(ctx, `create schema if not exists authz`)
		var pg *pgconn.PgError
		if err == nil {
			break
		}
		if try == 3 || !errors.As(err, &pg) || pg.Code != "23505" && pg.Code != "42P06" {
			return fmt.Errorf("migrating: %w", p.fail(err))
		}
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 300), lock.WithUnlockTimeout(1, 30))
	if err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	versions, err := database.NewStore(database.DialectPostgres, "authz.migrations")
	if err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	m, err := goose.NewProvider(goose.DialectCustom, db, migrationsOf("postgres"), goose.WithStore(versions),
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true), goose.WithSlog(p.o.Logger))
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	if _, err := m.Up(ctx); err != nil {
		return fmt.Errorf("migrating: %w", p.fail(err))
	}
	return p.raiseLimits(ctx)
}

// raiseLimits writes the configured limits where they are above the stored
// ones. What was stored under the shorter token lifetime is made to last for
// the longer one.
func (p *postgresStore) raiseLimits(ctx context.Context) error {
	return p.fail(pgx.BeginFunc(ctx, p.writes, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update authz.meta set max_staleness = make_interval(secs => $1) where max_staleness < make_interval(secs => $1)`,
			p.o.MaxStaleness.Seconds()); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `update authz.meta set max_token_ttl = make_interval(secs => $1) where max_token_ttl < make_interval(secs => $1)`,
			p.o.MaxTokenTTL.Seconds())
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `update authz.revocations set expires_at = greatest(revoked_at, not_before) + make_interval(secs => $1)
			where expires_at < greatest(revoked_at, not_before) + make_interval(secs => $1)
			  and greatest(revoked_at, not_before) + make_interval(secs => $1) > now()`, p.o.MaxTokenTTL.Seconds())
		return err
	}))
}

// bumpEpoch also stamps rows that carry a transaction id this server has not
// reached, as they do after a dump was loaded into a new one: they would be
// sent to every follower at every sync.
func (p *postgresStore) bumpEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return p.fail(pgx.BeginFunc(ctx, p.writes, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update authz.revocations set expires_at = expires_at where xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update authz.meta set epoch = $1`, newEpoch())
		return err
	}))
}
