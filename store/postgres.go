package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"jwtbouncer/authz"
)

// postgresStore keeps the ledger in PostgreSQL. Lookups, writes, lists and the
// feed have connections of their own, so that none can starve another.
type postgresStore struct {
	where    string // host and database, for messages
	config   *pgx.ConnConfig
	reads    *pgxpool.Pool // point lookups
	writes   *pgxpool.Pool // append, collect, Limits
	lists    *pgxpool.Pool // page
	feed     feedConn
	calls    caller
	limit    atomic.Pointer[knownLimit] // of the last lookup that told it; nil: none yet
	standbys []*pgx.ConnConfig          // serve chunks of packed snapshots
	o        *Options
	met      *metrics
}

var _ engine = (*postgresStore)(nil)

func openPostgres(ctx context.Context, t target, o *Options, met *metrics) (*postgresStore, error) {
	pool, err := pgxpool.ParseConfig(t.raw)
	if err != nil {
		// pgconn's message is made to be shown: it masks the password.
		return nil, fmt.Errorf("store: postgres: %w", err)
	}
	c := pool.ConnConfig
	p := &postgresStore{where: fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database), o: o, met: met, calls: caller{log: o.Logger}}

	p.session(c)
	p.config = c
	if err := p.openStandbys(o.Standbys); err != nil {
		return nil, err
	}

	reads, writes, lists := pool.Copy(), pool.Copy(), pool.Copy()
	reads.MaxConns = int32(o.Lookups)
	reads.MinIdleConns = 1 // the first lookup of an emergency must not wait for TLS and login
	writes.MaxConns = 2    // revoking is rare, and batches are large
	lists.MaxConns = listsRunning
	for _, q := range []*pgxpool.Config{reads, writes, lists} {
		q.MaxConnLifetime = 30 * time.Minute // finds a moved primary, rebalances a pooler
		q.MaxConnLifetimeJitter = 10 * time.Minute
		q.MaxConnIdleTime = 5 * time.Minute
		q.HealthCheckPeriod = 5 * time.Second // an outage's lost idle connection is replaced by then
		q.PingTimeout = 100 * time.Millisecond
		q.BeforeConnect = p.dial
		q.AfterConnect = p.connected
	}
	for _, q := range []struct {
		pool   **pgxpool.Pool
		config *pgxpool.Config
	}{{&p.reads, reads}, {&p.writes, writes}, {&p.lists, lists}} {
		if *q.pool, err = pgxpool.NewWithConfig(ctx, q.config); err != nil {
			p.closePools()
			return nil, fmt.Errorf("store: postgres: %w", err)
		}
	}
	return p, nil
}

// session sets what a connection needs.
func (p *postgresStore) session(c *pgx.ConnConfig) {
	// The simple protocol takes one round trip and prepares nothing (pgbouncer
	// may run a statement in another session), and it reports completion after
	// the commit, where the extended protocol reports it before.
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	// Only parameters that pgbouncer accepts at login. statement_timeout is not
	// among them, so statements are bounded from here (see canceller) and by
	// lock_timeout inside the schema's functions.
	c.RuntimeParams["application_name"] = cmp.Or(c.RuntimeParams["application_name"], "jwt-bouncer")
	c.RuntimeParams["client_encoding"] = "UTF8"
	c.RuntimeParams["standard_conforming_strings"] = "on"
	if c.ConnectTimeout == 0 || c.ConnectTimeout > p.o.ConnectTimeout {
		c.ConnectTimeout = p.o.ConnectTimeout
	}
	c.BuildContextWatcherHandler = newCanceller
	c.OnNotice = noticed
	c.ValidateConnect = requireUTF8(c.ValidateConnect)
}

func (p *postgresStore) closePools() {
	for _, pool := range []*pgxpool.Pool{p.reads, p.writes, p.lists} {
		if pool != nil {
			pool.Close()
		}
	}
}

// dial counts connection attempts; connected counts successes.
func (p *postgresStore) dial(ctx context.Context, c *pgx.ConnConfig) error {
	p.met.connects.WithLabelValues("tried").Inc()
	return p.login(ctx, c)
}

// login sets the current password on a new connection.
func (p *postgresStore) login(_ context.Context, c *pgx.ConnConfig) error {
	if p.o.Password == nil {
		return nil
	}
	password, err := p.o.Password()
	if err != nil {
		return err
	}
	if password != "" {
		c.Password = password
	}
	return nil
}

func (p *postgresStore) connected(context.Context, *pgx.Conn) error {
	p.met.connects.WithLabelValues("ok").Inc()
	return nil
}

func (p *postgresStore) Name() string { return "postgres" }

// fail names the store and classifies the cause, for statements that certainly
// stored nothing.
func (p *postgresStore) fail(err error) error {
	switch {
	case errors.Is(err, ErrSchema):
		return fmt.Errorf("postgres %s: %w", p.where, err)
	case err == nil, errors.Is(err, authz.ErrUnavailable), errors.Is(err, authz.ErrInvalid), errors.Is(err, authz.ErrOutcomeUnknown):
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "3F000", "42883", "42P01", "42703", "P0002": // schema, function, table, column or row missing
			return fmt.Errorf("%w: postgres %s: %w (is it installed? run `jwt-bouncer migrate`)", ErrSchema, p.where, err)
		case "42501":
			return fmt.Errorf("%w: postgres %s: %w (grant authz_sidecar or authz_revoker to this login; if it has them, run `jwt-bouncer migrate` as the schema's owner, which gives the roles their rights)", ErrForbidden, p.where, err)
		}
		if len(pg.Code) == 5 && (pg.Code[:2] == "22" || pg.Code[:2] == "23") {
			return fmt.Errorf("%w: %w", authz.ErrInvalid, err)
		}
	}
	return fmt.Errorf("%w: postgres %s: %w", authz.ErrUnavailable, p.where, err)
}

// followsAnother says why a server that receives revocations from another one
// proves nothing by their absence.
const followsAnother = "it is a hot standby, or a subscription brings its revocations; connect to the server where they are committed (target_session_attrs=primary)"

func (p *postgresStore) Limits(ctx context.Context) (Limits, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.WriteTimeout)
	defer cancel()
	var version int
	var staleness, ttl int64
	var follows bool
	var limits Limits
	err := p.writes.QueryRow(ctx, `select schema_version, (extract(epoch from max_staleness) * 1000000)::bigint, (extract(epoch from max_token_ttl) * 1000000)::bigint,
		follows, incarnation from authz.about()`).
		Scan(&version, &staleness, &ttl, &follows, &limits.Incarnation)
	if err == nil {
		err = checkSchema(version)
	}
	if err != nil {
		return Limits{}, p.fail(err)
	}
	if follows {
		return Limits{}, fmt.Errorf("postgres %s: %w: %s", p.where, ErrUnproven, followsAnother)
	}
	limits.MaxStaleness, limits.MaxTokenTTL = micro(staleness), micro(ttl)
	return limits, nil
}

// The settings of a database or a login (datestyle, bytea_output, array_nulls,
// extra_float_digits) change the text form of values, the only one that the
// simple protocol has, and behind a pooler a session cannot override them. So
// queries return numbers, and bytes in hex.
const (
	pgExpiry    = `authz.expiry(expires_at, ttl_from, (select max_token_ttl from authz.meta))`
	pgNotBefore = `(extract(epoch from not_before) * 1000000)::bigint`
	pgExpiresAt = `(extract(epoch from ` + pgExpiry + `) * 1000000)::bigint`
	pgRevokedAt = `(extract(epoch from revoked_at) * 1000000)::bigint`
)

func micro(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

func (p *postgresStore) collect(ctx context.Context, now time.Time) (n int64, err error) {
	err = p.writes.QueryRow(ctx, `select authz.gc($1::timestamptz)`, now).Scan(&n)
	return n, p.fail(err)
}

func (*postgresStore) Ready() error { return nil }

func (*postgresStore) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func (p *postgresStore) Close() error {
	p.feed.close(context.Background())
	p.closePools()
	return nil
}
