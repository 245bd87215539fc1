package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func openInternal(t *testing.T) (*Store, *sqliteStore, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.db")
	st, err := Open(t.Context(), "sqlite://"+path, Options{LookupTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = st.Close() })
	require.NoError(t, st.Migrate(t.Context()))
	s, ok := st.engine.(*sqliteStore)
	require.Truef(t, ok, "%T", st.engine)
	return st, s, path
}

// Reopened connections are to the same file, reopening is not tried all the
// time, and a file put in its place is noticed as before.
func TestSQLiteReopens(t *testing.T) {
	t.Parallel()
	st, s, path := openInternal(t)
	revoke := func(value string) error {
		_, err := st.Append(t.Context(), []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: value, RevokedBy: "test"}})
		return err
	}
	require.NoError(t, revoke("old"))
	_, readOnly := s.file.read.ExecContext(t.Context(), "update meta set seq = seq")
	require.Truef(t, s.file.reopen(readOnly), "not reopened: %v", readOnly)
	n := s.file.open()
	assert.Zerof(t, n, "%d connections are still open", n)
	assert.False(t, s.file.reopen(readOnly), "reopened again at once")
	require.NoError(t, revoke("new"))
	require.NoError(t, errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600)))
	err := revoke("lost")
	assert.ErrorIs(t, err, ErrUnproven)
	assert.Falsef(t, s.file.reopen(readOnly) && st.Ready() == nil, "%v", err)
	require.NoError(t, os.Rename(path+".old", path))
	_, err = st.Limits(t.Context())
	assert.ErrorIs(t, err, ErrUnproven, "without a restart")
	assert.Errorf(t, st.Ready(), "without a restart: %v", err)
}

// However long lists take, lookups do not wait for them.
func TestSQLiteListsKeepNoLookupWaiting(t *testing.T) {
	t.Parallel()
	st, s, _ := openInternal(t)
	file := s.file
	take := func(db *sql.DB) *sql.Conn {
		t.Helper()
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		return c
	}
	list := take(file.list) // a list is under way
	key := authz.RevocationKey(authz.KindJTI, "i", "x")
	v, err := st.Lookup(t.Context(), &authz.Query{Keys: []authz.Key{key}, TokenKey: key})
	assert.Equalf(t, authz.NotRevoked, v, "lookup: %v", err)
	assert.NoErrorf(t, err, "lookup: %v %v", v, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = st.List(ctx, authz.Filter{})
	assert.Error(t, err, "a second list did not wait")
	assert.NoError(t, list.Close())
}

// SQLite reads the index on value, too.
func TestSQLiteListByValueUsesTheIndex(t *testing.T) {
	_, s, _ := openInternal(t)
	plan := func(f authz.Filter) (plan string) {
		_, after, err := pageOf(f)
		require.NoError(t, err)
		query, args := sqlitePage(f, after, 0, 100)
		rows, err := s.file.list.QueryContext(t.Context(), "explain query plan "+query, args...)
		require.NoError(t, err)
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			plan += detail + "\n"
		}
		require.NoError(t, rows.Err())
		return plan
	}
	for _, f := range []authz.Filter{{Value: "a"}, {Value: "a", Issuer: "i"}, {Value: "a", Kind: authz.KindSub, Issuer: "i", IncludeExpired: true}} {
		plan := plan(f)
		assert.Containsf(t, plan, "SEARCH revocations USING INDEX revocations_value (value=?", "%+v", f)
		assert.NotContainsf(t, plan, "TEMP B-TREE", "%+v: it sorts", f)
	}
	// A page of a prefix begins in the index where the last one ended.
	for _, f := range []authz.Filter{
		{ValuePrefix: "a", Issuer: "i"}, {ValuePrefix: "a", After: "7 abc"}, {ValuePrefix: "a", After: "7 abc", Kind: authz.KindJTI, IncludeExpired: true},
	} {
		plan := plan(f)
		assert.Containsf(t, plan, "SEARCH revocations USING INDEX revocations_value (value>? AND value<?)", "%+v", f)
		assert.NotContainsf(t, plan, "TEMP B-TREE", "%+v: it sorts", f)
	}
}
