package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
	if err := c.QueryRow(t.Context(), `select count(*) from authz.revocations where value = $1`, value).Scan(&n); err != nil {
		t.Fatal(err)
	}
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
	if err := s.Ping(t.Context()); err != nil { // a connection is there
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), []authz.Revocation{jti("lost")})
		result <- err
	}()
	commitHeld(t, c, pg)
	proxy.Down()
	err := <-result
	if !errors.Is(err, authz.ErrOutcomeUnknown) || errors.Is(err, authz.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
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
	if n := count(t, c, "lost"); n != 1 {
		t.Errorf("%d rows", n)
	}
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
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if n := count(t, c, "once"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// The answer never comes: the caller's deadline ends the wait, without success.
func TestCommitAnswerSwallowed(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	s := open(t, pg.Via(proxy.Addr), store.Options{})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.BlackHoleAnswers()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Append(ctx, []authz.Revocation{jti("swallowed")}); !errors.Is(err, authz.ErrOutcomeUnknown) {
		t.Fatalf("%v", err)
	}
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
	if !errors.Is(err, authz.ErrUnavailable) || errors.Is(err, authz.ErrOutcomeUnknown) || got.Revocations != nil {
		t.Fatalf("%v, %v", got, err)
	}
	if n := count(t, c, "refused"); n != 0 {
		t.Errorf("%d rows", n)
	}
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
	if err := <-result; !errors.Is(err, authz.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
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
		if !errors.Is(err, authz.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		_, err = s.Append(t.Context(), []authz.Revocation{jti("locked")}) // ended by lock_timeout
		if !errors.Is(err, authz.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		sql(t, c, "rollback")
		if n := count(t, c, "locked"); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		sql(t, c, "alter database "+pg.Database+" set default_transaction_read_only = on")
		s := openOnly(t, pg.URL, store.Options{})
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("read-only")}); !errors.Is(err, authz.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		// Reading goes on.
		if v, err := s.Lookup(t.Context(), queryFor(jti("a"))); v != authz.NotRevoked || err != nil {
			t.Errorf("%s, %v", v, err)
		}
		if snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {}); err != nil || !snap.Proves {
			t.Errorf("%+v, %v", snap, err)
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
		if !here || e.NotBefore != authz.Always {
			t.Errorf("%.20q: %+v, %t", text, e, here)
		}
		if v, err := s.Lookup(t.Context(), queryFor(r)); v != authz.Revoked || err != nil {
			t.Errorf("%.20q: %s, %v", text, v, err)
		}
	}
	// A writer cannot set the stamped columns.
	sql(t, c, `insert into authz.revocations (kind, iss, value, key, xid, login) values (1, $1, 'forged', '\x00', 1, 'mallory')`, issuer)
	f.sees(t, map[string]bool{"forged": true})
	var login string
	if err := c.QueryRow(t.Context(), `select login from authz.revocations where value = 'forged'`).Scan(&login); err != nil || login != "postgres" {
		t.Errorf("%q, %v", login, err)
	}
	// Defaults of the kinds.
	sql(t, c, `insert into authz.revocations (kind, iss, value) values (2, $1, 'alice'), (4, $1, 'key-1'), (5, $1, '')`, issuer)
	page, _, err := s.List(t.Context(), authz.Filter{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range page {
		timed := r.Kind == authz.KindSub || r.Kind == authz.KindIss
		if timed == r.NotBefore.IsZero() {
			t.Errorf("%s: not_before %s", r.Kind, r.NotBefore)
		}
		if eternal := r.ExpiresAt.Year() == 9999; eternal != (r.Kind == authz.KindKID) {
			t.Errorf("%s: expires %s", r.Kind, r.ExpiresAt)
		}
	}
	// Another writer may extend, and that is followed; nothing else can be changed.
	var e authz.Entry
	sql(t, c, `update authz.revocations set expires_at = ttl_from + interval '25 hours' where value = 'forged'`)
	before := f.Entries[jti("forged").Key()]
	f.sync(t)
	if e = f.Entries[jti("forged").Key()]; e.Expires != before.Expires+3600 {
		t.Errorf("extended from %d to %d", before.Expires, e.Expires)
	}
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
		if _, err := c.Exec(t.Context(), text); err == nil {
			t.Errorf("allowed: %s", text)
		}
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err != nil {
		t.Fatal(err)
	}
	c := pg.Connect(t)
	sidecar, revoker := pg.Database+"_sidecar", pg.Database+"_revoker"
	for role, group := range map[string]string{sidecar: "authz_sidecar", revoker: "authz_revoker"} {
		sql(t, c, "create role "+role+" login in role "+group)
		t.Cleanup(func() { pg.Exec(t, "drop role "+role) })
	}
	as := func(role string) string { return strings.Replace(pg.URL, "postgres@", role+"@", 1) }
	t.Run("sidecar", func(t *testing.T) {
		s := openOnly(t, as(sidecar), store.Options{})
		if err := s.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		rows := 0
		if snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ }); err != nil || !snap.Proves || rows != 1 {
			t.Errorf("%+v, %d rows, %v", snap, rows, err)
		}
		if v, err := s.Lookup(t.Context(), queryFor(jti("a"))); v != authz.Revoked || err != nil {
			t.Errorf("%s, %v", v, err)
		}
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("b")}); !errors.Is(err, authz.ErrUnavailable) || !strings.Contains(err.Error(), "authz_revoker") {
			t.Errorf("%v", err)
		}
		if _, _, err := s.List(t.Context(), authz.Filter{}); err == nil {
			t.Error("it lists")
		}
		if _, err := s.GC(t.Context()); !errors.Is(err, store.ErrForbidden) {
			t.Errorf("gc: %v", err)
		}
		quick := openOnly(t, as(sidecar), store.Options{GCInterval: time.Millisecond})
		quick.RunGC(t.Context()) // gives up by itself
		refused(t, as(sidecar), `insert into authz.revocations (kind, iss, value) values (1, 'i', 'v')`, `select 1 from authz.revocations`, `select 1 from authz.meta`,
			`update authz.revocations set expires_at = now() + interval '1 day'`, `delete from authz.revocations`, `truncate authz.revocations`,
			`select authz.gc()`, `select authz.install_bridge('x', 'y')`, `update authz.meta set epoch = 9`, `drop table authz.revocations`, `create table authz.x ()`,
			`select authz.revoke('{1}', '{i}', '{v}', '{null}', '{null}', '{a}', '{r}')`)
	})
	t.Run("revoker", func(t *testing.T) {
		s := openOnly(t, as(revoker), store.Options{})
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("b")}); err != nil {
			t.Error(err)
		}
		if page, _, err := s.List(t.Context(), authz.Filter{}); err != nil || len(page) < 2 {
			t.Errorf("%d, %v", len(page), err)
		}
		if _, err := s.GC(t.Context()); err != nil {
			t.Error(err)
		}
		rc, err := pgx.Connect(t.Context(), as(revoker))
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close(context.Background())
		sql(t, rc, `insert into authz.revocations (kind, iss, value) values (1, 'i', 'by hand')`)
		sql(t, rc, `insert into authz.revocations (kind, iss, value) values (1, 'i', 'by hand') on conflict do nothing`)
		var login string
		if err := c.QueryRow(t.Context(), `select login from authz.revocations where value = 'by hand'`).Scan(&login); err != nil || login != revoker {
			t.Errorf("%q, %v", login, err)
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
		err := openOnly(t, as(role), store.Options{}).Ping(t.Context())
		if !errors.Is(err, authz.ErrUnavailable) || !strings.Contains(err.Error(), "authz_sidecar") {
			t.Errorf("%v", err)
		}
	})
	t.Run("an owner who may not create roles", func(t *testing.T) {
		owner := pg.Database + "_owner"
		sql(t, c, "create role "+owner+" login nocreaterole")
		other := harness.Postgres(t)
		sql(t, c, "alter database "+other.Database+" owner to "+owner)
		t.Cleanup(func() { sql2(other, owner) })
		s := open(t, strings.Replace(other.URL, "postgres@", owner+"@", 1), store.Options{})
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err != nil {
			t.Error(err)
		}
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
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, text := range statements {
		if _, err := c.Exec(t.Context(), text); err == nil {
			t.Errorf("allowed: %s", text)
		}
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
			if err := s.Migrate(t.Context()); err != nil {
				t.Errorf("migrate again: %v", err)
			}
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
	if err != nil || len(stored) != 2 || stored[1].ExpiresAt != r.ExpiresAt || stored[1].NotBefore != r.NotBefore || time.Until(stored[0].ExpiresAt).Round(time.Hour) != day || appended.MaxStaleness != 30*time.Second {
		t.Errorf("append: %+v %v", stored, err)
	}
	if page, _, err := s.List(t.Context(), authz.Filter{}); err != nil || len(page) != 2 || stored == nil || page[0] != stored[0] && page[0] != stored[1] {
		t.Errorf("list: %+v %v", page, err)
	}
	if l, err := s.Limits(t.Context()); err != nil || l.MaxTokenTTL != day || l.MaxStaleness != 30*time.Second {
		t.Errorf("limits: %+v %v", l, err)
	}
	rows := 0
	if snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ }); err != nil || rows != 2 || !snap.Proves || snap.MaxTokenTTL != day || snap.MaxStaleness != 30*time.Second || time.Since(snap.Clock).Abs() > time.Minute {
		t.Errorf("changes: %d %+v %v", rows, snap, err)
	}
	if v, err := s.Lookup(t.Context(), queryFor(jti("x"))); v != authz.Revoked {
		t.Errorf("lookup: %v %v", v, err)
	}
	if v, err := s.Lookup(t.Context(), queryFor(jti("z"))); v != authz.NotRevoked {
		t.Errorf("lookup: %v %v", v, err)
	}
	if _, err := s.GC(t.Context()); err != nil {
		t.Errorf("gc: %v", err)
	}
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
	if err != nil || len(page) != len(apps) {
		t.Fatal(page, err)
	}
	for _, r := range page {
		if left := time.Until(r.ExpiresAt); left < 6*day {
			t.Errorf("%s ends in %s; tokens that it matches may live for 7 days and are accepted", r.Value, left.Round(time.Minute))
		}
	}
}

// Neither the search_path of a caller nor its temporary schema reaches into
// functions that run as their owner.
func TestSearchPathIsNoWayIn(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err != nil {
		t.Fatal(err)
	}
	c := pg.Connect(t)
	sql(t, c, `create table bridged (jti text, expires_at text)`)
	if _, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: "bridged"}); err != nil {
		t.Fatal(err)
	}
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
	if _, err := c.Exec(t.Context(), `select pg_is_in_recovery()`); err == nil {
		t.Fatal("the path has no effect and the test shows nothing")
	}
	sql(t, c, `reset search_path`)
	if _, err := c.Exec(t.Context(), `select '1'::int8, 'a'::jsonb`); err == nil {
		t.Fatal("the temporary types have no effect and the test shows nothing")
	}
	for _, path := range []string{"default", "evil, pg_catalog", "pg_temp, evil, pg_catalog"} {
		sql(t, c, `set search_path = `+path)
		for _, text := range []string{`select authz.changes(0, '{}', 'n')`, `select authz.lookup('{}', 'n', 0)`, `select authz.about()`, `select authz.gc()`,
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
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var name string
		var bound, path bool
		if err := rows.Scan(&name, &bound, &path); err != nil {
			t.Fatal(err)
		}
		if !bound && !path {
			t.Errorf("%s: its names are looked up in its caller's schemas", name)
		}
	}
	if rows.Err() != nil || n < 10 {
		t.Errorf("%d functions, %v", n, rows.Err())
	}
}
