package store_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// A superuser should not own functions that run with their owner's rights.
// Migrate says so each time, and works as a role that owns only the schema.
func TestMigrateWarnsOfASuperuser(t *testing.T) {
	t.Parallel()
	migrate := func(url string) (warnings []string) {
		open(t, url, store.Options{Logger: slog.New(handler(func(r slog.Record) {
			if r.Level >= slog.LevelWarn {
				r.Attrs(func(a slog.Attr) bool { warnings = append(warnings, r.Message+" "+a.String()); return true })
			}
		}))})
		return warnings
	}
	super, pg := harness.Postgres(t), harness.Postgres(t)
	for range 2 {
		warned := strings.Join(migrate(super.URL), "\n")
		assert.Contains(t, warned, "docs/store.md")
		assert.Contains(t, warned, "owner=postgres")
	}
	role, _ := loginAs(t, pg, "owner")
	pg.Exec(t, "grant create on database "+pg.Database+" to "+role)
	url := strings.Replace(pg.URL, "postgres@", role+"@", 1)
	assert.Empty(t, migrate(url))
	_, err := openOnly(t, url, store.Options{}).Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
}

// An owner who may not create roles migrates before an administrator has created
// them. Each migration gives the roles that exist their rights.
func TestMigrateGrantsToRolesCreatedLater(t *testing.T) {
	t.Parallel()
	for name, repair := range map[string]func(t *testing.T, pg *harness.PG, missing string, migrate func()){
		"the administrator runs what migrate printed": func(t *testing.T, pg *harness.PG, missing string, _ func()) {
			t.Helper()
			pg.Exec(t, missing)
		},
		"the administrator creates the roles, the owner migrates again": func(t *testing.T, pg *harness.PG, _ string, migrate func()) {
			t.Helper()
			pg.Exec(t, "create role authz_sidecar nologin")
			pg.Exec(t, "create role authz_revoker nologin")
			migrate()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pg := harness.OwnPostgres(t) // roles belong to the whole server
			owner := as(pg, "some_owner")
			pg.Exec(t, "create role some_owner login nocreaterole")
			pg.Exec(t, "grant create on database "+pg.Database+" to some_owner")
			s := open(t, owner, store.Options{})
			pg.Exec(t, "revoke create on database "+pg.Database+" from some_owner") // only the first migration needs it
			missing, err := s.MissingRoles(t.Context())
			require.NoError(t, err)
			assert.Contains(t, missing, "create role authz_sidecar nologin;\ngrant usage on schema authz to authz_sidecar;\n")
			assert.Contains(t, missing, "create role authz_revoker nologin;\n")

			repair(t, pg, missing, func() { require.NoError(t, s.Migrate(t.Context())) })
			missing, err = s.MissingRoles(t.Context())
			require.NoError(t, err)
			assert.Empty(t, missing)
			pg.Exec(t, "create role some_login login in role authz_sidecar, authz_revoker")
			login := openOnly(t, as(pg, "some_login"), store.Options{})
			require.NoError(t, usable(t, login))
			_, err = login.Append(t.Context(), []authz.Revocation{jti("a")})
			require.NoError(t, err)
			page, _, err := login.List(t.Context(), authz.Filter{})
			require.NoError(t, err)
			assert.Len(t, page, 1)
		})
	}
}

// A right that the migrating login lacks is named, not a role of sidecars.
func TestMigrateNamesTheMissingRight(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	nobody, _ := loginAs(t, pg, "nobody")
	s := openOnly(t, as(pg, nobody), store.Options{})
	err := s.Migrate(t.Context())
	require.ErrorIs(t, err, store.ErrForbidden)
	assert.ErrorContains(t, err, "`grant create on database "+pg.Database+" to "+nobody+";`")
	assert.NotContains(t, err.Error(), "authz_sidecar")

	open(t, pg.URL, store.Options{})
	err = s.Migrate(t.Context())
	require.ErrorIs(t, err, store.ErrForbidden)
	assert.ErrorContains(t, err, "the schema authz belongs to postgres, and "+nobody+" is not a member of that role")
	assert.NotContains(t, err.Error(), "authz_sidecar")

	owner, _ := loginAs(t, pg, "owner")
	pg.Exec(t, "create table revoked_tokens (jti text primary key)")
	for _, text := range []string{"alter schema authz owner to " + owner, "grant usage on schema authz to " + nobody} {
		pg.Exec(t, text)
	}
	bridge := store.BridgeOptions{Issuer: "https://issuer.example"}
	_, err = s.InstallBridge(t.Context(), bridge)
	assert.ErrorContains(t, err, "the schema authz belongs to "+owner)

	other := harness.Postgres(t)
	second, _ := loginAs(t, other, "second")
	other.Exec(t, "grant create on database "+other.Database+" to "+second)
	own := open(t, as(other, second), store.Options{})
	_, err = own.InstallBridge(t.Context(), bridge)
	require.ErrorIs(t, err, authz.ErrInvalid)
	assert.ErrorContains(t, err, "revoked_tokens does not exist")
	other.Exec(t, "create table revoked_tokens (jti text primary key)")
	_, err = own.InstallBridge(t.Context(), bridge)
	require.ErrorIs(t, err, store.ErrForbidden)
	assert.ErrorContains(t, err, "`grant select, trigger on revoked_tokens to "+second+";`")
	other.Exec(t, "grant select, trigger on revoked_tokens to "+second)
	_, err = own.InstallBridge(t.Context(), bridge)
	assert.NoError(t, err)
}

// as returns the URL with which a role without a password logs in.
func as(pg *harness.PG, role string) string { return strings.Replace(pg.URL, "postgres@", role+"@", 1) }
