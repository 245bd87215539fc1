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

	"jwtbouncer/authz"
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
// ones.
func (p *postgresStore) raiseLimits(ctx context.Context) error {
	var raise bool
	err := p.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update authz.meta set max_staleness = make_interval(secs => $1) where max_staleness < make_interval(secs => $1)`,
			p.o.MaxStaleness.Seconds()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select max_token_ttl < make_interval(secs => $1) from authz.meta`, p.o.MaxTokenTTL.Seconds()).Scan(&raise)
	})
	if err == nil && raise {
		err = p.raiseTokenTTL(ctx)
	}
	return p.fail(err)
}

const (
	raiseTries  = 10
	raiseLock   = time.Second // below the lock_timeout of authz.revoke, which waits behind
	raisePause  = 500 * time.Millisecond
	lockMissing = "55P03" // lock_not_available
	deadlock    = "40P01"
)

// raiseTokenTTL raises the limit. What was stored under the shorter life is
// made to last for the longer one: most of it first, which may take long and
// stops nobody; then, while nobody else writes, what has come since. A
// transaction that had stored under the shorter life, and was open while the
// limit was raised, would be overlooked.
func (p *postgresStore) raiseTokenTTL(ctx context.Context) error {
	var since, own int64
	err := p.inTx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_current_xact_id()::text::bigint`).Scan(&since, &own); err != nil {
			return err
		}
		return p.prolong(ctx, tx, 0, 0)
	})
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err = p.inTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select set_config('lock_timeout', $1, true)`, fmt.Sprint(raiseLock.Milliseconds())); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `lock table authz.revocations in share row exclusive mode`); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `update authz.meta set max_token_ttl = make_interval(secs => $1) where max_token_ttl < make_interval(secs => $1)`,
				p.o.MaxTokenTTL.Seconds()); err != nil {
				return err
			}
			return p.prolong(ctx, tx, since, own)
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != lockMissing && pg.Code != deadlock {
			return err
		}
		if try == raiseTries {
			return fmt.Errorf("%w: postgres %s: max_token_ttl was not raised to %s: transactions that have written revocations are still open; end them (pg_locks says which, for authz.revocations) and run `jwt-bouncer migrate` again: %w",
				authz.ErrUnavailable, p.where, p.o.MaxTokenTTL, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(jitter(raisePause, 0.25)):
		}
	}
}

// prolong makes revocations whose last change is since or later, and not by the
// transaction but (which has prolonged them), last for the configured
// max_token_ttl.
func (p *postgresStore) prolong(ctx context.Context, tx pgx.Tx, since, but int64) error {
	_, err := tx.Exec(ctx, `update authz.revocations set expires_at = greatest(revoked_at, not_before) + make_interval(secs => $1)
		where expires_at < greatest(revoked_at, not_before) + make_interval(secs => $1)
		  and greatest(revoked_at, not_before) + make_interval(secs => $1) > now()
		  and (xid >= $2 and xid < $3 or xid > $3)`, p.o.MaxTokenTTL.Seconds(), since, but)
	return err
}

// inTx runs f in a transaction whose every statement sees what has been
// committed by then, whatever the login's default is.
func (p *postgresStore) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, p.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, f)
}

// bumpEpoch also stamps rows that carry a transaction id this server has not
// reached, as they do after a dump was loaded into a new one: they would be
// sent to every follower at every sync.
func (p *postgresStore) bumpEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return p.fail(p.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update authz.revocations set expires_at = expires_at where xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update authz.meta set epoch = $1`, newEpoch())
		return err
	}))
}
