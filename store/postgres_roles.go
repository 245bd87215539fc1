package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// role is a group role of the schema. Administrators grant it to logins.
type role struct {
	name   string
	rights []string // what follows "grant" and precedes "to"
}

// roles are all that sidecars and revokers may do; docs/store.md describes them.
var roles = []role{
	{"authz_sidecar", []string{
		"usage on schema authz",
		"execute on function authz.changes, authz.lookup, authz.about, authz.sync, authz.pack, authz.packed, authz.pack_data, authz.admit",
	}},
	{"authz_revoker", []string{
		"usage on schema authz",
		"execute on function authz.revoke, authz.gc, authz.about, authz.revocation_key, authz.expiry, authz.pack",
		"select on authz.revocations, authz.meta",
		"insert (kind, iss, value, not_before, expires_at, actor, reason) on authz.revocations",
	}},
}

func (r role) create() string { return "create role " + r.name + " nologin" }

func (r role) grants() []string {
	all := make([]string, len(r.rights))
	for i, right := range r.rights {
		all[i] = "grant " + right + " to " + r.name
	}
	return all
}

// grantRoles creates the roles if this login may, and gives each role that exists
// its rights. Every migration does so: a role may be younger than the schema.
func (p *postgresStore) grantRoles(ctx context.Context) error {
	err := p.inTx(ctx, func(tx pgx.Tx) error {
		// Two sessions that grant on the same function at once fail.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, migrationLock); err != nil {
			return err
		}
		for _, r := range roles {
			exists, err := r.exists(ctx, tx)
			if err == nil && !exists {
				exists, err = r.createIn(ctx, tx)
			}
			if err != nil {
				return err
			}
			for _, grant := range r.grants() {
				if !exists {
					break
				}
				if _, err := tx.Exec(ctx, grant); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return p.migrationFailed(ctx, err)
}

func (r role) exists(ctx context.Context, tx pgx.Tx) (exists bool, err error) {
	err = tx.QueryRow(ctx, `select exists (select from pg_roles where rolname = $1)`, r.name).Scan(&exists)
	return exists, err
}

// createIn returns false if this login may not create roles.
func (r role) createIn(ctx context.Context, tx pgx.Tx) (created bool, err error) {
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
		_, err := tx.Exec(ctx, r.create())
		return err
	})
	switch code := stateOf(err); {
	case code == "42501": // insufficient_privilege
		return false, nil
	case code == "42710", code == "23505": // another database of the cluster was faster
		return true, nil
	}
	return err == nil, err
}

// MissingRoles implements engine.
func (p *postgresStore) MissingRoles(ctx context.Context) (sql string, err error) {
	var text strings.Builder
	err = p.inTx(ctx, func(tx pgx.Tx) error {
		for _, r := range roles {
			exists, err := r.exists(ctx, tx)
			if err != nil {
				return err
			}
			if exists {
				continue
			}
			for _, statement := range append([]string{r.create()}, r.grants()...) {
				text.WriteString(statement + ";\n")
			}
		}
		return nil
	})
	return text.String(), p.fail(err)
}

// migrationFailed is fail for statements of a migration, which need other rights
// than those of the roles. It names the right that this login lacks.
func (p *postgresStore) migrationFailed(ctx context.Context, err error) error {
	if stateOf(err) != "42501" {
		return p.fail(err)
	}
	var login, database, owner string
	var may, member bool
	if p.writes.QueryRow(ctx, `select quote_ident(current_user), quote_ident(current_database()), has_database_privilege(current_database(), 'create'),
		coalesce((select quote_ident(n.nspowner::regrole::text) from pg_namespace n where n.nspname = 'authz'), ''),
		coalesce((select pg_has_role(n.nspowner, 'usage') from pg_namespace n where n.nspname = 'authz'), true)`).Scan(&login, &database, &may, &owner, &member) != nil {
		return p.fail(err)
	}
	switch {
	case owner == "" && !may:
		err = fmt.Errorf("the login %s may not create a schema; run `grant create on database %s to %s;` as the owner of the database: %w", login, database, login, err)
	case !member:
		err = fmt.Errorf("the schema authz belongs to %s, and %s is not a member of that role; migrate as %s: %w", owner, login, owner, err)
	default:
		err = fmt.Errorf("the login %s lacks a right, or does not own what it has to change: %w", login, err)
	}
	return fmt.Errorf("%w: postgres %s: %w", ErrForbidden, p.where, err)
}

// stateOf returns the SQLSTATE of err; empty: it is not an error of the server.
func stateOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
