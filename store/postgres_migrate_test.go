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
