package store_test

import (
	"errors"
	"os"
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

// The program of today on the schema of the first version, and the statements
// of the first version's program on today's schema.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	db := stdlib.OpenDB(*pg.Connect(t).Config())
	defer db.Close()
	pg.Exec(t, "create schema authz")
	versions, err := database.NewStore(database.DialectPostgres, "authz.migrations")
	if err != nil {
		t.Fatal(err)
	}
	m, err := goose.NewProvider(goose.DialectCustom, db, os.DirFS("migrations/postgres"), goose.WithStore(versions), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	works := func(when string) {
		t.Helper()
		s := openOnly(t, pg.URL, store.Options{})
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		revokedUntil(t, s, when, time.Now().Add(time.Hour))
		enforced(t, s, when, when)
		if v, err := s.Lookup(t.Context(), queryFor(jti("never revoked"))); v != authz.NotRevoked || err != nil {
			t.Errorf("%s: %v %v", when, v, err)
		}
		rows := 0
		snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ })
		if err != nil || rows == 0 || !snap.Proves {
			t.Errorf("%s: %d rows, %+v %v", when, rows, snap, err)
		}
		if _, err := s.GC(t.Context()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		long := queryFor(jti("never revoked"))
		long.IssuedAt, long.Expires = time.Now().Unix(), time.Now().Add(3*day).Unix()
		if v, err := s.Lookup(t.Context(), long); v != authz.Unknown || !errors.Is(err, store.ErrUnproven) {
			t.Errorf("%s, a token that outlives its revocations: %v %v", when, v, err)
		}
	}
	works("the first schema")
	s := openOnly(t, pg.URL, store.Options{})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	works("migrated")
	var echo string
	var recovering, fresh bool
	var level int64
	key := jti("the first schema").Key()
	c := pg.Connect(t)
	err = c.QueryRow(t.Context(), `select echo, recovering, fresh, level from authz.lookup($1::bytea[], $2)`,
		pgx.QueryExecModeSimpleProtocol, [][]byte{key[:]}, "nonce").
		Scan(&echo, &recovering, &fresh, &level)
	if err != nil || echo != "nonce" || recovering || !fresh || level != authz.Always {
		t.Errorf("a program of the first version: %q %t %t %d %v", echo, recovering, fresh, level, err)
	}
	sql(t, c, `select authz.gc(make_interval(secs => 3600))`)
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
