package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// A writer that asks for less durability after it has written does not get it:
// what its commit has acknowledged, and others may have read, survives a crash.
func TestRevocationSurvivesACrash(t *testing.T) {
	t.Parallel()
	// With this delay, only a commit itself writes the log before the crash.
	pg := harness.OwnPostgres(t, "wal_writer_delay", "10s")
	open(t, pg.URL, store.Options{})
	pg.Exec(t, "create table unstamped (value text)")
	const insert = "insert into authz.revocations (kind, iss, value) values (1, 'i', "
	for _, w := range []struct {
		name      string
		writes    []string
		survivors string // a condition for what must be there after the crash
	}{
		{"set local", []string{"begin", insert + "'a')", "set local synchronous_commit = off", "commit"}, "value = 'a'"},
		{"set", []string{"begin", insert + "'b')", "set synchronous_commit = off", "commit"}, "value = 'b'"},
		{"extended", []string{"begin", "update authz.revocations set expires_at = now() + interval '100 days' where value = 'b'", "set local synchronous_commit = off", "commit"},
			"expires_at > now() + interval '99 days'"},
		{"savepoint", []string{"begin", "savepoint s", insert + "'c')", "release s", "set local synchronous_commit = off", "commit"},
			"value = 'c'"},
	} {
		c := pg.Connect(t)
		for _, text := range w.writes {
			sql(t, c, text)
		}
		sql(t, c, "set synchronous_commit = off")
		sql(t, c, "insert into unstamped values ('lost')")
		pg.Crash()
		pg.Start(t)
		var kept, unstamped int
		require.NoError(t, pg.Connect(t).QueryRow(t.Context(), "select (select count(*) from authz.revocations where "+w.survivors+"), (select count(*) from unstamped)").
			Scan(&kept, &unstamped))
		assert.Equalf(t, 1, kept, "%s: lost", w.name)
		assert.Zerof(t, unstamped, "%s: an asynchronous commit has survived, and the test shows nothing", w.name)
	}
}
