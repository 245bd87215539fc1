package doctor

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/cache/rediscache"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// found returns the results that are not OK, as "id status".
func found(r *Report) []string {
	var out []string
	for _, x := range bad(r.Results()) {
		out = append(out, x.ID+" "+string(x.Status))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// settings are those of a sidecar with the store.
func settings(store string) sidecar.Settings {
	s := sidecar.Defaults()
	s.Store = store
	return s
}

// installed is a database as docs/store.md recommends: the schema belongs to a
// role of its own, and the login app has the rights of a sidecar.
type installed struct {
	*harness.PG
	app, owner string // logins; roles belong to the whole server, so they have the database's name
	url        string // of app
}

func install(t *testing.T, pg *harness.PG) installed {
	t.Helper()
	i := installed{PG: pg, app: "app_" + pg.Database, owner: "owner_" + pg.Database}
	for _, sql := range []string{
		"create role " + i.owner + " login createrole", "create role " + i.app + " login",
		"grant create on database " + pg.Database + " to " + i.owner,
		"do $$ begin create role authz_sidecar; exception when others then null; end $$", "do $$ begin create role authz_revoker; exception when others then null; end $$",
	} {
		pg.Exec(t, sql)
	}
	i.migrate(t, i.as(i.owner))
	pg.Exec(t, "grant authz_sidecar, authz_revoker to "+i.app)
	pg.Exec(t, "alter role "+i.app+" set statement_timeout = '30s'")
	t.Cleanup(func() {
		c := pg.Connect(t)
		_, _ = c.Exec(t.Context(), "drop owned by "+i.owner+" cascade; drop role "+i.app+"; drop role "+i.owner)
	})
	i.url = i.as(i.app)
	return i
}

func (i installed) as(login string) string {
	return strings.Replace(i.URL, "postgres@", login+"@", 1)
}

func (installed) migrate(t *testing.T, url string) {
	t.Helper()
	st, err := store.Open(t.Context(), url, store.Options{})
	require.NoError(t, err)
	defer st.Close()
	require.NoError(t, st.Migrate(t.Context()))
}

func examineStore(t *testing.T, s sidecar.Settings) *Report {
	t.Helper()
	var r Report
	r.Store(t.Context(), s)
	return &r
}

func TestStoreOfTheDocumentation(t *testing.T) {
	t.Parallel()
	i := install(t, harness.Postgres(t))
	r := examineStore(t, settings(i.url))
	for _, x := range bad(r.Results()) {
		if x.ID != "store.durability" { // the servers of the tests do without fsync
			assert.Failf(t, x.ID, "%+v", x)
		}
	}
	assert.Greater(t, r.Count(OK), 12)
}

// TestStoreFindings: each change of a sound database, and what the doctor says.
func TestStoreFindings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		sql   []string // APP and DB stand for the login and the database
		login string   // of the sidecar; empty: APP
		api   bool
		want  string
		found string
	}{
		{"superuser", nil, "postgres", false, "store.superuser failure", "postgres is a superuser"},
		{"attributes", []string{"alter role APP createdb createrole"}, "", false, "store.attributes warning", "CREATEDB, CREATEROLE"},
		{"owner", nil, "OWNER", false, "store.excess warning", "owns the schema"},
		{"rights of a table", []string{"grant update, delete on authz.revocations to APP"}, "", false, "store.excess warning", "UPDATE, DELETE on authz.revocations"},
		{"superuser owns the schema", []string{"alter schema authz owner to postgres"}, "", false, "store.owner warning", "postgres owns"},
		{"no rights", []string{"revoke authz_sidecar from APP", "revoke authz_revoker from APP"}, "", false, "store.rights failure", "authz.sync"},
		{"no rights to revoke", []string{"revoke authz_revoker from APP"}, "", true, "store.rights failure", "authz.revoke"},
		{"another version", []string{"alter table authz.meta disable trigger user", "update authz.meta set schema_version = 99"}, "", false, "store.schema failure", "version 99"},
		{"no schema", []string{"drop schema authz cascade"}, "", false, "store.schema failure", "no schema"},
		{"synchronous_commit", []string{"alter role APP set synchronous_commit = off"}, "", false, "store.synchronous_commit warning", "off"},
		{"JIT", []string{"alter role APP set jit = on", "alter role APP set jit_above_cost = 10"}, "", false, "store.jit warning", "10"},
		{"statement_timeout", []string{"alter role APP set statement_timeout = 0"}, "", false, "store.statement_timeout warning", ""},
		{"disabled trigger", []string{"alter table authz.revocations disable trigger revocation_durable"}, "", false, "store.durability failure", "revocation_durable"},
		{"replication role", []string{"alter role APP set session_replication_role = replica"}, "", false, "store.durability failure", "session_replication_role = replica"},
		{"unlogged", []string{"alter table authz.revocations set unlogged"}, "", false, "store.durability failure", "authz.revocations is unlogged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := install(t, harness.Postgres(t))
			name := strings.NewReplacer("APP", i.app, "OWNER", i.owner, "DB", i.Database)
			for _, sql := range c.sql {
				i.Exec(t, name.Replace(sql))
			}
			url := i.url
			if c.login != "" {
				url = i.as(name.Replace(c.login))
			}
			s := settings(url)
			if c.api {
				s.API.TokenFile = "/some/file"
			}
			r := examineStore(t, s)
			assert.Containsf(t, found(r), c.want, "%+v", r.Results())
			for _, x := range bad(r.Results()) {
				if x.ID+" "+string(x.Status) == c.want {
					assert.Contains(t, x.Found, c.found)
				}
			}
		})
	}
}

func TestStoreInAnotherEncoding(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	pg.Exec(t, "create database latin encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'")
	assert.Contains(t, found(examineStore(t, settings(pg.Use("latin").URL))), "store.encoding failure")
}

func TestStoreBehindPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pg := harness.OwnPostgres(t)
			pooler := harness.PgBouncer(t, pg, mode, "admin_users = postgres")
			r := examineStore(t, settings(pg.Via(pooler.Addr)))
			i := slices.IndexFunc(r.Results(), func(x Result) bool { return x.ID == "store.pooler" })
			require.GreaterOrEqual(t, i, 0)
			assert.Contains(t, r.Results()[i].Found, "is behind pgbouncer 1.")
			assert.Contains(t, r.Results()[i].Found, "by "+mode)
		})
	}
}

func TestPoolerVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]Status{"1.18.0": Failure, "1.19.1": Failure, "1.20.0": OK, "1.25.2": OK, "": NotExamined} {
		var r Report
		r.pooler("here", store.PostgresInspection{Pooler: "transaction", PoolerVersion: version})
		assert.Equalf(t, want, r.Results()[0].Status, "%q", version)
	}
}

func TestStoppedServers(t *testing.T) {
	t.Parallel()
	pg, redis := harness.OwnPostgres(t), harness.Redis(t)
	pg.Stop()
	redis.Stop()
	assert.Equal(t, []string{"store.reachable failure"}, found(examineStore(t, settings(pg.URL))))
	s := settings(pg.URL)
	s.Redis.URL = redis.URL
	assert.Equal(t, []string{"redis.reachable failure"}, found(examineRedis(t, s)))
}

func TestClocksOfServers(t *testing.T) {
	t.Parallel()
	clock := harness.NewClock(t)
	pg, redis := harness.OwnPostgresAt(t, clock), harness.RedisAt(t, clock)
	s := settings(pg.URL)
	s.Redis.URL = redis.URL
	for _, c := range []struct {
		step time.Duration
		want string
	}{{0, ""}, {-time.Minute, "warning"}, {time.Hour, "failure"}} {
		clock.Step(c.step)
		for id, r := range map[string]*Report{"clocks.store": examineStore(t, s), "clocks.redis": examineRedis(t, s)} {
			if c.want == "" {
				assert.NotContains(t, strings.Join(found(r), " "), id)
				continue
			}
			assert.Containsf(t, found(r), id+" "+c.want, "step %s", c.step)
		}
	}
}

func TestSQLiteFile(t *testing.T) {
	t.Parallel()
	path := harness.Dir(t) + "/r.db"
	s := settings("sqlite://" + path)
	assert.Equal(t, []string{"store.schema warning"}, found(examineStore(t, s)))
	assert.NoFileExists(t, path, "the doctor creates nothing")
	installed{}.migrate(t, s.Store)
	assert.Empty(t, bad(examineStore(t, s).Results()))
	require.NoError(t, os.Chmod(path, 0o644))
	assert.Equal(t, []string{"store.file warning"}, found(examineStore(t, s)))
	require.NoError(t, os.Chmod(path, 0o660))
	assert.Equal(t, []string{"store.file failure"}, found(examineStore(t, s)))
}

func examineRedis(t *testing.T, s sidecar.Settings) *Report {
	t.Helper()
	var r Report
	r.Redis(t.Context(), s)
	return &r
}

func TestRedisFindings(t *testing.T) {
	t.Parallel()
	s := settings("sqlite:///nowhere")
	assert.Empty(t, examineRedis(t, s).Results(), "without Redis")
	for policy, want := range map[string][]string{"noeviction": nil, "allkeys-lru": {"redis.maxmemory_policy warning"}, "volatile-ttl": {"redis.maxmemory_policy warning"}} {
		server := harness.Redis(t, "maxmemory-policy", policy)
		s.Redis.URL = server.URL
		assert.Equal(t, want, found(examineRedis(t, s)), policy)
		assert.EqualValues(t, 0, server.Do(t, "DBSIZE"), "the doctor stores nothing")
	}
	master := harness.Redis(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := harness.Redis(t, "replicaof", host+" "+port)
	s.Redis.URL = replica.URL
	assert.Contains(t, found(examineRedis(t, s)), "redis.role failure")
}

// TestRedisACL: with the ACL rule of docs/redis.md the doctor finds no fault, and
// says what it could not see.
func TestRedisACL(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/redis.md")
	require.NoError(t, err)
	_, rule, _ := strings.Cut(string(page), "\nuser jwt_bouncer on >… ")
	rule, _, _ = strings.Cut(rule, "\n")
	server := harness.Redis(t)
	s := settings("sqlite:///nowhere")
	s.Redis.URL = strings.Replace(server.URL, "://", "://jwt_bouncer:secret@", 1)
	set := func(rules ...string) {
		args := []any{"ACL", "SETUSER", "jwt_bouncer", "reset", "on", ">secret"}
		for _, r := range rules {
			args = append(args, r)
		}
		server.Do(t, args...)
	}
	set(strings.Fields(rule)...)
	assert.Equal(t, []string{"redis.maxmemory_policy not_examined"}, found(examineRedis(t, s)))
	set(strings.Fields(strings.Replace(rule, "&"+rediscache.Channel, "", 1))...)
	r := examineRedis(t, s)
	assert.Contains(t, found(r), "redis.subscription failure")
	s.Redis.URL = strings.Replace(s.Redis.URL, "secret", "wrong-password", 1)
	r = examineRedis(t, s)
	assert.Equal(t, []string{"redis.reachable failure"}, found(r))
	assert.NotContains(t, fmt.Sprint(r.Results()), "wrong-password")
}

func TestRedisJudgement(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]Status{"6.0.9": Failure, "6.2.0": OK, "9.1.2": OK, "": NotExamined} {
		var r Report
		r.redisVersion("here", version)
		assert.Equalf(t, want, r.Results()[0].Status, "%q", version)
	}
}
