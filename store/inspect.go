package store

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"jwtbouncer/authz"
)

// Inspection is what can be learnt about a store by reading. A field of the engine
// that it does not name is zero.
type Inspection struct {
	Engine string // "postgres" or "sqlite"
	Where  string // host, port and database, or the file

	// Schema is the version of the schema; 0: there is none. NeedSchema is the one
	// that this program works with.
	Schema, NeedSchema int
	SchemaErr          error         // why the version could not be read
	Follows            bool          // the server receives revocations from another one
	Skew               time.Duration // how far the server's clock is ahead of the one here
	SkewError          time.Duration // Skew is right within this

	Postgres PostgresInspection
	File     FileInspection
}

// PostgresInspection is the part about a PostgreSQL server and this login.
type PostgresInspection struct {
	Version           int // server_version_num: 150004
	Encoding          string
	Login             string
	Superuser         bool
	Attributes        []string // further role attributes that the login has: CREATEDB
	Missing           []string // functions of the schema that sidecars call and the login may not
	MissingRevoker    []string // the same of the revocation API
	Excess            []string // what the login may do that a sidecar does not need
	SuperuserOwner    string   // the superuser that owns the schema; empty: no superuser does
	SynchronousCommit string
	Durability        []string // settings under which stored revocations can be lost: fsync=off
	JIT               bool
	JITAboveCost      float64
	StatementTimeout  time.Duration // 0: none
	Local             bool          // a loopback address or a Unix socket
	TLS               bool          // the connection is encrypted
	Verified          bool          // and the server's certificate is verified
	Pooler            string        // "": direct; else "session" or "transaction": the way it pools
	PoolerVersion     string        // of pgbouncer, as it tells; empty: it does not
}

// FileInspection is the part about a SQLite file.
type FileInspection struct {
	Missing bool
	Mode    fs.FileMode
	DirMode fs.FileMode
}

// Inspect reads what there is to know about the store at rawURL. Unlike a Store, it
// also connects to a database that a sidecar would refuse, and creates no file. An
// error means that the store cannot be reached.
func Inspect(ctx context.Context, rawURL string, o Options) (Inspection, error) {
	o.setDefaults()
	t, err := parseURL(rawURL)
	if err != nil {
		return Inspection{}, fmt.Errorf("store: %w", err)
	}
	if t.scheme == "sqlite" {
		return inspectSQLite(ctx, t.path)
	}
	return inspectPostgres(ctx, t, &o)
}

func inspectSQLite(ctx context.Context, path string) (Inspection, error) {
	in := Inspection{Engine: "sqlite", Where: path, NeedSchema: SchemaVersion}
	if dir, err := os.Stat(filepath.Dir(path)); err == nil {
		in.File.DirMode = dir.Mode()
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		in.File.Missing = true
		return in, nil
	}
	if err != nil {
		return in, err
	}
	in.File.Mode = info.Mode()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(1000)", "query_only(1)"}}.Encode()}).String())
	if err != nil {
		return in, err
	}
	defer db.Close()
	var tables int
	if err := db.QueryRowContext(ctx, `select count(*) from sqlite_schema where name = 'meta'`).Scan(&tables); err != nil {
		return in, fmt.Errorf("sqlite %s: %w", path, err)
	}
	if tables > 0 {
		in.SchemaErr = db.QueryRowContext(ctx, `select schema_version from meta`).Scan(&in.Schema)
	}
	return in, nil
}

// sidecarCalls and revokerCalls are the functions that the two roles of the schema
// may execute.
var (
	sidecarCalls = []string{"sync", "changes", "lookup", "about", "packed", "pack_data", "admit", "pack"}
	revokerCalls = []string{"revoke", "gc", "about", "pack"}
)

func inspectPostgres(ctx context.Context, t target, o *Options) (Inspection, error) {
	in := Inspection{Engine: "postgres", NeedSchema: SchemaVersion}
	pool, err := pgxpool.ParseConfig(t.raw)
	if err != nil {
		return in, fmt.Errorf("store: postgres: %w", err) // pgconn masks the password
	}
	p := &postgresStore{o: o}
	c := pool.ConnConfig
	p.session(c)
	c.ValidateConnect = nil // the encoding is a finding here
	in.Where = fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database)
	connect := func(c *pgx.ConnConfig) (*pgx.Conn, error) {
		if err := p.login(ctx, c); err != nil {
			return nil, err
		}
		return pgx.ConnectConfig(ctx, c)
	}
	conn, err := connect(c)
	if err != nil {
		return in, fmt.Errorf("postgres %s: %w", in.Where, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := in.readServer(ctx, conn); err != nil {
		return in, fmt.Errorf("postgres %s: %w", in.Where, err)
	}
	_, in.Postgres.TLS = conn.PgConn().Conn().(*tls.Conn)
	in.Postgres.Verified = in.Postgres.TLS && c.TLSConfig != nil && (!c.TLSConfig.InsecureSkipVerify || c.TLSConfig.VerifyPeerCertificate != nil)
	in.Postgres.Local = strings.HasPrefix(c.Host, "/") || authz.IsLoopback(c.Host)
	if err := in.readSchema(ctx, conn); err != nil {
		return in, fmt.Errorf("postgres %s: %w", in.Where, err)
	}
	if err := in.readPooler(ctx, conn, func(database string) (*pgx.Conn, error) {
		other := c.Copy()
		if database != "" {
			other.Database = database
		}
		return connect(other)
	}); err != nil {
		return in, fmt.Errorf("postgres %s: %w", in.Where, err)
	}
	return in, nil
}

// readServer reads the settings of the server and the login's attributes.
func (in *Inspection) readServer(ctx context.Context, conn *pgx.Conn) error {
	p := &in.Postgres
	var createDB, createRole, replication, bypass bool
	var fsync, pages, role, jit string
	var timeout int64
	var clock float64
	before := time.Now()
	if err := conn.QueryRow(ctx, `select extract(epoch from clock_timestamp())::float8`).Scan(&clock); err != nil {
		return err
	}
	in.SkewError = time.Since(before) / 2
	in.Skew = time.UnixMicro(int64(clock * 1e6)).Sub(before.Add(in.SkewError))
	err := conn.QueryRow(ctx, `select current_setting('server_version_num')::int, current_setting('server_encoding'), current_user,
			r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication, r.rolbypassrls,
			current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'), current_setting('session_replication_role'),
			current_setting('jit'), current_setting('jit_above_cost')::float8, (select s.setting::bigint from pg_settings s where s.name = 'statement_timeout'),
			pg_is_in_recovery()
		from pg_roles r where r.rolname = current_user`).
		Scan(&p.Version, &p.Encoding, &p.Login, &p.Superuser, &createDB, &createRole, &replication, &bypass,
			&p.SynchronousCommit, &fsync, &pages, &role, &jit, &p.JITAboveCost, &timeout, &in.Follows)
	if err != nil {
		return err
	}
	p.JIT, p.StatementTimeout = jit == "on", time.Duration(timeout)*time.Millisecond
	for _, a := range []struct {
		has  bool
		name string
	}{{createDB, "CREATEDB"}, {createRole, "CREATEROLE"}, {replication, "REPLICATION"}, {bypass, "BYPASSRLS"}} {
		if a.has {
			p.Attributes = append(p.Attributes, a.name)
		}
	}
	for _, s := range []struct{ name, is, want string }{{"fsync", fsync, "on"}, {"full_page_writes", pages, "on"}, {"session_replication_role", role, "origin"}} {
		if s.is != s.want {
			p.Durability = append(p.Durability, s.name+" = "+s.is)
		}
	}
	return nil
}

// readSchema reads the schema's version, and what the login may do with it.
func (in *Inspection) readSchema(ctx context.Context, conn *pgx.Conn) error {
	p := &in.Postgres
	var owner string
	var superuser, owns bool
	err := conn.QueryRow(ctx, `select r.rolname, r.rolsuper, pg_has_role(current_user, r.oid, 'usage')
		from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = 'authz'`).Scan(&owner, &superuser, &owns)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // no schema
	}
	if err != nil {
		return err
	}
	if superuser {
		p.SuperuserOwner = owner
	}
	if owns {
		p.Excess = append(p.Excess, "it has the rights of "+owner+", which owns the schema")
	}
	rows, err := conn.Query(ctx, `select p.proname, has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'authz'`)
	if err != nil {
		return err
	}
	may := map[string]bool{}
	var name string
	var allowed bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &allowed}, func() error { may[name] = allowed; return nil }); err != nil {
		return err
	}
	missing := func(calls []string) []string {
		return slices.DeleteFunc(slices.Clone(calls), func(f string) bool { return may[f] })
	}
	p.Missing, p.MissingRevoker = missing(sidecarCalls), missing(revokerCalls)
	rows, err = conn.Query(ctx, `select c.relname, c.relpersistence = 'u',
			array_to_string(array(select r from unnest(array['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) r where has_table_privilege(c.oid, r)), ', '),
			array_to_string(array(select t.tgname::text from pg_trigger t where t.tgrelid = c.oid and t.tgenabled in ('D', 'R') and not t.tgisinternal order by 1), ', ')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'authz' and c.relname in ('revocations', 'meta') and c.relkind = 'r'`)
	if err != nil {
		return err
	}
	var table, rights, disabled string
	var unlogged bool
	if _, err := pgx.ForEachRow(rows, []any{&table, &unlogged, &rights, &disabled}, func() error {
		if unlogged {
			p.Durability = append(p.Durability, "the table authz."+table+" is unlogged")
		}
		if disabled != "" {
			p.Durability = append(p.Durability, "triggers of authz."+table+" are disabled: "+disabled)
		}
		if rights != "" && !owns {
			p.Excess = append(p.Excess, rights+" on authz."+table)
		}
		return nil
	}); err != nil {
		return err
	}
	if may["about"] {
		in.SchemaErr = conn.QueryRow(ctx, `select schema_version, follows from authz.about()`).Scan(&in.Schema, &in.Follows)
	} else {
		in.SchemaErr = errors.New("this login may not execute authz.about")
	}
	return nil
}

// readPooler finds out whether a pooler is between here and the server. A pooler
// gives its clients a key of its own for cancel requests, whose process ID is not
// that of the server's session.
func (in *Inspection) readPooler(ctx context.Context, conn *pgx.Conn, connect func(database string) (*pgx.Conn, error)) error {
	session := func(c *pgx.Conn) (pid uint32, err error) {
		err = c.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid)
		return pid, err
	}
	pid, err := session(conn)
	if err != nil || pid == conn.PgConn().PID() {
		return err
	}
	p := &in.Postgres
	p.Pooler = "session"
	// While both clients are connected, only a pooler that pools by transaction
	// lends them the same session.
	other, err := connect("")
	if err != nil {
		return err
	}
	defer other.Close(context.WithoutCancel(ctx))
	second, err := session(other)
	if err != nil {
		return err
	}
	if second == pid {
		p.Pooler = "transaction"
	}
	// pgbouncer's own database tells its version, to logins that may ask.
	if admin, err := connect("pgbouncer"); err == nil {
		defer admin.Close(context.WithoutCancel(ctx))
		results, err := admin.PgConn().Exec(ctx, "show version").ReadAll()
		if err == nil && len(results) == 1 && len(results[0].Rows) == 1 && len(results[0].Rows[0]) == 1 {
			p.PoolerVersion = strings.TrimPrefix(string(results[0].Rows[0][0]), "PgBouncer ")
		}
	}
	return nil
}
