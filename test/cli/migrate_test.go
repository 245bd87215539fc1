package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// migrate has an exit code of its own for a complete schema without roles, and prints
// the SQL that an administrator runs.
func TestMigrateWithoutTheRoles(t *testing.T) {
	t.Parallel()
	harness.NeedsProcess(t)
	pg := harness.OwnPostgres(t)
	pg.Exec(t, "create role some_owner login nocreaterole")
	pg.Exec(t, "grant create on database "+pg.Database+" to some_owner")
	config := func(login string) string {
		url := strings.Replace(pg.URL, "postgres@", login+"@", 1)
		return harness.WriteFile(t, t.TempDir(), "c.yaml", "issuers: [{issuer: https://issuer.example, audiences: [api]}]\nstore: "+url+"\n")
	}
	owner := config("some_owner")
	require.True(t, filepath.IsAbs(owner))
	migrated := harness.Run(t, "", "--config", owner, "migrate")
	require.Equal(t, 4, migrated.Code, migrated)
	report, sql, found := strings.Cut(migrated.Stdout, "as an administrator, run:\n\n")
	require.True(t, found, migrated)
	assert.Contains(t, report, "postgres: schema is at version 1\n")
	sql, _, found = strings.Cut(sql, "\nThen grant")
	require.True(t, found, migrated)

	pg.Exec(t, sql)
	pg.Exec(t, "create role some_login login in role authz_sidecar, authz_revoker")
	again := harness.Run(t, "", "--config", owner, "migrate", "-o", "json")
	assert.Equal(t, 0, again.Code, again)
	assert.NotContains(t, again.Stdout, "missing_roles_sql")
	list := harness.Run(t, "", "--config", config("some_login"), "revocations", "list")
	assert.Equal(t, 0, list.Code, list)
}
