// Package store is the authority on revocations: what it has committed is
// revoked. It keeps them in PostgreSQL or, embedded, in one SQLite file, both
// behind the same contract (the suites in authz/authztest).
//
// It never decides about a request, and it never turns an answer that proves
// nothing into "not revoked".
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// SchemaVersion is the version of the schema that this program works with, and
// to which Migrate brings an older one.
const SchemaVersion = 1

// Errors beyond those of authz.Ledger. They wrap authz.ErrUnavailable.
var (
	// ErrSchema: the schema is missing, too old or too new for this code.
	ErrSchema = fmt.Errorf("%w: schema does not fit", authz.ErrUnavailable)
	// ErrBusy: too many lookups, or lists, are waiting already.
	ErrBusy = fmt.Errorf("%w: too many callers at once", authz.ErrUnavailable)
	// ErrForbidden: the login lacks a role for the operation.
	ErrForbidden = fmt.Errorf("%w: not permitted", authz.ErrUnavailable)
	// ErrUnproven: the answer comes from a source that proves nothing, such as
	// a hot standby.
	ErrUnproven = fmt.Errorf("%w: the answer proves nothing", authz.ErrUnavailable)
)

// Options configure a store beyond its URL. The zero value is usable.
type Options struct {
	// Password returns the password for each new connection, so that a secret in
	// a file can be rotated. Its error must not contain the secret, and fails the
	// connection. nil, or an empty result: the URL's password.
	Password func() (string, error)
	Logger   *slog.Logger          // nil: discards
	Registry prometheus.Registerer // nil: metrics are kept but not exported
	Clock    authz.Clock           // nil: authz.SystemClock

	// MaxStaleness and MaxTokenTTL are the fleet's limits. Migrate writes them
	// into the schema where they are above the stored ones. 0: 30s and 24h.
	MaxStaleness, MaxTokenTTL time.Duration

	ConnectTimeout time.Duration // for one connection, TLS and login included; 0: 2s
	LookupTimeout  time.Duration // for one point lookup, besides the caller's deadline; 0: 150ms
	WriteTimeout   time.Duration // for one Append, List or GC batch; 0: 5s
	FeedTimeout    time.Duration // silence after which a feed query is abandoned, besides the follower's own timeout; 0: 1m
	Lookups        int           // concurrent point lookups, each on its own connection; 0: 4
	Waiting        int           // lookups that may wait for a connection; further ones fail at once; 0: 256

	GCInterval time.Duration // between two collections, ±25 %; 0: 10m

	// Standbys are URLs of hot standbys of the Postgres store that may serve the
	// bulk of a full load. They prove nothing and need not be trusted.
	Standbys []string
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	def(&o.MaxStaleness, 30*time.Second)
	def(&o.MaxTokenTTL, 24*time.Hour)
	def(&o.ConnectTimeout, 2*time.Second)
	def(&o.LookupTimeout, 150*time.Millisecond)
	def(&o.WriteTimeout, 5*time.Second)
	def(&o.FeedTimeout, time.Minute)
	def(&o.GCInterval, 10*time.Minute)
	def(&o.Lookups, 4)
	def(&o.Waiting, 256)
}

func def[T int | time.Duration](option *T, value T) {
	if *option <= 0 {
		*option = value
	}
}

// Limits are the facts that every sidecar of the fleet keeps to.
type Limits struct {
	MaxStaleness time.Duration // sidecars keep to it, or to their own if that is lower
	MaxTokenTTL  time.Duration // a revocation without its own expiry lasts this long
	// Incarnation identifies the store, its history, and its limits: what was
	// read under another one is not about this one.
	Incarnation string
}

// engine is one kind of database. Store adds what all of them share: validation,
// time limits, the circuit breaker and metrics.
type engine interface {
	// Name is the label of the engine in metrics and messages.
	Name() string
	// append stores the batch in one transaction and fills it.
	append(ctx context.Context, b *batch) error
	// page returns up to limit revocations from after on, in the order of f.
	page(ctx context.Context, f authz.Filter, after place, limit int) ([]authz.Revocation, error)
	// read returns the strictest not_before for the keys.
	read(ctx context.Context, keys []authz.Key) (result, error)
	changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error)
	// collect deletes one batch of expired revocations; 0: nothing is left.
	collect(ctx context.Context, now time.Time) (int64, error)
	io.Closer

	// Migrate brings the schema up to date. Many processes may do so at once. On
	// PostgreSQL it needs the right to create schemas, and a connection that is
	// not pooled by transaction.
	// A login without that right, or that does not own the schema, is told so
	// (ErrForbidden). It gives the roles that exist their rights.
	Migrate(ctx context.Context) error
	// MissingRoles returns the SQL with which an administrator creates the roles
	// that Migrate could not create and gives them their rights. Empty: none is
	// missing, or the engine has no roles.
	MissingRoles(ctx context.Context) (sql string, err error)
	// Limits returns the fleet-wide limits in the schema. It fails if the store
	// cannot be used: it is unreachable, or its schema does not fit. The error
	// names the store and the cause.
	Limits(ctx context.Context) (Limits, error)
	// Ready returns an error once only a restart of the process helps: the SQLite
	// file has been replaced. It makes no call to a server.
	Ready() error
	// BumpEpoch makes every sidecar reload all revocations; call it after a
	// restore. Sidecars keep the revocations that they have.
	BumpEpoch(ctx context.Context) error
	// Watch calls changed whenever another connection or process may have
	// committed, until ctx ends. It is a wake-up that makes enforcement fast, and
	// never part of the proof. PostgreSQL has no cheap notification that survives
	// a pooler, so there it only waits for ctx.
	Watch(ctx context.Context, changed func()) error
	// InstallBridge copies another writer's table of revoked tokens into the
	// ledger, now and whenever a row is inserted. It returns the number of rows
	// copied now.
	InstallBridge(ctx context.Context, o BridgeOptions) (int64, error)
}

// Store is the ledger, the last tier of the chain, and the followers' feed.
// All methods but Changes may be called concurrently.
type Store struct {
	engine
	authz.AlwaysWaits
	o      Options
	met    *metrics
	clock  cautiousClock
	lookup *lookups
	lists  lists
}

var (
	_ authz.Ledger = (*Store)(nil)
	_ authz.Lister = (*Store)(nil)
	_ authz.Tier   = (*Store)(nil)
	_ authz.Feed   = (*Store)(nil)

	_ authz.PackedFeed = (*Store)(nil)
)

// Open returns the store at rawURL: postgres://user@host/db or
// sqlite:///absolute/path. It makes no network connection, so that a sidecar
// starts (not ready) while its database is unavailable, and recovers by itself.
// Errors name the store and never contain its password.
func Open(ctx context.Context, rawURL string, o Options) (*Store, error) {
	o.setDefaults()
	target, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{o: o, clock: newCautiousClock(o.Clock), lists: newLists()}
	switch target.scheme {
	case "sqlite":
		s.met = newMetrics(o.Registry, "sqlite")
		s.engine, err = openSQLite(target.path, &s.o, s.met)
	default:
		s.met = newMetrics(o.Registry, "postgres")
		s.engine, err = openPostgres(context.WithoutCancel(ctx), target, &s.o, s.met)
	}
	if err != nil {
		return nil, err
	}
	s.lookup = newLookups(s.Name(), &s.o, s.met, s.read)
	return s, nil
}

// Append implements authz.Ledger.
func (s *Store) Append(ctx context.Context, revocations []authz.Revocation) (stored authz.Appended, err error) {
	defer s.met.done("append", time.Now(), &err)
	b, err := newBatch(revocations, s.o.Clock.Now())
	if err != nil || len(b.unique) == 0 {
		return authz.Appended{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.WriteTimeout)
	defer cancel()
	if err := s.append(ctx, b); err != nil {
		return authz.Appended{}, err
	}
	return b.stored, nil
}

// List implements authz.Lister.
func (s *Store) List(ctx context.Context, f authz.Filter) (page []authz.Revocation, next string, err error) {
	defer s.met.done("list", time.Now(), &err)
	limit, after, err := pageOf(f)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.WriteTimeout)
	defer cancel()
	leave, err := s.lists.enter(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", s.Name(), err)
	}
	defer leave()
	page, err = s.page(ctx, f, after, limit+1)
	switch {
	case err != nil:
		return nil, "", err
	case len(page) > limit:
		return page[:limit], cursorAfter(f, &page[limit-1]), nil
	}
	return page, "", nil
}

// Lookup implements authz.Tier.
func (s *Store) Lookup(ctx context.Context, q *authz.Query) (v authz.Verdict, err error) {
	defer s.met.done("lookup", time.Now(), &err)
	return s.lookup.verdict(ctx, q)
}

// Changes implements authz.Feed.
func (s *Store) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (snap authz.Snapshot, err error) {
	defer s.met.done("changes", time.Now(), &err)
	if since.Last > math.MaxInt64 {
		return authz.Snapshot{}, fmt.Errorf("%s: since is not a position of this store", s.Name())
	}
	return s.changes(ctx, since, nonce, row)
}

// Close waits for lookups that are being cancelled and ends all connections.
func (s *Store) Close() error {
	s.lookup.breaker.Close()
	return s.engine.Close()
}

// GC deletes revocations that expired longer than authz.ExpiredKept ago, by the
// clock here and by the database's, and returns their number.
func (s *Store) GC(ctx context.Context) (int64, error) {
	var total int64
	for {
		n, err := s.collectBatch(ctx)
		total += n
		s.met.collected.Add(float64(n))
		if err != nil || n == 0 {
			return total, err
		}
	}
}

func (s *Store) collectBatch(ctx context.Context) (n int64, err error) {
	defer s.met.done("gc", time.Now(), &err)
	ctx, cancel := context.WithTimeout(ctx, s.o.WriteTimeout)
	defer cancel()
	return s.collect(ctx, s.clock.now())
}

// RunGC collects every Options.GCInterval, ±25 % so that a fleet does not do it
// all at once, until ctx ends or the store denies it to this login. Other
// failures are logged, and the next interval tries again.
func (s *Store) RunGC(ctx context.Context) {
	for {
		timer := time.NewTimer(breaker.Jitter(s.o.GCInterval, 0.25))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		n, err := s.GC(ctx)
		if p, packs := s.engine.(packer); packs && err == nil {
			err = p.pack(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrForbidden):
			s.o.Logger.InfoContext(ctx, "this login may not delete expired revocations: leaving that to other processes", "store", s.Name())
			return
		case err != nil:
			s.o.Logger.WarnContext(ctx, "deleting expired revocations failed", "store", s.Name(), "error", err)
		case n > 0:
			s.o.Logger.InfoContext(ctx, "deleted expired revocations", "store", s.Name(), "rows", n)
		}
	}
}
