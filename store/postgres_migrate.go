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

// Migrate works on a connection of its own, without the other pools' time
// limits: building an index may take its time.
func (p *postgresStore) Migrate(ctx context.Context) error {
	db := stdlib.OpenDB(*p.config.Copy(), stdlib.OptionBeforeConnect(p.login))
	defer db.Close()
	// The version table lives in the schema, so the schema comes first. "create
	// schema if not exists" needs the right to create one even if it exists.
	for try := 0; ; try++ {
		var exists bool
		err := db.QueryRowContext(ctx, `select to_regnamespace('authz') is not null`).Scan(&exists)
		if err == nil && !exists {
			_, err = db.ExecContext(ctx, `create schema authz`)
		}
		if err == nil {
			break
		}
		if state := stateOf(err); try == 3 || state != "23505" && state != "42P06" { // another session was faster
			return fmt.Errorf("migrating: %w", p.migrationFailed(ctx, err))
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
	applied, err := m.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrating: %w", p.migrationFailed(ctx, err))
	}
	if err := p.grantRoles(ctx); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	if err := p.warnOfSuperuser(ctx); err != nil {
		return fmt.Errorf("migrating: %w", p.fail(err))
	}
	return p.raiseLimits(ctx, installed(applied))
}

// warnOfSuperuser warns if functions that run as their owner run as a superuser:
// should one have a fault, it gives away the whole server.
func (p *postgresStore) warnOfSuperuser(ctx context.Context) error {
	var owner *string
	err := p.writes.QueryRow(ctx, `select min(r.rolname) from pg_proc f join pg_roles r on r.oid = f.proowner
		where f.pronamespace = 'authz'::regnamespace and f.prosecdef and r.rolsuper`).Scan(&owner)
	if err == nil && owner != nil {
		p.o.Logger.WarnContext(ctx, "a superuser owns the schema authz, and its functions run with the owner's rights: install it as a role of its own (see docs/store.md, \"Give out rights\")",
			"store", p.where, "owner", *owner)
	}
	return err
}

// raiseLimits writes the configured limits where they are above the stored
// ones. A store that was just installed has had no time to delete anything by
// its first limit, so nothing has to be remembered of it.
func (p *postgresStore) raiseLimits(ctx context.Context, isNew bool) error {
	err := p.inTx(ctx, func(tx pgx.Tx) error {
		var version int
		if err := tx.QueryRow(ctx, `select schema_version from authz.meta`).Scan(&version); err != nil {
			return err
		}
		if err := checkSchema(version); err != nil {
			return err
		}
		// authz.revoke keeps a raise waiting until its transaction ends.
		if _, err := tx.Exec(ctx, `select set_config('lock_timeout', '10s', true)`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `update authz.meta set max_staleness = greatest(max_staleness, make_interval(secs => $1)), max_token_ttl = greatest(max_token_ttl, make_interval(secs => $2))
			where max_staleness < make_interval(secs => $1) or max_token_ttl < make_interval(secs => $2)`, p.o.MaxStaleness.Seconds(), p.o.MaxTokenTTL.Seconds()); err != nil {
			return err
		}
		if !isNew {
			return nil
		}
		_, err := tx.Exec(ctx, `update authz.meta set previous_token_ttl = null, raised_at = null, epoch = authz.draw_epoch() where raised_at is not null`)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" { // lock_not_available
		return fmt.Errorf("%w: postgres %s: the limits were not raised: a transaction that has called authz.revoke is still open; end it (pg_locks names it, for authz.meta) and run `jwt-bouncer migrate` again: %w",
			authz.ErrUnavailable, p.where, err)
	}
	return p.fail(err)
}

// inTx runs f in a transaction whose every statement sees what has been
// committed by then, whatever the login's default is.
func (p *postgresStore) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, p.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, f)
}

// BumpEpoch also stamps rows that carry a transaction id this server has not
// reached, as they do after a dump was loaded into a new one: they would be
// sent to every follower at every sync. And it numbers new rows above those that
// came by logical replication, which leaves sequences behind.
func (p *postgresStore) BumpEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return p.fail(p.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update authz.revocations set expires_at = expires_at where xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select setval('authz.revocations_id_seq', r.id) from (select max(id) as id from authz.revocations) r
			where r.id >= (select last_value from authz.revocations_id_seq)`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update authz.meta set epoch = authz.draw_epoch()`)
		return err
	}))
}
