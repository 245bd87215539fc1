package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// An existing writer of revoked_tokens keeps working without knowing this schema,
// and its rows are revoked from their commit on.
func TestBridge(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	c := pg.Connect(t)
	sql(t, c, `create table revoked_tokens (jti text primary key, user_id text, revoked_at timestamptz default now(), expires_at timestamptz)`)
	sql(t, c, `insert into revoked_tokens (jti, expires_at) values ('old', now() + interval '1 hour'), ('open end', null), ('long gone', now() - interval '1 day')`)
	f, s := newFollowed(t, pg.URL)
	n, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer})
	require.NoErrorf(t, err, "%d taken over", n)
	require.Equalf(t, int64(2), n, "%d taken over, %v", n, err)
	f.sees(t, map[string]bool{"old": true, "open end": true, "long gone": false})

	// The writer's own login has no rights in this schema.
	role := pg.Database + "_writer"
	sql(t, c, "create role "+role+" login")
	t.Cleanup(func() { sql2(pg, role) })
	sql(t, c, "grant select, insert, update on revoked_tokens to "+role)
	w, err := pgx.Connect(t.Context(), strings.Replace(pg.URL, "postgres@", role+"@", 1))
	require.NoError(t, err)
	defer w.Close(context.Background())
	until := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	sql(t, w, `insert into revoked_tokens (jti, user_id, expires_at) values ($1, 'u-1', $2)`, "new", until)
	f.sees(t, map[string]bool{"new": true})
	e := f.Entries[jti("new").Key()]
	assert.Equalf(t, until.Unix(), e.Expires, "%+v, expires", e)
	assert.Equalf(t, authz.Always, e.NotBefore, "%+v, expires %d", e, until.Unix())
	v, err := s.Lookup(t.Context(), queryFor(jti("new")))
	assert.Equalf(t, authz.Revoked, v, "%v", err)
	assert.NoErrorf(t, err, "%s", v)
	v, err = s.Lookup(t.Context(), queryFor(authz.Revocation{Kind: authz.KindJTI, Issuer: "https://other.example", Value: "new"}))
	assert.Equalf(t, authz.NotRevoked, v, "another issuer's, %v", err)
	assert.NoErrorf(t, err, "another issuer's: %s", v)
	page, _, err := s.List(t.Context(), authz.Filter{Value: "new"})
	if assert.NoErrorf(t, err, "%+v", page) {
		if assert.Lenf(t, page, 1, "%v", err) {
			if assert.Equalf(t, "u-1", page[0].RevokedBy, "%+v, %v", page, err) {
				assert.Equalf(t, "bridge: revoked_tokens", page[0].Reason, "%+v, %v", page, err)
			}
		}
	}
	sql(t, w, `insert into revoked_tokens (jti) values ('new') on conflict (jti) do update set expires_at = now() + interval '9 hours'`)
	f.sync(t)
	e = f.Entries[jti("new").Key()]
	assert.GreaterOrEqualf(t, e.Expires, until.Add(6*time.Hour).Unix(), "not extended: %+v", e)
	// A bulk writer, and one that rolls back.
	sql(t, w, `insert into revoked_tokens (jti) select 'bulk ' || i from generate_series(1, 1000) i`)
	sql(t, w, "begin")
	sql(t, w, `insert into revoked_tokens (jti) values ('undone')`)
	sql(t, w, "rollback")
	f.sees(t, map[string]bool{"bulk 1": true, "bulk 1000": true, "undone": false})
	// Installing it again changes nothing.
	before := len(f.Entries)
	_, err = s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: "public.revoked_tokens"})
	assert.NoError(t, err)
	f.sync(t)
	assert.Lenf(t, f.Entries, before, "had been %d", before)
	_, err = s.Append(t.Context(), []authz.Revocation{jti("new")})
	assert.NoError(t, err)
}

// Writers differ in their columns; only jti is needed.
func TestBridgeTables(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	c := pg.Connect(t)
	f, s := newFollowed(t, pg.URL)
	sql(t, c, `create schema "Odd Schema"`)
	for i, table := range []struct{ name, columns, row string }{
		{`bare`, `jti text`, `'%s'`},
		{`"Odd Schema"."Revoked Tokens"`, `jti varchar(300), "User ID" int`, `'%s', 7`},
		{`typed`, `jti uuid, user_id bigint, expires_at timestamptz`, `'00000000-0000-0000-0000-0000000000%s', 42, now() + interval '3 hours'`},
		{`naive`, `jti text, expires_at timestamp`, `'%s', (now() at time zone 'UTC') + interval '3 hours'`},
		{`days`, `jti text, expires_at date`, `'%s', current_date + 2`},
		{`endless`, `jti text, expires_at timestamptz`, `'%s', 'infinity'`},
	} {
		sql(t, c, "create table "+table.name+" ("+table.columns+")")
		_, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: table.name})
		if !assert.NoErrorf(t, err, "%s", table.name) {
			continue
		}
		id := fmt.Sprintf("%02d", i)
		w := pg.Connect(t)
		sql(t, w, "set timezone = 'Asia/Tokyo'") // behind which a naive time would be hours early
		sql(t, w, "insert into "+table.name+" values ("+fmt.Sprintf(table.row, id)+")")
		f.sync(t)
		value := id
		if table.name == "typed" {
			value = "00000000-0000-0000-0000-0000000000" + id
		}
		e, here := f.Entries[jti(value).Key()]
		if assert.Truef(t, here, "%s: %+v, %t", table.name, e, here) {
			assert.GreaterOrEqualf(t, e.Expires, time.Now().Add(3*time.Hour-time.Minute).Unix(), "%s: %+v, %t", table.name, e, here)
		}
	}
	sql(t, c, `create table without (id text)`)
	for what, o := range map[string]store.BridgeOptions{
		"does not exist": {Issuer: issuer, Table: "missing"},
		"no column jti":  {Issuer: issuer, Table: "without"},
		"issuer":         {Table: "bare"},
	} {
		_, err := s.InstallBridge(t.Context(), o)
		if assert.Errorf(t, err, "%s", what) {
			assert.Containsf(t, err.Error(), what, "%v", err)
		}
	}
	_, err := open(t, sqliteURL(t), store.Options{}).InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer})
	if assert.Error(t, err, "sqlite") {
		assert.NotErrorIs(t, err, authz.ErrUnavailable, "sqlite")
	}
}

// Rows that a writer is committing while the bridge is installed are either
// copied or triggered, never missed.
func TestBridgeWhileWriting(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	c := pg.Connect(t)
	sql(t, c, `create table revoked_tokens (jti text primary key)`)
	f, s := newFollowed(t, pg.URL)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	for range 4 {
		w := pg.Connect(t)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				_, err := w.Exec(context.Background(), `insert into revoked_tokens (jti) values (gen_random_uuid()::text)`)
				if !assert.NoError(t, err, "the writer") {
					break
				}
			}
			ended <- n
		}()
	}
	harness.Eventually(t, 20*time.Second, "some rows", func(ctx context.Context) error {
		var n int
		err := c.QueryRow(ctx, "select count(*) from revoked_tokens").Scan(&n)
		if err == nil && n < 100 {
			err = fmt.Errorf("%d", n)
		}
		return err
	})
	copied, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer})
	require.NoError(t, err)
	harness.Eventually(t, 20*time.Second, "more rows", func(ctx context.Context) error {
		var n int64
		err := c.QueryRow(ctx, "select count(*) from revoked_tokens").Scan(&n)
		if err == nil && n < copied+100 {
			err = fmt.Errorf("%d", n)
		}
		return err
	})
	stop()
	total := 0
	for range 4 {
		total += <-ended
	}
	f.sync(t)
	assert.Lenf(t, f.Entries, total, "%d of %d; %d were copied", len(f.Entries), total, copied)
}

// Whatever the table's expires_at looks like, the writer's insert works, and the
// token is revoked for no shorter than it lives.
func TestBridgeExpiries(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	c := pg.Connect(t)
	in3h := time.Now().Add(3 * time.Hour).Unix()
	n, standard := 0, time.Now().Add(24*time.Hour).Unix()
	for _, w := range []struct {
		kind, value string
		want        int64 // Unix seconds
	}{
		{"bigint", fmt.Sprint(in3h), in3h},
		{"bigint", fmt.Sprint(in3h * 1000), in3h},
		{"numeric", fmt.Sprint(in3h-1) + ".5", in3h},
		{"double precision", fmt.Sprint(in3h), in3h},
		{"double precision", fmt.Sprint(in3h * 1000), in3h},
		{"double precision", "'NaN'", standard},
		{"double precision", "'Infinity'", forever},
		{"int", "3600", standard}, // a span
		{"int", "0", standard},
		{"bigint", "-1", standard},
		{"bigint", "9223372036854775807", standard},
		{"text", fmt.Sprintf("'%d'", in3h), in3h},
		{"text", "'soon'", standard},
		{"text", "'now'", standard},
		{"text", "''", standard},
		{"text", "'2030-13-45'", standard},
		{"text", "'-infinity'", standard},
		{"timestamptz", "'-infinity'", standard},
		{"text", "'20991231'", 4102358400},
		{"text", "'2099-12-31T00:00:00Z'", 4102358400},
		{"jsonb", `'{"in": 5}'`, standard},
		{"interval", "'1 hour'", standard},
		{"boolean", "true", standard},
		{"timestamptz[]", "array[now()]", standard},
	} {
		for _, setting := range []string{"datestyle = 'German'", "extra_float_digits = -15"} {
			n++
			table, value := fmt.Sprint("revoked_", n), fmt.Sprint("expiry ", n)
			sql(t, c, "create table "+table+" (jti text, expires_at "+w.kind+")")
			_, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: table})
			if !assert.NoErrorf(t, err, "%s", w.kind) {
				continue
			}
			sql(t, c, "set "+setting)
			_, err = c.Exec(t.Context(), "insert into "+table+" values ('"+value+"', "+w.value+")")
			assert.NoErrorf(t, err, "%s %s: the writer's insert fails", w.kind, w.value)
			sql(t, c, "reset all")
			f.sync(t)
			e := f.Entries[jti(value).Key()]
			assert.GreaterOrEqualf(t, e.Expires, w.want, "%s %s, with %s: until %s, want %s", w.kind, w.value, setting, time.Unix(e.Expires, 0), time.Unix(w.want, 0))
			assert.LessOrEqualf(t, e.Expires, w.want+300, "%s %s, with %s: until %s, want %s", w.kind, w.value, setting, time.Unix(e.Expires, 0), time.Unix(w.want, 0))
			// What is in the table when the bridge is put on it is read likewise.
			n, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: "https://again.example", Table: table})
			assert.Equalf(t, int64(1), n, "%s %s: taken over, %v", w.kind, w.value, err)
			assert.NoErrorf(t, err, "%s %s: %d taken over", w.kind, w.value, n)
		}
	}
}

const forever = authz.LastSecond

// Rows that arrive by logical replication are committed by the writer like any
// others, wherever that is, in a partitioned table too.
func TestBridgeReplicatedRows(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t, "wal_level", "logical")
	at, from := pg, pg.NewDatabase(t)
	f, s := newFollowed(t, at.URL)
	columns := `(jti text, region int) partition by list (region)`
	for _, db := range []*harness.PG{at, from} {
		db.Exec(t, "create table revoked_tokens "+columns)
		db.Exec(t, "create table eu partition of revoked_tokens for values in (1)")
	}
	_, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer})
	require.NoError(t, err)
	at.Exec(t, "create table us partition of revoked_tokens for values in (2)")
	from.Exec(t, "create table us partition of revoked_tokens for values in (2)")
	from.Exec(t, "create publication everything for all tables")
	from.Exec(t, "select pg_create_logical_replication_slot('one', 'pgoutput')")
	c := at.Connect(t)
	sql(t, c, fmt.Sprintf("create subscription one connection '%s' publication everything with (create_slot = false, slot_name = 'one', copy_data = false)", from.URL))
	defer func() {
		for _, q := range []string{"alter subscription one disable", "alter subscription one set (slot_name = none)", "drop subscription one"} {
			sql(t, c, q)
		}
	}()
	from.Exec(t, "insert into revoked_tokens values ('a', 1), ('b', 2)")
	harness.Eventually(t, 20*time.Second, "the rows", func(ctx context.Context) error {
		var n int
		err := c.QueryRow(ctx, "select count(*) from revoked_tokens").Scan(&n)
		if err == nil && n != 2 {
			err = fmt.Errorf("%d", n)
		}
		return err
	})
	f.sees(t, map[string]bool{"a": true, "b": true})
	sql(t, c, "create table later (jti text)")
	_, err = s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: "later"})
	require.NoError(t, err)
	sql(t, c, "set session_replication_role = replica")
	sql(t, c, "insert into later values ('c')")
	f.sees(t, map[string]bool{"c": true})
}

// Where the revocations are replicated as well, as in a server that is moved by
// logical replication, the bridge leaves it to them: both would meet.
func TestBridgeBesideReplicatedRevocations(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t, "wal_level", "logical")
	from, at := pg, pg.NewDatabase(t)
	for _, db := range []*harness.PG{from, at} {
		s := open(t, db.URL, store.Options{})
		db.Exec(t, "create table revoked_tokens (jti text primary key)")
		_, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer})
		require.NoError(t, err)
	}
	from.Exec(t, "create publication one for table revoked_tokens, authz.revocations")
	from.Exec(t, "select pg_create_logical_replication_slot('one', 'pgoutput')")
	c := at.Connect(t)
	sql(t, c, fmt.Sprintf("create subscription one connection '%s' publication one with (create_slot = false, slot_name = 'one', copy_data = false)", from.URL))
	defer func() {
		for _, q := range []string{"alter subscription one disable", "alter subscription one set (slot_name = none)", "drop subscription one"} {
			sql(t, c, q)
		}
	}()
	from.Exec(t, "insert into revoked_tokens values ('a')")
	from.Exec(t, "insert into revoked_tokens values ('b')")
	f, _ := newFollowed(t, at.URL)
	harness.Eventually(t, 20*time.Second, "both revocations", func(ctx context.Context) error {
		if _, _, err := f.Sync(ctx, f.feed); err != nil {
			return err
		}
		if len(f.Entries) != 2 {
			return fmt.Errorf("%d", len(f.Entries))
		}
		return nil
	})
}
