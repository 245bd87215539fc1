package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
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

// Connections that are made anew may find another log: SQLite removes it with
// the last connection of all. A file put beside that one is noticed, too.
func TestSQLiteLogAfterOpeningAgain(t *testing.T) {
	t.Parallel()
	st, s, path := openInternal(t)
	revoke := func(value string) {
		t.Helper()
		if _, err := st.Append(t.Context(), []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: value, Actor: "test"}}); err != nil {
			t.Fatal(err)
		}
	}
	revoke("old")
	file := s.place.now.Load()
	if _, err := file.write.ExecContext(t.Context(), "pragma wal_checkpoint(truncate)"); err != nil {
		t.Fatal(err)
	}
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(path + "-wal") // its inode is not used again
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_, readOnly := file.read.ExecContext(t.Context(), "update meta set seq = seq")
	if !s.place.renewed(file, readOnly) {
		t.Fatalf("not opened again: %v", readOnly)
	}
	if s.place.renewed(s.place.now.Load(), readOnly) {
		t.Error("opened again at once")
	}
	s.place.old.Wait()
	revoke("new")
	if err := errors.Join(os.WriteFile(path+".backup", backup, 0o600), os.Rename(path+".backup", path)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err = st.Ping(t.Context())
	}
	if !errors.Is(err, ErrUnproven) || !strings.Contains(err.Error(), "remove the -wal and -shm files") {
		t.Errorf("a file beside the log of another: %v", err)
	}
}

// However long lists take, lookups do not wait for them.
func TestSQLiteListsKeepNoLookupWaiting(t *testing.T) {
	t.Parallel()
	st, s, _ := openInternal(t)
	file := s.place.now.Load()
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
