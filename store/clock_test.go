package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

const day = 24 * time.Hour

// wall is the machine's clock but for the wall clock's step.
type wall struct {
	authz.SystemClock
	step *harness.Clock
}

func (w wall) Now() time.Time { return w.step.Now() }

// revokedUntil stores a revocation that ends at a time.
func revokedUntil(t *testing.T, s *store.Store, value string, until time.Time) {
	t.Helper()
	r := jti(value)
	r.ExpiresAt = until
	if _, err := s.Append(t.Context(), []authz.Revocation{r}); err != nil {
		t.Fatal(err)
	}
}

func enforced(t *testing.T, s *store.Store, value, when string) {
	t.Helper()
	if v, err := s.Lookup(t.Context(), queryFor(jti(value))); v != authz.Revoked || err != nil {
		t.Errorf("%s: %v %v, want revoked", when, v, err)
	}
}

// A database whose clock is set forward, and later corrected, neither hides nor
// deletes what is revoked; nor does the sidecar's own.
func TestClockForward(t *testing.T) {
	t.Parallel()
	here, there := harness.NewClock(t), harness.NewClock(t)
	for engine, url := range map[string]string{"postgres": harness.OwnPostgresAt(t, there).URL, "sqlite": sqliteURL(t)} {
		s := open(t, url, store.Options{Clock: wall{step: here}})
		revokedUntil(t, s, engine, time.Now().Add(time.Hour))
		for _, c := range []*harness.Clock{here, there} {
			c.Step(2 * day)
			if c == there {
				enforced(t, s, engine, engine+", its clock ahead")
			}
			if n, err := s.GC(t.Context()); n != 0 || err != nil {
				t.Errorf("%s: %d revocations deleted while a clock was ahead: %v", engine, n, err)
			}
			c.Step(0)
			enforced(t, s, engine, engine+", after it was corrected")
		}
		here.Step(2 * day)
		there.Step(2 * day)
		if n, err := s.GC(t.Context()); n != 0 || err != nil {
			t.Errorf("%s: %d revocations deleted while both clocks were ahead: %v", engine, n, err)
		}
		here.Step(0)
		there.Step(0)
		enforced(t, s, engine, engine+", after both were corrected")
	}
}

// What is revoked while the database's clock is behind outlasts its correction.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	there := harness.NewClock(t)
	s := open(t, harness.OwnPostgresAt(t, there).URL, store.Options{MaxTokenTTL: day})
	there.Step(-2 * day)
	sid := authz.Revocation{Kind: authz.KindSID, Issuer: issuer, Value: "s"}
	stored, err := s.Append(t.Context(), []authz.Revocation{jti("a"), sid, {Kind: authz.KindSub, Issuer: issuer, Value: "u"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range stored {
		if left := time.Until(r.ExpiresAt); left < day-time.Minute {
			t.Errorf("%s: ends in %s, want %s", r.Kind, left, day)
		}
	}
	there.Step(0)
	enforced(t, s, "a", "after the correction")
	if n, err := s.GC(t.Context()); n != 0 || err != nil {
		t.Errorf("%d deleted: %v", n, err)
	}
}

// The program of today on the schemas of all versions, and the statements of
// earlier programs on today's schema.
func TestUpgrade(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		m := migrations(t, url)
		works := func(version int) {
			t.Helper()
			when := fmt.Sprintf("schema %d", version)
			s := openOnly(t, url, store.Options{})
			if l, err := s.Limits(t.Context()); err != nil || l.SchemaVersion != version || l.MaxStaleness != 30*time.Second || l.MaxTokenTTL != day || (l.Identity == "") != (version < 3) {
				t.Errorf("%s: %+v %v", when, l, err)
			}
			if d, err := s.FleetStaleness(t.Context()); err != nil || d != 30*time.Second {
				t.Errorf("%s: %s %v", when, d, err)
			}
			revokedUntil(t, s, when, time.Now().Add(time.Hour))
			enforced(t, s, when, when)
			if v, err := s.Lookup(t.Context(), queryFor(jti("never revoked"))); v != authz.NotRevoked || err != nil {
				t.Errorf("%s: %v %v", when, v, err)
			}
			rows := 0
			snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ })
			if err != nil || rows == 0 || !snap.Proves || snap.MaxTokenTTL != day {
				t.Errorf("%s: %d rows, %+v %v", when, rows, snap, err)
			}
			if page, _, err := s.List(t.Context(), authz.Filter{}); err != nil || len(page) != version {
				t.Errorf("%s: %d %v", when, len(page), err)
			}
			if _, err := s.GC(t.Context()); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			if err := s.BumpEpoch(t.Context()); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			long := queryFor(jti("never revoked"))
			long.IssuedAt, long.Expires = time.Now().Unix(), time.Now().Add(3*day).Unix()
			if v, err := s.Lookup(t.Context(), long); v != authz.Unknown || !errors.Is(err, store.ErrUnproven) {
				t.Errorf("%s, a token that outlives its revocations: %v %v", when, v, err)
			}
		}
		for version := 1; version < store.SchemaVersion; version++ {
			if _, err := m.UpTo(t.Context(), int64(version)); err != nil {
				t.Fatal(err)
			}
			works(version)
		}
		open(t, url, store.Options{}) // migrates
		works(store.SchemaVersion)
		if strings.HasPrefix(url, "postgres") {
			c := connectTo(t, url)
			defer c.Close(context.Background())
			earlierPrograms(t, c)
		} else {
			execute(t, url, `update meta set max_token_ttl = 172800000000 where max_token_ttl < 172800000000; update meta set epoch = epoch + 1`)
		}
		if from, _ := raised(t, openOnly(t, url, store.Options{})); from != day {
			t.Errorf("an earlier program raised max_token_ttl from a day; known is %s", from)
		}
	})
}

// The schema is brought up to date beside sidecars of the version before, and
// while a transaction that has stored a revocation stays open: neither waits.
func TestUpgradeBesideAnOpenTransaction(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	if _, err := migrations(t, pg.URL).UpTo(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	app := pg.Connect(t)
	sql(t, app, "begin")
	insert(t, app, "slow")
	s := openOnly(t, pg.URL, store.Options{})
	migrated := make(chan error, 1)
	go func() { migrated <- openOnly(t, pg.URL, store.Options{}).Migrate(t.Context()) }()
	for {
		select {
		case err := <-migrated:
			if err != nil {
				t.Error(err)
			}
			if l, err := s.Limits(t.Context()); err != nil || l.SchemaVersion != store.SchemaVersion {
				t.Error(l, err)
			}
			sql(t, app, "commit")
			enforced(t, s, "slow", "in the end")
			return
		case <-time.After(10 * time.Millisecond):
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			if _, err := s.Lookup(ctx, queryFor(jti("good"))); err != nil {
				t.Errorf("beside the migration: %v", err)
			}
			cancel()
		}
	}
}

// migrations are for a test that stops at an earlier version of the schema.
func migrations(t *testing.T, url string) *goose.Provider {
	t.Helper()
	var m *goose.Provider
	var err error
	if strings.HasPrefix(url, "postgres") {
		execute(t, url, "create schema authz")
		config, perr := pgx.ParseConfig(url)
		versions, verr := database.NewStore(database.DialectPostgres, "authz.migrations")
		if err := errors.Join(perr, verr); err != nil {
			t.Fatal(err)
		}
		db := stdlib.OpenDB(*config)
		t.Cleanup(func() { db.Close() })
		m, err = goose.NewProvider(goose.DialectCustom, db, os.DirFS("migrations/postgres"), goose.WithStore(versions), goose.WithDisableGlobalRegistry(true))
	} else {
		openOnly(t, url, store.Options{}) // makes the file
		db := openFile(t, strings.TrimPrefix(url, "sqlite://"))
		t.Cleanup(func() { db.Close() })
		m, err = goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations/sqlite"), goose.WithDisableGlobalRegistry(true))
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// earlierPrograms asks what they ask.
func earlierPrograms(t *testing.T, c *pgx.Conn) {
	t.Helper()
	key := jti("schema 1").Key()
	for _, nonce := range []string{"nonce", fmt.Sprint("nonce ", time.Now().Unix())} {
		var echo string
		var recovering, fresh bool
		var level int64
		err := c.QueryRow(t.Context(), `select echo, recovering, fresh, level from authz.lookup($1::bytea[], $2)`, pgx.QueryExecModeSimpleProtocol, [][]byte{key[:]}, nonce).
			Scan(&echo, &recovering, &fresh, &level)
		told, own := strings.CutPrefix(echo, nonce)
		var clock, ttl int64
		if strings.Contains(nonce, " ") { // version 2
			_, err2 := fmt.Sscanf(told, " %d %d\n", &clock, &ttl)
			err = errors.Join(err, err2)
			own = own && ttl == 86400 && len(strings.Fields(told)) == 2
		} else {
			own = own && told == ""
		}
		if err != nil || !own || recovering || !fresh || level != authz.Always {
			t.Errorf("%q: %q %t %t %d %v", nonce, echo, recovering, fresh, level, err)
		}
	}
	var snapshot []string
	if err := c.QueryRow(t.Context(), `select (c).snapshot from (select authz.changes(0, '{}', 'nonce') as c limit 1) s`).Scan(&snapshot); err != nil || len(snapshot) < 13 || snapshot[0] != "nonce" {
		t.Errorf("%q %v", snapshot, err)
	}
	var version, compatible int
	var staleness, ttl float64
	var recovering bool
	err := c.QueryRow(t.Context(), `select schema_version, schema_compatible, max_staleness, max_token_ttl, recovering from authz.about()`, pgx.QueryExecModeSimpleProtocol).
		Scan(&version, &compatible, &staleness, &ttl, &recovering)
	if err != nil || compatible != 1 || staleness != 30 || ttl != 86400 || recovering {
		t.Errorf("%d %d %f %f %t %v", version, compatible, staleness, ttl, recovering, err)
	}
	for _, text := range []string{
		`select authz.gc(make_interval(secs => 3600))`,
		`select key, id, not_before, expires_at, revoked_at, actor, reason from authz.revoke('{1}', '{i}', '{v}', '{null}', '{null}', '{a}', '{r}')`,
		`update authz.meta set max_token_ttl = make_interval(secs => 172800) where max_token_ttl < make_interval(secs => 172800)`,
		`update authz.meta set epoch = epoch + 1`,
	} {
		sql(t, c, text)
	}
}

// A sidecar whose clock is far behind takes tokens for good that have expired
// long ago, and whose revocations others may have deleted: it proves nothing.
func TestClockFarBehind(t *testing.T) {
	t.Parallel()
	here := harness.NewClock(t)
	s := open(t, harness.Postgres(t).URL, store.Options{Clock: wall{step: here}})
	revokedUntil(t, s, "a", time.Now().Add(time.Hour))
	for step, want := range map[time.Duration]authz.Verdict{
		-29 * time.Minute: authz.NotRevoked,
		-31 * time.Minute: authz.Unknown,
		-2 * day:          authz.Unknown,
		2 * day:           authz.NotRevoked,
	} {
		here.Step(step)
		v, err := s.Lookup(t.Context(), queryFor(jti("never revoked")))
		if v != want || errors.Is(err, store.ErrUnproven) != (want == authz.Unknown) {
			t.Errorf("stepped by %s: %v %v, want %v", step, v, err, want)
		}
		enforced(t, s, "a", step.String())
	}
}
