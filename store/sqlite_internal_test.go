package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"jwtbouncer/authz"
)

func openInternal(t *testing.T) (*Store, *sqliteStore, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.db")
	st, err := Open(t.Context(), "sqlite://"+path, Options{LookupTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	if err := st.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, ok := st.engine.(*sqliteStore)
	if !ok {
		t.Fatalf("%T", st.engine)
	}
	return st, s, path
}

// Reopened connections are to the same file, reopening is not tried all the
// time, and a file put in its place is noticed as before.
func TestSQLiteReopens(t *testing.T) {
	t.Parallel()
	st, s, path := openInternal(t)
	revoke := func(value string) error {
		_, err := st.Append(t.Context(), []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: value, Actor: "test"}})
		return err
	}
	if err := revoke("old"); err != nil {
		t.Fatal(err)
	}
	_, readOnly := s.file.read.ExecContext(t.Context(), "update meta set seq = seq")
	if !s.file.reopen(readOnly) {
		t.Fatalf("not reopened: %v", readOnly)
	}
	if n := s.file.open(); n != 0 {
		t.Errorf("%d connections are still open", n)
	}
	if s.file.reopen(readOnly) {
		t.Error("reopened again at once")
	}
	if err := revoke("new"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := revoke("lost"); !errors.Is(err, ErrUnproven) || s.file.reopen(readOnly) && st.Ready() == nil {
		t.Errorf("%v", err)
	}
	if err := errors.Join(os.Rename(path+".old", path), st.Ping(t.Context())); !errors.Is(err, ErrUnproven) || st.Ready() == nil {
		t.Errorf("without a restart: %v", err)
	}
}

// However long lists take, lookups do not wait for them.
func TestSQLiteListsKeepNoLookupWaiting(t *testing.T) {
	t.Parallel()
	st, s, _ := openInternal(t)
	file := s.file
	take := func(db *sql.DB) *sql.Conn {
		t.Helper()
		c, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	list := take(file.list) // a list is under way
	key := authz.RevocationKey(authz.KindJTI, "i", "x")
	if v, err := st.Lookup(t.Context(), &authz.Query{Keys: []authz.Key{key}, TokenKey: key}); v != authz.NotRevoked || err != nil {
		t.Errorf("lookup: %v %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := st.List(ctx, authz.Filter{}); err == nil {
		t.Error("a second list did not wait")
	}
	if err := list.Close(); err != nil {
		t.Error(err)
	}
}
