package store_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
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

// sql runs a statement on the connection.
func sql(t testing.TB, c *pgx.Conn, text string, args ...any) {
	t.Helper()
	_, err := c.Exec(t.Context(), text, args...)
	require.NoErrorf(t, err, "%s", text)
}

func insert(t testing.TB, c *pgx.Conn, value string) {
	t.Helper()
	sql(t, c, `insert into authz.revocations (kind, iss, value) values (1, $1, $2)`, issuer, value)
}

// followed is a follower by the product's rule whose progress a test checks.
type followed struct {
	authztest.Watermark
	feed authz.Feed
}

// sync reads once and returns how many rows came.
func (f *followed) sync(t testing.TB) (int, authz.Snapshot) {
	t.Helper()
	rows, snap, err := f.Sync(t.Context(), f.feed)
	require.NoError(t, err)
	return len(rows), snap
}

// sees reads once and checks which values are known.
func (f *followed) sees(t testing.TB, want map[string]bool) {
	t.Helper()
	f.sync(t)
	for value, known := range want {
		_, here := f.Entries[jti(value).Key()]
		assert.Equalf(t, known, here, "%q known", value)
	}
}

func newFollowed(t testing.TB, url string) (*followed, *store.Store) {
	t.Helper()
	s := open(t, url, store.Options{})
	f := &followed{feed: s}
	f.sync(t)
	return f, s
}

// A transaction that stays open while others commit with higher ids: theirs
// come at once, its own when it commits. A follower by "id > last" would never
// get it, one by "id < xmin" would get nothing until it ends.
func TestLongTransaction(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	long, other := pg.Connect(t), pg.Connect(t)
	sql(t, long, "begin")
	insert(t, long, "long")
	var longID uint64
	require.NoError(t, long.QueryRow(t.Context(), "select pg_current_xact_id()::text::bigint").Scan(&longID))
	insert(t, other, "short")
	f.sees(t, map[string]bool{"short": true, "long": false})
	// others on the server have transactions too
	require.Greaterf(t, f.Position.Last, longID, "position %+v, the open id", f.Position)
	require.Containsf(t, f.Position.Open, longID, "position %+v, the open id", f.Position)
	insert(t, other, "short too")
	f.sees(t, map[string]bool{"short too": true, "long": false})
	sql(t, long, "commit")
	f.sees(t, map[string]bool{"long": true})
	assert.NotContains(t, f.Position.Open, longID, "still open")
	n, _ := f.sync(t)
	assert.Zerof(t, n, "%d rows came again", n)
}

func TestRollbackAndSavepoints(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	c, other := pg.Connect(t), pg.Connect(t)
	sql(t, c, "begin")
	insert(t, c, "kept")
	sql(t, c, "savepoint a")
	insert(t, c, "undone")
	sql(t, c, "rollback to a")
	sql(t, c, "savepoint b")
	insert(t, c, "released")
	sql(t, c, "release b")
	insert(t, other, "between")
	f.sees(t, map[string]bool{"between": true, "kept": false})
	sql(t, c, "commit")
	f.sees(t, map[string]bool{"kept": true, "released": true, "undone": false})
	sql(t, c, "begin")
	insert(t, c, "rolled back")
	insert(t, other, "later")
	f.sees(t, map[string]bool{"later": true})
	sql(t, c, "rollback")
	f.sees(t, map[string]bool{"rolled back": false})
}

func TestPreparedTransaction(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	c, other := pg.Connect(t), pg.Connect(t)
	for _, name := range []string{"yes", "no"} {
		sql(t, c, "begin")
		insert(t, c, "prepared "+name)
		sql(t, c, fmt.Sprintf("prepare transaction '%s_%s'", pg.Database, name))
	}
	insert(t, other, "between")
	f.sees(t, map[string]bool{"between": true, "prepared yes": false})
	sql(t, other, fmt.Sprintf("commit prepared '%s_yes'", pg.Database))
	sql(t, other, fmt.Sprintf("rollback prepared '%s_no'", pg.Database))
	f.sees(t, map[string]bool{"prepared yes": true, "prepared no": false})
}

func TestKilledBackend(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	c, other := pg.Connect(t), pg.Connect(t)
	sql(t, c, "begin")
	insert(t, c, "killed")
	insert(t, other, "between")
	f.sees(t, map[string]bool{"between": true})
	var ended bool
	err := other.QueryRow(t.Context(), "select pg_terminate_backend($1, 5000)", c.PgConn().PID()).Scan(&ended)
	require.NoErrorf(t, err, "%v %v", ended, err)
	require.Truef(t, ended, "%v %v", ended, err)
	f.sees(t, map[string]bool{"killed": false})
	insert(t, other, "after")
	f.sees(t, map[string]bool{"after": true})
}

// Ids that were handed out and never reached the log are handed out again
// after a crash: a watermark taken from the counter loses those rows.
func TestIdsReusedAfterCrash(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t, "wal_writer_delay", "'10s'")
	f, _ := newFollowed(t, pg.URL)
	insert(t, pg.Connect(t), "before")
	f.sees(t, map[string]bool{"before": true})
	var last *pgx.Conn
	for range 20 {
		last = pg.Connect(t)
		sql(t, last, "begin")
		sql(t, last, "select pg_current_xact_id()")
	}
	sql(t, last, "rollback") // moves xmax; its record is not flushed yet
	_, snap := f.sync(t)
	pg.Crash()
	pg.Start(t)
	c := pg.Connect(t)
	insert(t, c, "after")
	var id uint64
	require.NoError(t, c.QueryRow(t.Context(), "select xid from authz.revocations where value = 'after'").Scan(&id))
	require.Lessf(t, id, snap.Xmax, "id %d was not reused (the counter had been at %d): the test shows nothing", id, snap.Xmax)
	// The connection was cut by the crash; reconnecting may take a try.
	harness.Eventually(t, 20*time.Second, "a sync after the crash", func(ctx context.Context) error {
		_, _, err := f.Sync(ctx, f.feed)
		return err
	})
	f.sees(t, map[string]bool{"before": true, "after": true})
}

// A hot standby's snapshot looks complete and is not; after its promotion it
// is another history.
func TestStandbyAndFailover(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	f, s := newFollowed(t, pg.URL)
	_, err := s.Append(t.Context(), []authz.Revocation{jti("before")})
	require.NoError(t, err)
	_, primary := f.sync(t)
	standby := pg.Standby(t)
	url := standby.Use(pg.Database).URL
	s2 := openOnly(t, url, store.Options{})
	f2 := &followed{feed: s2}
	_, snap := f2.sync(t)
	assert.False(t, snap.Proves, "a standby's answer proves freshness")
	_, here := f2.Entries[jti("before").Key()]
	assert.True(t, here, "the standby's rows did not come")
	assert.Zerof(t, f2.Position.Last, "the position moved to %+v", f2.Position)
	v, err := s2.Lookup(t.Context(), queryFor(jti("before")))
	assert.Equalf(t, authz.Revoked, v, "revoked, seen on a standby, %v", err)
	assert.NoErrorf(t, err, "revoked, seen on a standby: %s", v)
	v, err = s2.Lookup(t.Context(), queryFor(jti("other")))
	assert.Equalf(t, authz.Unknown, v, "not revoked, seen on a standby, %v", err)
	assert.Errorf(t, err, "not revoked, seen on a standby: %s", v)
	assert.Error(t, usable(t, s2), "a standby is usable")
	_, err = s2.Append(t.Context(), []authz.Revocation{jti("x")})
	assert.Error(t, err, "a standby took a revocation")
	pg.Stop()
	standby.Promote(t)
	f.feed = s2
	_, snap = f.sync(t)
	assert.Truef(t, snap.Proves, "after failover: %+v, before: %+v", snap, primary)
	assert.NotEqualf(t, primary.Epoch, snap.Epoch, "after failover: %+v, before: %+v", snap, primary)
	insert(t, standby.Use(pg.Database).Connect(t), "after")
	f.sees(t, map[string]bool{"before": true, "after": true})
}

// Inside a transaction the snapshot may be older than the question.
func TestInsideTransactionProvesNothing(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	newFollowed(t, pg.URL)
	c, other := pg.Connect(t), pg.Connect(t)
	const fresh = 7 // in the array that describes the snapshot
	ask := func() (proves string, rows int) {
		t.Helper()
		r, err := c.Query(t.Context(), "select (c).snapshot from (select authz.changes(0, '{}', 'n') c) s", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		all, err := pgx.CollectRows(r, pgx.RowTo[[]string])
		require.NoError(t, err)
		return all[0][fresh-1], len(all) - 1
	}
	proves, _ := ask()
	assert.Equal(t, "true", proves, "outside")
	sql(t, c, "begin isolation level repeatable read")
	sql(t, c, "select 1")
	insert(t, other, "a")
	proves, rows := ask()
	assert.Zero(t, rows, "rows: the snapshot is not old, and the test shows nothing")
	assert.Equal(t, "false", proves, "inside")
	sql(t, c, "commit")
	proves, rows = ask()
	assert.Equalf(t, "true", proves, "afterwards, %d rows", rows)
	assert.Equalf(t, 1, rows, "afterwards: %s, rows", proves)
	// A database whose default is another isolation level is no obstacle.
	sql(t, other, "alter database "+pg.Database+" set default_transaction_isolation = 'serializable'")
	s := openOnly(t, pg.URL, store.Options{})
	snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
	if assert.NoErrorf(t, err, "default serializable: %+v", snap) {
		assert.Truef(t, snap.Proves, "default serializable: %+v, %v", snap, err)
	}
	v, err := s.Lookup(t.Context(), queryFor(jti("b")))
	if assert.NoErrorf(t, err, "default serializable: %s", v) {
		assert.Equalf(t, authz.NotRevoked, v, "default serializable, %v", err)
	}
}

// What is visible has to be durable, or a crash gives its id to another row.
func TestSynchronousCommitIsRaised(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	newFollowed(t, pg.URL)
	for _, level := range []string{"off", "local", "remote_write", "on", "remote_apply"} {
		c := pg.Connect(t)
		sql(t, c, "set synchronous_commit = "+level)
		sql(t, c, "begin")
		insert(t, c, level)
		var now, after string
		require.NoError(t, c.QueryRow(t.Context(), "show synchronous_commit").Scan(&now))
		sql(t, c, "commit")
		require.NoError(t, c.QueryRow(t.Context(), "show synchronous_commit").Scan(&after))
		want := "on"
		if level == "remote_apply" {
			want = level
		}
		assert.Equalf(t, want, now, "%s: in the transaction, %s after it", level, after)
		assert.Equalf(t, level, after, "%s in the transaction, after it", now)
	}
}

// The sync must not read the whole table, whatever the position.
func TestSyncUsesTheIndex(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	c := pg.Connect(t)
	sql(t, c, `insert into authz.revocations (kind, iss, value) select 1, 'i', n::text from generate_series(1, 20000) n`)
	sql(t, c, `analyze authz.revocations`)
	f.sync(t)
	scans := func() (n int) {
		sql(t, c, "select pg_stat_clear_snapshot()")
		require.NoError(t, c.QueryRow(t.Context(), `select seq_scan from pg_stat_user_tables where relid = 'authz.revocations'::regclass`).Scan(&n))
		return n
	}
	// Sessions report their numbers with a delay; a closed one has.
	flush := func() {
		f.feed.(*store.Store).Close()
		f.feed = openOnly(t, pg.URL, store.Options{})
	}
	flush()
	var before int
	harness.Eventually(t, 10*time.Second, "settled statistics", func(context.Context) error {
		if n := scans(); n != before || n == 0 {
			before = n
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	for i := range 20 {
		insert(t, c, fmt.Sprint(i))
		n, _ := f.sync(t)
		require.Equal(t, 1, n, "rows")
	}
	flush()
	after := scans()
	assert.Equalf(t, before, after, "%d sequential scans in 20 syncs", after-before)
}

// Rows loaded from another server's dump carry its transaction ids, because a
// dump's triggers come after its data. They are followed all the same, at
// every sync again until the epoch is raised, which stamps them anew.
func TestRestoredDump(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	c := pg.Connect(t)
	sql(t, c, "alter table authz.revocations disable trigger revocation_stamp")
	sql(t, c, `insert into authz.revocations (kind, iss, value, expires_at, key, xid)
		select 1, $1, 'restored', now() + interval '1 day', authz.revocation_key(1::smallint, $1, 'restored'), 1000000000000`, issuer)
	sql(t, c, "alter table authz.revocations enable always trigger revocation_stamp")
	f.sees(t, map[string]bool{"restored": true})
	insert(t, c, "new")
	f.sees(t, map[string]bool{"new": true})
	n, _ := f.sync(t)
	assert.Equalf(t, 1, n, "%d rows again, want the restored one: the test shows nothing", n)
	before := f.Position.Epoch
	require.NoError(t, s.BumpEpoch(t.Context()))
	f.sync(t) // finds the epoch changed
	f.sync(t) // reads everything
	assert.NotEqual(t, before, f.Position.Epoch, "the epoch is the same")
	f.sees(t, map[string]bool{"restored": true, "new": true})
	n, _ = f.sync(t)
	assert.Zerof(t, n, "%d rows came again", n)
}

// A disk is restored twice from one snapshot, and each time the epoch is raised.
// It lies in what is restored, a snapshot begins no new timeline, and other work
// in the server brings the ids past the follower's position before it asks again:
// only an epoch that was never given before tells the two histories apart.
func TestRestoredTwiceFromOneSnapshot(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	with := func(f func(s *store.Store) error) { // the command line
		t.Helper()
		s, err := store.Open(t.Context(), pg.URL, store.Options{WriteTimeout: time.Minute})
		if err == nil {
			err = errors.Join(f(s), s.Close())
		}
		require.NoError(t, err)
	}
	revoke := func(value string) {
		t.Helper()
		with(func(s *store.Store) error {
			_, err := s.Append(t.Context(), []authz.Revocation{jti(value)})
			return err
		})
	}
	burn := func(n int) {
		t.Helper()
		pg.Exec(t, fmt.Sprintf("do $$ begin for i in 1..%d loop perform pg_current_xact_id(); commit; end loop; end $$", n))
	}
	f, _ := newFollowed(t, pg.URL)
	sees := func(values ...string) {
		t.Helper()
		harness.Eventually(t, 20*time.Second, "a sync", func(ctx context.Context) error { _, _, err := f.Sync(ctx, f.feed); return err })
		f.sync(t) // everything, where the epoch had changed
		for _, v := range values {
			_, known := f.Entries[jti(v).Key()]
			assert.Truef(t, known, "%q was revoked with success and is not known; nor will it ever be", v)
		}
	}
	snapshot := pg.Data + ".snapshot"
	copyDir := func(from, to string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `rm -rf "$2" && cp -a "$1" "$2"`, "sh", from, to).CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	restore := func() {
		t.Helper()
		pg.Stop()
		copyDir(snapshot, pg.Data)
		pg.Start(t)
		with(func(s *store.Store) error { return s.BumpEpoch(t.Context()) })
	}
	revoke("first")
	sees("first")
	pg.Stop()
	copyDir(pg.Data, snapshot)
	pg.Start(t)

	restore()
	sees("first")
	burn(50)
	revoke("lost with the second restore") // known here, and stays known
	sees("first", "lost with the second restore")

	restore()
	revoke("after")
	burn(100)
	sees("first", "lost with the second restore", "after")
	revoke("later")
	sees("later")
}

// Every epoch is drawn, the first one too: a schema that was dropped and
// installed again has another history.
func TestEpochsAreDrawn(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		meta, place := "meta", 1 // file/epoch
		if strings.HasPrefix(url, "postgres") {
			meta, place = "authz.meta", 2 // system/timeline/epoch
		}
		epoch := func() string {
			t.Helper()
			snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
			require.NoError(t, err)
			return strings.Split(snap.Epoch, "/")[place]
		}
		seen := map[string]bool{}
		for range 5 {
			e := epoch()
			assert.Falsef(t, seen[e], "epoch %s after %v", e, seen)
			assert.GreaterOrEqualf(t, len(e), 10, "epoch %s after %v", e, seen)
			seen[e] = true
			execute(t, url, "update "+meta+" set epoch = 7") // what a restore brings back
			require.NoError(t, s.BumpEpoch(t.Context()))
		}
	})
}

// The server's identity is sent once per start of the server, so that a sync need
// not read it from a file. Another server that has the same epoch and timeline,
// because its data came in a dump, is noticed all the same.
func TestAnotherServerIsNoticed(t *testing.T) {
	t.Parallel()
	pg, other := harness.OwnPostgres(t), harness.OwnPostgres(t)
	f, _ := newFollowed(t, pg.URL)
	insert(t, pg.Connect(t), "here")
	f.sees(t, map[string]bool{"here": true})
	before := f.Position.Epoch
	f.sync(t)
	require.Equal(t, before, f.Position.Epoch)

	var meta int64
	require.NoError(t, pg.Connect(t).QueryRow(t.Context(), "select epoch from authz.meta").Scan(&meta))
	other.Exec(t, "create database "+pg.Database)
	there := other.Use(pg.Database)
	open(t, there.URL, store.Options{})
	there.Exec(t, "update authz.meta set epoch = $1", meta)
	insert(t, there.Connect(t), "there")
	pg.Stop()
	other.Stop()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `rm -rf "$2" && cp -a "$1" "$2"`, "sh", other.Data, pg.Data).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	pg.Start(t)
	harness.Eventually(t, 20*time.Second, "a sync", func(ctx context.Context) error { _, _, err := f.Sync(ctx, f.feed); return err })
	f.sync(t) // everything
	assert.NotEqual(t, before, f.Position.Epoch)
	assert.Equal(t, strings.Split(before, "/")[2], strings.Split(f.Position.Epoch, "/")[2], "meta.epoch differs: the test shows nothing")
	f.sees(t, map[string]bool{"here": true, "there": true})
}
