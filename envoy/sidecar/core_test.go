package sidecar

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/store"
)

// coreOf returns a core, and the context of what it is to do, which ends with
// the test.
func coreOf(t *testing.T, s Settings) (*core, context.Context) {
	t.Helper()
	c, err := newCore(s, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(func() {
		end()
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c, ctx
}

// Whoever is told by a sidecar that a token is revoked may ask that sidecar
// next: its own replica knows before the receipt is out.
func TestRevocationHereIsEnforcedAtOnce(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = []authz.IssuerConfig{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	s.Store = "sqlite://" + filepath.Join(t.TempDir(), "r.db")
	c, ctx := coreOf(t, s)
	c.start(ctx)
	for c.revocationsReady() != nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // a real store: nothing else tells
	}
	for i, rv := range []authz.Revocation{
		{Kind: authz.KindJTI, Issuer: "https://issuer.example", Value: "t"},
		{Kind: authz.KindSub, Issuer: "https://issuer.example", Value: "s"},
	} {
		if c.replica.Revokes([]authz.Key{rv.Key()}, 1) {
			t.Fatalf("%d: revoked before", i)
		}
		if _, err := c.revoker.Revoke(ctx, []authz.Revocation{rv}, authz.WaitCommitted); err != nil {
			t.Fatal(err)
		}
		if !c.replica.Revokes([]authz.Key{rv.Key()}, 1) {
			t.Errorf("%d: the receipt is out and the replica does not know", i)
		}
	}
}

// An embedded store has nobody else who would migrate it.
func TestOldFileIsMigrated(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "r.db")
	s := Defaults()
	s.Issuers = []authz.IssuerConfig{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	s.Store = "sqlite://" + file
	first, err := openStore(s, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Migrate(t.Context()), first.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `update meta set schema_version = 1; delete from goose_db_version where version_id = 2;
		drop trigger revocation_types; drop trigger revocation_type`); err != nil {
		t.Fatal(err)
	}
	c, ctx := coreOf(t, s)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c.keepStore(ctx) // a follower's store is asked until it is well
	var version int
	if err := db.QueryRowContext(t.Context(), "select schema_version from meta").Scan(&version); err != nil || version != store.SchemaVersion {
		t.Errorf("version %d: %v", version, err)
	}
}

// A loop that fails is begun again, and a panic in it is a failure.
func TestLoopsGoOn(t *testing.T) {
	t.Parallel()
	c := &core{log: slog.New(slog.DiscardHandler)}
	ctx, end := context.WithCancel(t.Context())
	runs := 0
	c.loop(ctx, "test", func(context.Context) error {
		if runs++; runs == 1 {
			panic("what a server sent")
		}
		end()
		return ctx.Err()
	})
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
}
