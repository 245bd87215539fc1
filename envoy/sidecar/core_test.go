package sidecar

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/cache"
	"jwtbouncer/store"
)

// coreOf returns a core and a context for its background work, which ends with the
// test.
func coreOf(t *testing.T, s Settings) (*core, context.Context) {
	t.Helper()
	c, err := newCore(s, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(func() {
		end()
		assert.NoError(t, c.close())
	})
	return c, ctx
}

// A caller may send a revoked token to the sidecar that has just revoked it: the
// sidecar's own replica has the revocation before the receipt is returned.
func TestRevocationHereIsEnforcedAtOnce(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = []issuer.Config{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
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
		require.Falsef(t, c.replica.Revokes([]authz.Key{rv.Key()}, 1), "%d: revoked before", i)
		_, err := c.revoker.Revoke(ctx, []authz.Revocation{rv})
		require.NoError(t, err)
		assert.Truef(t, c.replica.Revokes([]authz.Key{rv.Key()}, 1), "%d: the receipt was returned before the replica had the revocation", i)
	}
}

// After a rotation of the password file, every new connection uses the new
// password: those of lookups, of the feed and of migrations.
func TestStorePasswordRotates(t *testing.T) {
	t.Parallel()
	addr, shown := askForPassword(t)
	file := filepath.Join(t.TempDir(), "password")
	s := Defaults()
	s.Store, s.StorePasswordFile = "postgres://u@"+addr+"/db?sslmode=disable", file
	write := func(password string) {
		require.NoError(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	}
	write("first")
	st, err := OpenStore(s, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	defer st.Close()
	ways := map[string]func() error{
		"pool":      func() error { _, err := st.Limits(t.Context()); return err },
		"migration": func() error { return st.Migrate(t.Context()) },
		"feed": func() error {
			for {
				_, err := st.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
				if err == nil || !strings.Contains(err.Error(), "not tried again yet") {
					return err
				}
				time.Sleep(time.Millisecond) // the feed waits between dials, by the real clock
			}
		},
	}
	for way, connect := range ways {
		for _, password := range []string{"second of " + way, "third of " + way} {
			write(password)
			err := connect()
			require.Errorf(t, err, "%s", way)
			require.NotContainsf(t, err.Error(), password, "%s: %v", way, err)
			found := false
			for len(shown) > 0 { // a pool opens idle connections of its own, with the password of their moment
				found = <-shown == password || found
			}
			assert.Truef(t, found, "%s: another password than the file's", way)
		}
	}
	require.NoError(t, os.Remove(file))
	for way, connect := range ways {
		err := connect()
		if assert.Errorf(t, err, "%s without the file", way) {
			assert.Containsf(t, err.Error(), "store_password_file: open "+file, "%s without the file: %v", way, err)
		}
	}
	_, err = OpenStore(s, slog.New(slog.DiscardHandler), nil)
	if assert.Error(t, err, "a start without the file") {
		assert.Containsf(t, err.Error(), "store_password_file", "a start without the file: %v", err)
	}
}

// askForPassword is a Postgres server that asks for a password, reads it and closes
// the connection.
func askForPassword(t *testing.T) (addr string, shown <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	passwords := make(chan string, 1000)
	message := func(c net.Conn) []byte {
		size := make([]byte, 4)
		if _, err := io.ReadFull(c, size); err != nil {
			return nil
		}
		text := make([]byte, binary.BigEndian.Uint32(size)-4)
		_, _ = io.ReadFull(c, text)
		return text
	}
	hear := func(c net.Conn) {
		defer c.Close()
		message(c)                                          // StartupMessage
		_, _ = c.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}) // AuthenticationCleartextPassword
		kind := make([]byte, 1)
		if _, err := io.ReadFull(c, kind); err == nil && kind[0] == 'p' {
			passwords <- strings.TrimRight(string(message(c)), "\x00")
		}
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			hear(c)
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return l.Addr().String(), passwords
}

// The sidecar migrates an embedded store, because nothing else does.
func TestOldFileIsMigrated(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "r.db")
	s := Defaults()
	s.Issuers = []issuer.Config{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	s.Store = "sqlite://" + file
	db, err := sql.Open("sqlite", "file:"+file)
	require.NoError(t, err)
	defer db.Close()
	m, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("../../store/migrations/sqlite"), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = m.UpTo(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(file, 0o600))
	c, ctx := coreOf(t, s)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c.watchStore(ctx) // with a follower it returns when the store is usable
	var version int
	err = db.QueryRowContext(t.Context(), "select schema_version from meta").Scan(&version)
	if assert.NoErrorf(t, err, "version %d", version) {
		assert.Equalf(t, store.SchemaVersion, version, "version: %v", err)
	}
}

// The empty store of a new installation causes no warning.
func TestFirstStartIsQuiet(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = []issuer.Config{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	for range 5 { // it is a race
		s.Store = "sqlite://" + filepath.Join(t.TempDir(), "r.db")
		c, ctx := coreOf(t, s)
		syncs := make(chan string, 1000)
		c.follower = cache.NewFollower(c.store, c.replica, cache.FollowerOptions{Config: s.Revocation, Logger: slog.New(slog.NewTextHandler(logged{syncs}, nil))})
		c.start(ctx)
		for c.revocationsReady() != nil && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		select {
		case line := <-syncs:
			t.Fatal(line)
		default:
		}
	}
}

func TestReloadTellsMetrics(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = []issuer.Config{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	s.Store = "sqlite://" + filepath.Join(t.TempDir(), "r.db")
	c, _ := coreOf(t, s)
	const unchanged = 1 // timestamp before each reload
	for i, load := range []struct {
		routes []policy.RouteConfig
		err    error
		ok     bool
	}{
		{err: errors.New("invalid"), ok: false},
		{ok: true},
		{routes: []policy.RouteConfig{{Allow: []string{"("}}}, ok: false},
		{ok: true},
	} {
		v := testutil.ToFloat64(c.reloads.successful)
		assert.Falsef(t, i == 0 && v != 1, "after the start: %v", v)
		c.reloads.at.Set(unchanged)
		c.reload(s, func() (Settings, error) {
			next := s
			next.Routes = load.routes
			return next, load.err
		}, slog.New(slog.DiscardHandler))
		ok, at := testutil.ToFloat64(c.reloads.successful) == 1, testutil.ToFloat64(c.reloads.at) != unchanged
		assert.Equalf(t, load.ok, ok, "%d: successful, timestamp set %t", i, at)
		assert.Equalf(t, load.ok, at, "%d: successful %t, timestamp set %t", i, ok, at)
	}
}

// A panic while settings are read or compiled does not end the process: the running
// settings stay in force, and the next reload can succeed.
func TestReloadSurvivesPanics(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = []issuer.Config{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	s.Store = "sqlite://" + filepath.Join(t.TempDir(), "r.db")
	c, _ := coreOf(t, s)
	before := c.routes.Load()
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	c.reload(s, func() (Settings, error) { panic("what the file said") }, log)
	assert.Same(t, before, c.routes.Load())
	assert.Zero(t, testutil.ToFloat64(c.reloads.successful))
	assert.Contains(t, text.String(), "configuration not reloaded")
	assert.Contains(t, text.String(), "panic: string")
	assert.NotContains(t, text.String(), "what the file said", "the value may contain a secret")
	c.reload(s, func() (Settings, error) { return s, nil }, log)
	assert.NotSame(t, before, c.routes.Load())
	assert.EqualValues(t, 1, testutil.ToFloat64(c.reloads.successful))
}

// A loop that returns early or panics is restarted.
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
	assert.Equal(t, 2, runs, "runs")
}
