package store_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// loginAs returns a connection of a new role that is in the given roles.
func loginAs(t testing.TB, pg *harness.PG, name string, roles ...string) (role string, c *pgx.Conn) {
	t.Helper()
	role = pg.Database + "_" + name
	pg.Exec(t, "create role "+role+" login")
	t.Cleanup(func() { sql2(pg, role) })
	for _, group := range roles {
		pg.Exec(t, "grant "+group+" to "+role)
	}
	c, err := pgx.Connect(t.Context(), strings.Replace(pg.URL, "postgres@", role+"@", 1))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return role, c
}

// fails runs statements of which none may succeed.
func fails(t testing.TB, c *pgx.Conn, statements ...string) {
	t.Helper()
	for _, text := range statements {
		_, err := c.Exec(t.Context(), text)
		assert.Errorf(t, err, "allowed: %s", text)
	}
}

// The owner of a bridged table chooses code that runs whenever its rows are read
// or turned into text. Neither the bridge nor its installation runs it with the
// rights of the owner of authz.
func TestBridgeRunsNothingOfTheTablesOwner(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	role, attacker := loginAs(t, pg, "tables")
	writer, w := loginAs(t, pg, "writer")
	pg.Exec(t, "create schema evil authorization "+role)
	for _, text := range []string{
		"create table evil.seen (what text, usr text)",
		"grant usage on schema evil to public",
		"grant insert on evil.seen to public",
		`create function evil.note(what text) returns void language plpgsql as $$ begin
			insert into evil.seen values (what, current_user); end $$`,
		`create function evil.row_hidden() returns boolean language plpgsql as $$ begin perform evil.note('policy'); return true; end $$`,
		`create function evil.constant(int) returns int language plpgsql immutable as $$ begin perform evil.note('index'); return 1; end $$`,
		"create type evil.mood as enum ('a', 'b')",
		`create function evil.as_json(evil.mood) returns json language plpgsql as $$ begin perform evil.note('cast to json'); return '"x"'; end $$`,
		"create cast (evil.mood as json) with function evil.as_json(evil.mood)",
		`create function evil.as_text(evil.mood) returns text language plpgsql as $$ begin perform evil.note('cast to text'); return 'x'; end $$`,
		"create cast (evil.mood as text) with function evil.as_text(evil.mood) as assignment",
		`create function evil.as_time(evil.mood) returns timestamptz language plpgsql as $$ begin perform evil.note('cast to time'); return now(); end $$`,
		"create cast (evil.mood as timestamptz) with function evil.as_time(evil.mood) as implicit",
		`create function evil.checked(text) returns boolean language plpgsql as $$ begin perform evil.note('domain'); return true; end $$`,
		"create domain evil.name as text check (evil.checked(value))",
		"create table evil.revoked_tokens (jti evil.name, expires_at evil.mood, user_id evil.mood, more evil.mood)",
		"create index on evil.revoked_tokens ((evil.constant(1)))",
		"insert into evil.revoked_tokens values ('before', 'a', 'a', 'a')",
		"alter table evil.revoked_tokens enable row level security",
		"create policy p on evil.revoked_tokens using (evil.row_hidden()) with check (true)",
		"grant insert on evil.revoked_tokens to " + writer,
		"delete from evil.seen",
	} {
		sql(t, attacker, text)
	}
	// The superuser installs it, who owns authz here.
	n, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: issuer, Table: "evil.revoked_tokens"})
	require.NoError(t, err)
	assert.Equal(t, int64(1), n)
	sql(t, w, "insert into evil.revoked_tokens values ('of the writer', 'a', 'a', 'a')")
	sql(t, attacker, "insert into evil.revoked_tokens values ('of the owner', 'b', 'b', 'b')")
	// Nor does the session's temporary schema, or a search_path.
	for _, name := range []string{"jsonb", "text", "timestamptz", "oid", "regclass", "int2"} {
		sql(t, attacker, `create domain pg_temp."`+name+`" as pg_catalog.`+name+` check (evil.checked('x'))`)
	}
	sql(t, attacker, `create function evil.set_config(text, text, boolean) returns text language plpgsql as $$ begin perform evil.note('path'); return null; end $$`)
	sql(t, attacker, "set search_path = evil, pg_temp, pg_catalog")
	sql(t, attacker, "insert into evil.revoked_tokens values ('of the path', 'b', 'b', 'b')")
	f.sees(t, map[string]bool{"before": true, "of the writer": true, "of the owner": true, "of the path": true})

	rows, err := pg.Connect(t).Query(t.Context(), "select distinct usr, what from evil.seen")
	require.NoError(t, err)
	seen, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var usr, what string
		err := row.Scan(&usr, &what)
		return usr + ": " + what, err
	})
	require.NoError(t, err)
	assert.Contains(t, seen, writer+": cast to json", "nothing was run and the test shows nothing")
	for _, by := range seen {
		assert.Falsef(t, strings.HasPrefix(by, "postgres:"), "the owner of authz has run the code of another: %s", by)
	}
}

// A bridge stores revocations of its own issuer and of no other, whoever writes:
// one who may insert into its table, the owner of the table, and a login that may
// revoke anyway.
func TestBridgeStoresForItsIssuerOnly(t *testing.T) {
	t.Parallel()
	const other = "https://other.example"
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	owner, tables := loginAs(t, pg, "tables")
	writer, w := loginAs(t, pg, "writer")
	_, revoker := loginAs(t, pg, "revoker", "authz_revoker", "authz_sidecar")
	pg.Exec(t, "create schema app authorization "+owner)
	pg.Exec(t, "grant all on schema public to "+owner)
	sql(t, tables, "create table app.revoked_tokens (jti text, region int) partition by list (region)")
	sql(t, tables, "create table app.eu partition of app.revoked_tokens for values in (1)")
	sql(t, tables, "grant usage on schema app to "+writer)
	sql(t, tables, "grant insert on app.revoked_tokens to "+writer)
	pg.Exec(t, "create table others (jti text)")
	for table, iss := range map[string]string{"app.revoked_tokens": issuer, "others": other} {
		_, err := s.InstallBridge(t.Context(), store.BridgeOptions{Issuer: iss, Table: table})
		require.NoError(t, err)
	}
	const forged = `select set_config('authz.bridged_row', (select jsonb_build_array(c.oid::text, 'forged')::text from pg_class c where c.relname = 'others'), false)`

	// A writer can say nothing but rows of the table.
	sql(t, w, forged)
	sql(t, w, "insert into app.revoked_tokens values ('writer', 1)")
	fails(t, w, "insert into others values ('x')", "select authz.install_bridge('app.revoked_tokens', 'x')", "insert into authz.bridges values ('app.revoked_tokens', 'x')",
		"select authz.append('{1}', '{i}', '{v}', '{null}', '{null}', '{a}', '{r}', null, null)", "select authz.bridge_write()",
		"create temp table mine (jti text); create trigger a after insert on mine for each row execute function authz.bridge_write()")

	// The owner of the table adds partitions, and changes what is his.
	sql(t, tables, "create table app.us partition of app.revoked_tokens for values in (2)")
	sql(t, tables, "insert into app.revoked_tokens values ('partition', 2)")
	sql(t, tables, "create table app.mine (jti text)")
	fails(t, tables, "create trigger a after insert on app.mine for each row execute function authz.bridge_write()", "select authz.remove_bridge('others')")
	// Text of his own invention counts as what it is: a row of his table.
	sql(t, tables, "alter table app.eu disable trigger authz_bridge_read")
	sql(t, tables, forged)
	fails(t, tables, "insert into app.eu values ('x', 1)") // the text is about another table
	sql(t, tables, `select set_config('authz.bridged_row', jsonb_build_array('app.eu'::regclass::oid::text, 'invented')::text, false)`)
	sql(t, tables, "insert into app.eu values ('x', 1)")
	sql(t, tables, "alter table app.eu enable always trigger authz_bridge_read")

	// A revoker may revoke for any issuer, but opens no door for others.
	sql(t, revoker, "create temp table mine (jti text)")
	fails(t, revoker, "insert into authz.bridges values ('mine', 'x')", "update authz.bridges set iss = 'x'", "select authz.install_bridge('mine', 'x')",
		"create trigger a after insert on mine for each row execute function authz.bridge_write()")

	// With the right to use the function, a trigger still stores nothing for a
	// table that is not registered.
	pg.Exec(t, "grant usage on schema authz to "+owner)
	sql(t, tables, "create trigger a after insert on app.mine for each row execute function authz.bridge_read()")
	sql(t, tables, "create trigger b after insert on app.mine for each row execute function authz.bridge_write()")
	fails(t, tables, "insert into app.mine values ('x')")

	f.sees(t, map[string]bool{"writer": true, "partition": true, "invented": true})
	assert.Len(t, f.Entries, 3, "something else is revoked")
	page, _, err := s.List(t.Context(), authz.Filter{Issuer: other})
	require.NoError(t, err)
	assert.Emptyf(t, page, "revoked for another issuer")

	// Removed, it stores nothing more, and what it has stored stays.
	c := pg.Connect(t)
	sql(t, c, "select authz.remove_bridge('app.revoked_tokens')")
	sql(t, tables, "insert into app.revoked_tokens values ('afterwards', 1)")
	f.sees(t, map[string]bool{"writer": true, "afterwards": false})
}
