package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// atCommit runs body when a revocation commits.
func atCommit(t testing.TB, c *pgx.Conn, body string) {
	t.Helper()
	sql(t, c, `create function at_commit() returns trigger language plpgsql as $$ begin `+body+` return null; end $$`)
	sql(t, c, `create constraint trigger at_commit after insert on authz.revocations deferrable initially deferred for each row execute function at_commit()`)
}

// holdCommits makes every commit of a revocation wait until release is called.
func holdCommits(t testing.TB, c *pgx.Conn) (release func()) {
	t.Helper()
	sql(t, c, "select pg_advisory_lock(1)")
	atCommit(t, c, "perform pg_advisory_xact_lock_shared(1);")
	return func() { t.Helper(); sql(t, c, "select pg_advisory_unlock(1)") }
}

// commitHeld returns when a commit waits.
func commitHeld(t testing.TB, c *pgx.Conn, pg *harness.PG) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "the commit to begin", func(ctx context.Context) error {
		var n int
		err := c.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = $1 and wait_event = 'advisory'`, pg.Database).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("not yet")
		}
		return err
	})
}

func count(t testing.TB, c *pgx.Conn, value string) (n int) {
	t.Helper()
	require.NoError(t, c.QueryRow(t.Context(), `select count(*) from authz.revocations where value = $1`, value).Scan(&n))
	return n
}

// The connection is cut while the server commits, and stays cut.
func TestConnectionLostInCommit(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	s := open(t, pg.Via(proxy.Addr), store.Options{})
	c := pg.Connect(t)
	release := holdCommits(t, c)
	// a connection is there
	require.NoError(t, usable(t, s))
	result := make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), []authz.Revocation{jti("lost")})
		result <- err
	}()
	commitHeld(t, c, pg)
	proxy.Down()
	err := <-result
	require.ErrorIs(t, err, authz.ErrOutcomeUnknown)
	require.NotErrorIs(t, err, authz.ErrUnavailable)
	// It is committed in fact, which the caller could not know; repeating it is safe.
	release()
	harness.Eventually(t, 20*time.Second, "the commit", func(context.Context) error {
		if n := count(t, c, "lost"); n != 1 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	proxy.Heal()
	harness.Eventually(t, 20*time.Second, "the same request to succeed", func(ctx context.Context) error {
		_, err := s.Append(ctx, []authz.Revocation{jti("lost")})
		return err
	})
	assert.Equal(t, 1, count(t, c, "lost"), "rows")
}

// A connection is cut once: repeating the statement settles the outcome.
func TestConnectionLostInCommitIsSettled(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	s := open(t, pg.Via(proxy.Addr), store.Options{})
	c := pg.Connect(t)
	release := holdCommits(t, c)
	result := make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), []authz.Revocation{jti("once")})
		result <- err
	}()
	commitHeld(t, c, pg)
	proxy.Drop()
	release()
	require.NoError(t, <-result)
	assert.Equal(t, 1, count(t, c, "once"), "rows")
}

// The answer never comes: the caller's deadline ends the wait, without success.
func TestCommitAnswerSwallowed(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	s := open(t, pg.Via(proxy.Addr), store.Options{})
	require.NoError(t, usable(t, s))
	proxy.BlackHoleAnswers()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Append(ctx, []authz.Revocation{jti("swallowed")})
	require.ErrorIs(t, err, authz.ErrOutcomeUnknown)
}

// In the extended protocol the statement would be reported complete before the
// commit that refuses it.
func TestRefusedAtCommit(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	c := pg.Connect(t)
	atCommit(t, c, "raise exception 'no';")
	got, err := s.Append(t.Context(), []authz.Revocation{jti("refused")})
	require.ErrorIsf(t, err, authz.ErrUnavailable, "%v", got)
	require.NotErrorIsf(t, err, authz.ErrOutcomeUnknown, "%v", got)
	require.Nilf(t, got.Revocations, "%v, %v", got, err)
	assert.Zero(t, count(t, c, "refused"), "rows")
}

// The server reports success, and a warning, when the wait for its synchronous
// standby is cancelled.
func TestSynchronousStandbyGone(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	s := open(t, pg.URL, store.Options{})
	c := pg.Connect(t)
	sql(t, c, "alter system set synchronous_standby_names = 'nobody'")
	sql(t, c, "select pg_reload_conf()")
	result := make(chan error, 1)
	go func() {
		// The server's processes take in the setting one after the other: what
		// is committed before then does not wait.
		for i := range 10_000 {
			if _, err := s.Append(t.Context(), []authz.Revocation{jti(fmt.Sprintf("alone-%d", i))}); err != nil {
				result <- err
				return
			}
		}
		result <- nil
	}()
	harness.Eventually(t, 20*time.Second, "the wait for the standby", func(ctx context.Context) error {
		var n int
		err := c.QueryRow(ctx, `select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'`).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	assert.ErrorIs(t, <-result, authz.ErrOutcomeUnknown)
	sql(t, c, "set synchronous_commit = off") // ours need not wait
	sql(t, c, "alter system reset synchronous_standby_names")
	sql(t, c, "select pg_reload_conf()")
}

func TestWriteRefused(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{WriteTimeout: 20 * time.Second})
	c := pg.Connect(t)
	t.Run("locked", func(t *testing.T) {
		sql(t, c, "begin")
		sql(t, c, "lock table authz.revocations in access exclusive mode")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := s.Append(ctx, []authz.Revocation{jti("locked")})
		assert.ErrorIs(t, err, authz.ErrUnavailable)
		_, err = s.Append(t.Context(), []authz.Revocation{jti("locked")}) // ended by lock_timeout
		assert.ErrorIs(t, err, authz.ErrUnavailable)
		sql(t, c, "rollback")
		assert.Zero(t, count(t, c, "locked"), "rows")
	})
	t.Run("read-only", func(t *testing.T) {
		sql(t, c, "alter database "+pg.Database+" set default_transaction_read_only = on")
		s := openOnly(t, pg.URL, store.Options{})
		_, err := s.Append(t.Context(), []authz.Revocation{jti("read-only")})
		assert.ErrorIs(t, err, authz.ErrUnavailable)
		// Reading goes on.
		v, err := s.Lookup(t.Context(), queryFor(jti("a")))
		assert.Equalf(t, authz.NotRevoked, v, "%v", err)
		assert.NoErrorf(t, err, "%s", v)
		snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		if assert.NoErrorf(t, err, "%+v", snap) {
			assert.Truef(t, snap.Proves, "%+v, %v", snap, err)
		}
	})
}

// Rows from a plain SQL writer are stamped, filled and followed like any other.
func TestPlainSQL(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	c := pg.Connect(t)
	for i, text := range []string{"plain", "ünï ☃", "a:b", `q'"\`, strings.Repeat("x", 1024)} {
		r := authz.Revocation{Kind: authz.KindSID, Issuer: fmt.Sprintf("https://ïss/%d", i), Value: text}
		sql(t, c, `insert into authz.revocations (kind, iss, value, not_before, expires_at) values (3, $1, $2, 'infinity', 'infinity')`, r.Issuer, r.Value)
		f.sync(t)
		e, here := f.Entries[r.Key()]
		if assert.Truef(t, here, "%.20q: %+v, %t", text, e, here) {
			assert.Equalf(t, authz.Always, e.NotBefore, "%.20q: %+v, %t", text, e, here)
		}
		v, err := s.Lookup(t.Context(), queryFor(r))
		assert.Equalf(t, authz.Revoked, v, "%.20q, %v", text, err)
		assert.NoErrorf(t, err, "%.20q: %s", text, v)
	}
	// A writer cannot set the stamped columns.
	sql(t, c, `insert into authz.revocations (kind, iss, value, key, xid, login) values (1, $1, 'forged', '\x00', 1, 'mallory')`, issuer)
	f.sees(t, map[string]bool{"forged": true})
	var login string
	err := c.QueryRow(t.Context(), `select login from authz.revocations where value = 'forged'`).Scan(&login)
	if assert.NoErrorf(t, err, "%q", login) {
		assert.Equalf(t, "postgres", login, "%v", err)
	}
	// Defaults of the kinds.
	sql(t, c, `insert into authz.revocations (kind, iss, value) values (2, $1, 'alice'), (4, $1, 'key-1'), (5, $1, '')`, issuer)
	page, _, err := s.List(t.Context(), authz.Filter{Issuer: issuer})
	require.NoError(t, err)
	for _, r := range page {
		timed := r.Kind == authz.KindSub || r.Kind == authz.KindIss
		assert.NotEqualf(t, r.NotBefore.IsZero(), timed, "%s: not_before %s", r.Kind, r.NotBefore)
		assert.Equalf(t, r.Kind == authz.KindKID, r.ExpiresAt.Year() == 9999, "%s: expires %s", r.Kind, r.ExpiresAt)
	}
	// Another writer may extend, and that is followed; nothing else can be changed.
	var e authz.Entry
	sql(t, c, `update authz.revocations set expires_at = ttl_from + interval '25 hours' where value = 'forged'`)
	before := f.Entries[jti("forged").Key()]
	f.sync(t)
	e = f.Entries[jti("forged").Key()]
	assert.Equalf(t, before.Expires+3600, e.Expires, "extended from %d to %d", before.Expires, e.Expires)
	for _, text := range []string{
		`update authz.revocations set expires_at = expires_at - interval '1 second' where value = 'forged'`,
		`update authz.revocations set not_before = now()`,
		`update authz.revocations set value = value || 'x' where kind <> 5`,
		`update authz.revocations set iss = 'other'`,
		`update authz.revocations set actor = 'nobody'`,
		`update authz.revocations set expires_at = null where kind = 4`,
		`update authz.revocations set ttl_from = ttl_from - interval '1 second' where value = 'forged'`,
		`update authz.revocations set ttl_from = null where value = 'forged'`,
		`delete from authz.revocations where value = 'forged'`,
		`truncate authz.revocations`,
		`insert into authz.revocations (kind, iss, value) values (0, 'i', 'v')`,
		`insert into authz.revocations (kind, iss, value) values (1, '', 'v')`,
		`insert into authz.revocations (kind, iss, value) values (1, 'i', '')`,
		`insert into authz.revocations (kind, iss, value) values (5, 'i', 'v')`,
		`insert into authz.revocations (kind, iss, value, not_before) values (1, 'i', 'v', '-infinity')`,
	} {
		_, err := c.Exec(t.Context(), text)
		assert.Errorf(t, err, "allowed: %s", text)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
	c := pg.Connect(t)
	sidecar, revoker := pg.Database+"_sidecar", pg.Database+"_revoker"
	for role, group := range map[string]string{sidecar: "authz_sidecar", revoker: "authz_revoker"} {
		sql(t, c, "create role "+role+" login in role "+group)
		t.Cleanup(func() { pg.Exec(t, "drop role "+role) })
	}
	as := func(role string) string { return strings.Replace(pg.URL, "postgres@", role+"@", 1) }
	t.Run("sidecar", func(t *testing.T) {
		s := openOnly(t, as(sidecar), store.Options{})
		assert.NoError(t, usable(t, s))
		rows := 0
		snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ })
		if assert.NoErrorf(t, err, "%+v, %d rows", snap, rows) {
			if assert.Truef(t, snap.Proves, "%+v, %d rows, %v", snap, rows, err) {
				assert.Equalf(t, 1, rows, "%+v, rows, %v", snap, err)
			}
		}
		v, err := s.Lookup(t.Context(), queryFor(jti("a")))
		assert.Equalf(t, authz.Revoked, v, "%v", err)
		assert.NoErrorf(t, err, "%s", v)
		_, err = s.Append(t.Context(), []authz.Revocation{jti("b")})
		assert.ErrorIs(t, err, authz.ErrUnavailable)
		assert.Containsf(t, err.Error(), "authz_revoker", "%v", err)
		_, _, err = s.List(t.Context(), authz.Filter{})
		assert.Error(t, err, "it lists")
		_, err = s.GC(t.Context())
		assert.ErrorIs(t, err, store.ErrForbidden, "gc")
		quick := openOnly(t, as(sidecar), store.Options{GCInterval: time.Millisecond})
		quick.RunGC(t.Context()) // gives up by itself
		refused(t, as(sidecar), `insert into authz.revocations (kind, iss, value) values (1, 'i', 'v')`, `select 1 from authz.revocations`, `select 1 from authz.meta`,
			`update authz.revocations set expires_at = now() + interval '1 day'`, `delete from authz.revocations`, `truncate authz.revocations`,
			`select authz.gc()`, `select authz.install_bridge('x', 'y')`, `update authz.meta set epoch = 9`, `drop table authz.revocations`, `create table authz.x ()`,
			`select authz.revoke('{1}', '{i}', '{v}', '{null}', '{null}', '{a}', '{r}')`)
	})
	t.Run("revoker", func(t *testing.T) {
		s := openOnly(t, as(revoker), store.Options{})
		_, err := s.Append(t.Context(), []authz.Revocation{jti("b")})
		assert.NoError(t, err)
		page, _, err := s.List(t.Context(), authz.Filter{})
		if assert.NoErrorf(t, err, "%d", len(page)) {
			assert.GreaterOrEqualf(t, len(page), 2, "%v", err)
		}
		_, err = s.GC(t.Context())
		assert.NoError(t, err)
		rc, err := pgx.Connect(t.Context(), as(revoker))
		require.NoError(t, err)
		defer rc.Close(context.Background())
		sql(t, rc, `insert into authz.revocations (kind, iss, value) values (1, 'i', 'by hand')`)
		sql(t, rc, `insert into authz.revocations (kind, iss, value) values (1, 'i', 'by hand') on conflict do nothing`)
		var login string
		err = c.QueryRow(t.Context(), `select login from authz.revocations where value = 'by hand'`).Scan(&login)
		if assert.NoErrorf(t, err, "%q", login) {
			assert.Equalf(t, revoker, login, "%v", err)
		}
		refused(t, as(revoker), `update authz.revocations set expires_at = now() + interval '10 years'`, `delete from authz.revocations`, `truncate authz.revocations`,
			`insert into authz.revocations (kind, iss, value, xid) values (1, 'i', 'v', 1)`, `insert into authz.revocations (kind, iss, value, ttl_from) values (1, 'i', 'v', '1970-01-01')`,
			`select authz.append('{1}', '{i}', '{v}', '{null}', '{null}', '{a}', '{r}', null)`, `alter table authz.revocations disable trigger all`,
			`update authz.meta set epoch = 9`, `select authz.changes(0, '{}', 'n')`)
	})
	t.Run("nobody", func(t *testing.T) {
		role := pg.Database + "_nobody"
		sql(t, c, "create role "+role+" login")
		t.Cleanup(func() { pg.Exec(t, "drop role "+role) })
		err := usable(t, openOnly(t, as(role), store.Options{}))
		assert.ErrorIs(t, err, authz.ErrUnavailable)
		assert.Containsf(t, err.Error(), "authz_sidecar", "%v", err)
	})
	t.Run("an owner who may not create roles", func(t *testing.T) {
		owner := pg.Database + "_owner"
		sql(t, c, "create role "+owner+" login nocreaterole")
		other := harness.Postgres(t)
		sql(t, c, "alter database "+other.Database+" owner to "+owner)
		t.Cleanup(func() { sql2(other, owner) })
		s := open(t, strings.Replace(other.URL, "postgres@", owner+"@", 1), store.Options{})
		_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		assert.NoError(t, err)
	})
}

// sql2 gives back what the role owns before it is dropped.
func sql2(pg *harness.PG, role string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, pg.URL)
	if err != nil {
		return
	}
	defer c.Close(ctx)
	_, _ = c.Exec(ctx, "reassign owned by "+role+" to postgres")
	_, _ = c.Exec(ctx, "drop owned by "+role)
	_, _ = c.Exec(ctx, "drop role "+role)
}

func refused(t *testing.T, url string, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer c.Close(context.Background())
	for _, text := range statements {
		_, err := c.Exec(t.Context(), text)
		assert.Errorf(t, err, "allowed: %s", text)
	}
}

// The contract holds for a store whose login is a least-privilege role too.
func TestContractAsRoles(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	role := pg.Database + "_both"
	pg.Exec(t, "create role "+role+" login in role authz_sidecar, authz_revoker")
	t.Cleanup(func() { pg.Exec(t, "drop role "+role) })
	s := openOnly(t, strings.Replace(pg.URL, "postgres@", role+"@", 1), store.Options{})
	authztest.TestFeed(t, func(*testing.T) authztest.FeedSubject { return authztest.FeedSubject{Feed: feedOnly{s}, Ledger: s} })
}

// feedOnly hides what a least-privilege login may not do.
type feedOnly struct{ authz.Feed }

// The settings of a database or a login, as older applications leave them, change
// no answer.
func TestSessionSettings(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{
		"bytea_output = 'escape'", "datestyle = 'German'", "datestyle = 'SQL, DMY'", "timezone = 'Asia/Kolkata'", "extra_float_digits = 0", "extra_float_digits = -15",
		"intervalstyle = 'iso_8601'", "default_transaction_isolation = 'serializable'", "default_transaction_isolation = 'repeatable read'", "array_nulls = off",
		"standard_conforming_strings = off", "client_encoding = 'LATIN1'", "synchronous_commit = off", "search_path = 'nowhere'", "jit = on", "transform_null_equals = on",
		"lc_messages = 'C'", "default_transaction_deferrable = on", "row_security = off", "plpgsql.variable_conflict = 'use_variable'", "client_min_messages = 'debug5'",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			pg := harness.Postgres(t)
			pg.Exec(t, "alter database "+pg.Database+" set "+setting)
			s := open(t, pg.URL, store.Options{})
			worksWithSettings(t, s)
			assert.NoError(t, s.Migrate(t.Context()), "migrate again")
		})
	}
}

// A pooler shares the sessions of one database, with its settings, among all.
func TestSessionSettingsBehindPgBouncer(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	for _, setting := range []string{"bytea_output = 'escape'", "datestyle = 'SQL, DMY'", "extra_float_digits = -15", "array_nulls = off"} {
		pg.Exec(t, "alter database "+pg.Database+" set "+setting)
	}
	open(t, pg.URL, store.Options{})
	worksWithSettings(t, openOnly(t, pg.Via(harness.PgBouncer(t, pg, "transaction").Addr), store.Options{}))
}

func worksWithSettings(t *testing.T, s *store.Store) {
	t.Helper()
	r := jti("x")
	r.ExpiresAt = time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	r.NotBefore = r.ExpiresAt.Add(-2 * time.Hour)
	appended, err := s.Append(t.Context(), []authz.Revocation{jti("y"), r})
	stored := appended.Revocations
	if assert.NoErrorf(t, err, "append: %+v %v", stored, err) {
		if assert.Lenf(t, stored, 2, "append: %v", err) {
			if assert.Truef(t, stored[1].ExpiresAt == r.ExpiresAt, "append: %+v %v", stored, err) {
				if assert.Truef(t, stored[1].NotBefore == r.NotBefore, "append: %+v %v", stored, err) {
					if assert.Equalf(t, day, time.Until(stored[0].ExpiresAt).Round(time.Hour), "append: %+v %v", stored, err) {
						assert.Equalf(t, 30*time.Second, appended.MaxStaleness, "append: %+v %v", stored, err)
					}
				}
			}
		}
	}
	page, _, err := s.List(t.Context(), authz.Filter{})
	if assert.NoErrorf(t, err, "list: %+v %v", page, err) {
		if assert.Lenf(t, page, 2, "list: %v", err) {
			if assert.NotNilf(t, stored, "list: %+v %v", page, err) {
				assert.Falsef(t, page[0] != stored[0] && page[0] != stored[1], "list: %+v %v", page, err)
			}
		}
	}
	l, err := s.Limits(t.Context())
	if assert.NoErrorf(t, err, "limits: %+v %v", l, err) {
		if assert.Equalf(t, day, l.MaxTokenTTL, "limits: %+v %v", l, err) {
			assert.Equalf(t, 30*time.Second, l.MaxStaleness, "limits: %+v %v", l, err)
		}
	}
	rows := 0
	snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ })
	if assert.NoErrorf(t, err, "changes: %d %+v %v", rows, snap, err) {
		if assert.Equalf(t, 2, rows, "changes: %+v %v", snap, err) {
			if assert.Truef(t, snap.Proves, "changes: %d %+v %v", rows, snap, err) {
				if assert.Equalf(t, day, snap.MaxTokenTTL, "changes: %d %+v %v", rows, snap, err) {
					if assert.Equalf(t, 30*time.Second, snap.MaxStaleness, "changes: %d %+v %v", rows, snap, err) {
						assert.LessOrEqualf(t, time.Since(snap.Clock).Abs(), time.Minute, "changes: %d %+v %v", rows, snap, err)
					}
				}
			}
		}
	}
	v, err := s.Lookup(t.Context(), queryFor(jti("x")))
	assert.Equalf(t, authz.Revoked, v, "lookup: %v", err)
	v, err = s.Lookup(t.Context(), queryFor(jti("z")))
	assert.Equalf(t, authz.NotRevoked, v, "lookup: %v", err)
	_, err = s.GC(t.Context())
	assert.NoError(t, err, "gc")
}

// Raising max_token_ttl waits for no transaction that stores revocations, and
// these last for the higher limit all the same: what is being stored, and what a
// transaction stores that sees the lower limit.
func TestRaisedTokenLifeBesideOpenTransactions(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	var apps []*pgx.Conn
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		for _, stored := range []string{"before", "after"} {
			app := pg.Connect(t)
			sql(t, app, "begin isolation level "+level)
			sql(t, app, "select 1 from authz.meta")
			if stored == "before" {
				insert(t, app, level+", stored before the raise")
			}
			apps = append(apps, app)
		}
	}
	s := open(t, pg.URL, store.Options{MaxTokenTTL: 7 * day})
	for i, app := range apps {
		if i%2 == 1 {
			insert(t, app, fmt.Sprint(i, ", stored after the raise"))
		}
		sql(t, app, "commit")
	}
	page, _, err := s.List(t.Context(), authz.Filter{})
	require.NoErrorf(t, err, "%v %v", page, err)
	require.Lenf(t, page, len(apps), "%v %v", page, err)
	for _, r := range page {
		left := time.Until(r.ExpiresAt)
		assert.GreaterOrEqualf(t, left, 6*day, "%s ends in %s; tokens that it matches may live for 7 days and are accepted", r.Value, left.Round(time.Minute))
	}
}

// Neither the search_path of a caller nor its temporary schema reaches into
// functions that run as their owner.
func TestSearchPathIsNoWayIn(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
	c := pg.Connect(t)
	sql(t, c, `create table bridged (jti text, expires_at text)`)
	_, err = s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: "bridged"})
	require.NoError(t, err)
	sql(t, c, `create schema evil`)
	sql(t, c, `create function evil.pg_is_in_recovery() returns boolean language plpgsql as $$ begin raise exception 'reached'; end $$`)
	sql(t, c, `create function evil.now() returns timestamptz language plpgsql as $$ begin raise exception 'reached'; end $$`)
	sql(t, c, `create function evil.gt(bigint, bigint) returns boolean language plpgsql as $$ begin raise exception 'reached'; end $$`)
	sql(t, c, `create operator evil.> (leftarg = bigint, rightarg = bigint, function = evil.gt)`)
	sql(t, c, `create function evil.reached() returns boolean language plpgsql as $$ begin raise exception 'reached'; end $$`)
	for _, name := range []string{"timestamptz", "timestamp", "bigint", "int8", "smallint", "int2", "text", "bytea", "jsonb", "interval", "regclass", "numeric", "float8", "name"} {
		base := map[string]string{"bigint": "int8", "smallint": "int2"}[name]
		if base == "" {
			base = name
		}
		sql(t, c, `create domain pg_temp."`+name+`" as pg_catalog.`+base+` check (evil.reached())`)
	}
	sql(t, c, `create temp table pg_subscription_rel as select evil.reached() from pg_catalog.pg_class limit 0`)
	sql(t, c, `set search_path = evil, pg_catalog`)
	_, err = c.Exec(t.Context(), `select pg_is_in_recovery()`)
	require.Error(t, err, "the path has no effect and the test shows nothing")
	sql(t, c, `reset search_path`)
	_, err = c.Exec(t.Context(), `select '1'::int8, 'a'::jsonb`)
	require.Error(t, err, "the temporary types have no effect and the test shows nothing")
	for _, path := range []string{"default", "evil, pg_catalog", "pg_temp, evil, pg_catalog"} {
		sql(t, c, `set search_path = `+path)
		for _, text := range []string{`select authz.changes(0, '{}', 'n')`, `select authz.lookup('{}', 'n', 0, 0)`, `select authz.about()`, `select authz.gc()`,
			`select authz.revoke('{1}', '{i}', '{v}', '{null}', '{null}', '{a}', '{r}')`, `insert into authz.revocations (kind, iss, value) values (1, 'i', '` + path + `')`,
			`insert into public.bridged values ('` + path + `', '2099-12-31 00:00:00'), ('4102358400', '4102358400')`} {
			sql(t, c, text)
		}
	}
}

// Every function that runs as its owner is bound when it is created, or has a
// search_path that ends with the caller's temporary schema.
func TestOwnersFunctionsAreBound(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	rows, err := pg.Connect(t).Query(t.Context(), `select p.oid::regprocedure::text, p.prosqlbody is not null,
			coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)
		from pg_proc p where p.pronamespace = 'authz'::regnamespace and (p.prosecdef or p.prolang <> (select l.oid from pg_language l where l.lanname = 'sql'))`)
	require.NoError(t, err)
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var name string
		var bound, path bool
		require.NoError(t, rows.Scan(&name, &bound, &path))
		if !bound {
			assert.Truef(t, path, "%s: its names are looked up in its caller's schemas", name)
		}
	}
	if rows.Err() != nil || n < 10 {
		t.Errorf("%d functions, %v", n, rows.Err())
	}
	var everybodys []string
	err = pg.Connect(t).QueryRow(t.Context(), `select coalesce(array_agg(p.oid::regprocedure::text), '{}') from pg_proc p
		where p.pronamespace = 'authz'::regnamespace and has_function_privilege('public', p.oid, 'execute')`).Scan(&everybodys)
	require.NoError(t, err)
	assert.Empty(t, everybodys, "everybody may call them")
}
