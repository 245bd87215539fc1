package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/cache"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

func TestURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://user@host/db":                      "",
		"postgresql://user:s3cret@host:5432/db?a=b":    "",
		"sqlite:///var/lib/jwt-bouncer/revocations.db": "",
		"":                                    "a URL is needed",
		"/var/lib/x.db":                       "a URL is needed",
		"mysql://user:s3cret@host/db":         `unknown scheme "mysql"`,
		"sqlite://var/lib/x.db":               "three slashes",
		"sqlite:///":                          "absolute path of a file",
		"sqlite:///dir/":                      "absolute path of a file",
		"sqlite:///x.db?mode=memory":          "takes no parameters",
		"postgres://user:s3cret@ho st/db":     "malformed",
		"postgres://user:s3c%zzret@host/d":    "malformed",
		"postgres://user:s3cret@host:port/db": "cannot be used",
		"postgres://user:s3cret@host/db?sslmode=perhaps":                            "sslmode",
		"postgres://user:s3cret@host/db?sslrootcert=/no/s3cret":                     "cannot be used",
		"postgres://user:s3cret@h1:5432,h2:5433/db?target_session_attrs=primary":    "",
		"postgres://user:s3cret@h1:5432,h2:5433/db?target_session_attrs=s3cretwhim": "target_session_attrs",
		strings.Repeat("x", 99) + "://h":                                            "unknown scheme",
	} {
		err := store.CheckURL(url)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
		if strings.Contains(fmt.Sprint(err), "s3c") || len(fmt.Sprint(err)) > 300 {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestNotInstalled(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := openOnly(t, url, store.Options{})
		_, appendErr := s.Append(t.Context(), []authz.Revocation{jti("a")})
		_, changesErr := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		v, lookupErr := s.Lookup(t.Context(), queryFor(jti("a")))
		for what, err := range map[string]error{"ping": s.Ping(t.Context()), "append": appendErr, "changes": changesErr, "lookup": lookupErr} {
			if !errors.Is(err, store.ErrSchema) || !errors.Is(err, authz.ErrUnavailable) || !strings.Contains(err.Error(), "jwt-bouncer migrate") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if v != authz.Unknown {
			t.Error(v)
		}
	})
}

// exec runs SQL beside the product, as an administrator would.
func execute(t testing.TB, url, text string) {
	t.Helper()
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		db := openFile(t, path)
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return
	}
	c := connectTo(t, url)
	defer c.Close(context.Background())
	sql(t, c, text)
}

// old code has to work on a new schema that says so, and to refuse any other.
func TestSchemaVersions(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		meta := "meta"
		if strings.HasPrefix(url, "postgres") {
			meta = "authz.meta"
		}
		check := func(version, compatible int, want string) {
			t.Helper()
			execute(t, url, fmt.Sprintf("update %s set schema_version = %d, schema_compatible = %d", meta, version, compatible))
			_, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
			for _, err := range []error{s.Ping(t.Context()), err} {
				if want == "" && err != nil || want != "" && (!errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), want)) {
					t.Errorf("%d, %d: %v, want %q", version, compatible, err, want)
				}
			}
		}
		v := store.SchemaVersion
		check(v, v, "")
		check(v+5, v, "")
		check(v+5, v+1, "upgrade jwt-bouncer")
		check(0, 0, "jwt-bouncer migrate")
		check(1, 1, "")
		check(v, v, "")
		// A newer program has migrated further than this one knows.
		table := "goose_db_version"
		if meta != "meta" {
			table = "authz.migrations"
		}
		execute(t, url, "insert into "+table+" (version_id, is_applied) values (99, true)")
		if err := s.Migrate(t.Context()); err != nil {
			t.Errorf("old code on a new schema: %v", err)
		}
		check(v+1, v, "")
	})
}

func TestManyMigrateAtOnce(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for range 8 {
			s := openOnly(t, url, store.Options{})
			wg.Go(func() {
				if err := s.Migrate(t.Context()); err != nil {
					t.Errorf("migrate: %v", err)
				}
				if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err != nil {
					t.Errorf("append: %v", err)
				}
			})
		}
		wg.Wait()
		s := open(t, url, store.Options{})
		if page, _, err := s.List(t.Context(), authz.Filter{}); err != nil || len(page) != 1 {
			t.Errorf("%d, %v", len(page), err)
		}
	})
}

// The limits of the fleet are raised by configuration, never lowered, and what
// was stored under a shorter token lifetime lasts for the longer one.
func TestLimits(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{MaxStaleness: 10 * time.Second, MaxTokenTTL: time.Hour})
		got, err := s.Limits(t.Context())
		identity := got.Identity
		if err != nil || identity == "" || got != (store.Limits{SchemaVersion: store.SchemaVersion, MaxStaleness: 30 * time.Second, MaxTokenTTL: 24 * time.Hour, FleetStaleness: 30 * time.Second, Identity: identity}) {
			t.Errorf("%+v, %v", got, err)
		}
		later := authz.Revocation{Kind: authz.KindSub, Issuer: issuer, Value: "u", NotBefore: time.Now().Add(12 * time.Hour)}
		before, err := s.Append(t.Context(), []authz.Revocation{jti("a"), later})
		if err != nil {
			t.Fatal(err)
		}
		f := &followed{feed: s}
		f.sync(t)
		s2 := open(t, url, store.Options{MaxStaleness: time.Minute, MaxTokenTTL: 48 * time.Hour})
		want := store.Limits{SchemaVersion: store.SchemaVersion, MaxStaleness: time.Minute, MaxTokenTTL: 48 * time.Hour, FleetStaleness: time.Minute, Identity: identity}
		if got, err := s2.Limits(t.Context()); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
		n, snap := f.sync(t)
		if snap.MaxStaleness != want.MaxStaleness || snap.MaxTokenTTL != want.MaxTokenTTL {
			t.Errorf("%+v", snap)
		}
		for _, was := range before {
			if e := f.Entries[was.Key()]; n != 2 || e.Expires < was.Entry().Expires+23*3600 {
				t.Errorf("%d rows, %+v, was %+v", n, e, was.Entry())
			}
		}
		if err := s.Migrate(t.Context()); err != nil { // an older configuration
			t.Fatal(err)
		}
		if got, err := s.Limits(t.Context()); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// Only what expired longer ago than the grace is deleted.
func TestGC(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("live")}); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(url, "sqlite") {
			execute(t, url, `with recursive n (i) as (select 1 union all select i + 1 from n where i < 2500)
				insert into revocations (kind, iss, value, expires_at) select 1, 'i', 'old ' || i, 1000000 from n`)
			execute(t, url, `insert into revocations (kind, iss, value, expires_at) values (1, 'i', 'just expired', `+fmt.Sprint(time.Now().Add(-30*time.Minute).UnixMicro())+`)`)
		} else {
			execute(t, url, `insert into authz.revocations (kind, iss, value, expires_at) select 1, 'i', 'old ' || i, '1970-01-02' from generate_series(1, 12000) i`)
			execute(t, url, `insert into authz.revocations (kind, iss, value, expires_at) values (1, 'i', 'just expired', now() - interval '30 minutes')`)
		}
		want := int64(2500)
		if strings.HasPrefix(url, "postgres") {
			want = 12000
		}
		if n, err := s.GC(t.Context()); err != nil || n != want {
			t.Errorf("%d, %v, want %d", n, err, want)
		}
		page, _, err := s.List(t.Context(), authz.Filter{IncludeExpired: true})
		if err != nil || len(page) != 2 {
			t.Errorf("%d left, %v", len(page), err)
		}
	})
}

func TestRunGC(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	deleted := make(chan struct{}, 1)
	s := open(t, url, store.Options{GCInterval: time.Millisecond, Logger: slog.New(handler(func(r slog.Record) {
		if strings.Contains(r.Message, "deleted") {
			select {
			case deleted <- struct{}{}:
			default:
			}
		}
	}))})
	execute(t, url, `insert into revocations (kind, iss, value, expires_at) values (1, 'i', 'old', 1000000)`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.RunGC(ctx) }()
	<-deleted
	cancel()
	<-ended
}

// handler is a log that tests listen to.
type handler func(slog.Record)

func (handler) Enabled(context.Context, slog.Level) bool        { return true }
func (h handler) Handle(_ context.Context, r slog.Record) error { h(r); return nil }
func (h handler) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h handler) WithGroup(string) slog.Handler                 { return h }

// A commit by another connection is noticed in milliseconds.
func TestWatch(t *testing.T) {
	t.Parallel()
	url := sqliteURL(t)
	cli, sidecar := open(t, url, store.Options{}), open(t, url, store.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	hints := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() { ended <- sidecar.Watch(ctx, func() { hints <- struct{}{} }) }()
	<-hints // the first look
	f := &followed{feed: sidecar}
	for i := range 5 {
		if _, err := cli.Append(t.Context(), []authz.Revocation{jti(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for here := false; !here; {
			select {
			case <-hints:
			case <-time.After(20 * time.Second):
				t.Fatal("no hint")
			}
			f.sync(t)
			_, here = f.Entries[jti(fmt.Sprint(i)).Key()]
		}
		t.Logf("noticed after %s", time.Since(start))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// On PostgreSQL there is nothing to watch; it ends with its context.
	p := openOnly(t, harness.Postgres(t).URL, store.Options{})
	if err := p.Watch(ctx, func() { t.Error("a hint") }); err != nil {
		t.Error(err)
	}
}

func TestSQLiteFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	path := filepath.Join(dir, "r?#%20 odd.db")
	s := open(t, "sqlite://"+strings.NewReplacer("?", "%3F", "#", "%23", "%", "%25", " ", "%20").Replace(path), store.Options{})
	if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	_, err = store.Open(t.Context(), "sqlite://"+filepath.Join(dir, "no", "such", "dir.db"), store.Options{})
	if err == nil || !strings.Contains(err.Error(), "does not exist") || !strings.Contains(err.Error(), "sqlite") {
		t.Errorf("%v", err)
	}
	if _, err = store.Open(t.Context(), "sqlite://"+dir, store.Options{}); err == nil || !strings.Contains(err.Error(), "sqlite") {
		t.Errorf("%v", err)
	}
}

// Every operation after Close fails; none hangs or panics.
func TestClosed(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Lookup(t.Context(), queryFor(jti("a"))); v != authz.Unknown || err == nil {
			t.Errorf("%s, %v", v, err)
		}
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err == nil {
			t.Error("appended")
		}
		if snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {}); err == nil || snap.Proves {
			t.Error("read")
		}
	})
}

// A flood of lookups is bounded: few run, few wait, the rest is told at once.
func TestLookupsAreBounded(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	s := openOnly(t, pg.URL, store.Options{Lookups: 2, Waiting: 10, LookupTimeout: 3 * time.Second})
	c := pg.Connect(t)
	sql(t, c, "begin")
	sql(t, c, "lock table authz.revocations in access exclusive mode")
	var busy, other atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			v, _, err := ask(t.Context(), s, jti("a"), 100*time.Millisecond)
			switch {
			case v != authz.Unknown:
				t.Error(v)
			case errors.Is(err, store.ErrBusy):
				busy.Add(1)
			default:
				other.Add(1)
			}
		})
	}
	wg.Wait()
	if busy.Load() == 0 || other.Load() == 0 {
		t.Errorf("%d busy, %d waited", busy.Load(), other.Load())
	}
	var sessions int
	if err := c.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'`, pg.Database).Scan(&sessions); err != nil || sessions > 3 {
		t.Errorf("%d sessions wait for the lock, %v", sessions, err)
	}
	sql(t, c, "rollback")
	healed(t, s)
}

// Revocations without an expiry are kept for the store's max_token_ttl: about a
// token that lives longer, their absence says nothing.
func TestTokenOutlivesRevocations(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{MaxTokenTTL: 24 * time.Hour})
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("revoked")}); err != nil {
			t.Fatal(err)
		}
		for life, want := range map[time.Duration]authz.Verdict{
			24 * time.Hour: authz.NotRevoked,
			40 * time.Hour: authz.Unknown,
			1 << 62:        authz.Unknown,
		} {
			for _, value := range []string{"good", "revoked"} {
				q := queryFor(jti(value))
				q.IssuedAt = time.Now().Unix() - 60
				q.Expires = q.IssuedAt + int64(life/time.Second)
				want := want
				if value == "revoked" {
					want = authz.Revoked
				}
				if v, err := s.Lookup(t.Context(), q); v != want || (v == authz.Unknown) != errors.Is(err, store.ErrUnproven) {
					t.Errorf("%s, living %s: %v %v, want %v", value, life, v, err, want)
				}
			}
		}
	})
}

// pastClock is the machine's, so much behind.
type pastClock struct {
	authz.SystemClock
	behind time.Duration
}

func (c pastClock) Now() time.Time { return time.Now().Add(-c.behind) }

// raised is what the feed tells of max_token_ttl.
func raised(t *testing.T, s *store.Store) (from time.Duration, at time.Time) {
	t.Helper()
	snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
	if err != nil {
		t.Fatal(err)
	}
	if snap.Raised == 0 {
		return snap.RaisedFrom, time.Time{}
	}
	return snap.RaisedFrom, time.Unix(snap.Raised, 0)
}

// Three days ago a subject was logged out, under a max_token_ttl of a day. That
// revocation has expired and was collected. When the limit is raised to a week,
// a token of that subject that is four days old and lives for seven must not be
// taken for one that was never revoked.
func TestRaisedTokenLifeRevivesNothing(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		then := open(t, url, store.Options{Clock: pastClock{behind: 3 * day}})
		logout := authz.Revocation{Kind: authz.KindSub, Issuer: issuer, Value: "alice", Actor: "test", NotBefore: time.Now().Add(-3 * day), ExpiresAt: time.Now().Add(-2 * day)}
		if _, err := then.Append(t.Context(), []authz.Revocation{logout}); err != nil {
			t.Fatal(err)
		}
		s := openOnly(t, url, store.Options{})
		if n, err := s.GC(t.Context()); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if from, at := raised(t, s); from != 0 || !at.IsZero() {
			t.Errorf("never raised, yet from %s at %s", from, at)
		}
		token := func(age, life time.Duration) *authz.Query {
			q := queryFor(logout)
			q.IssuedAt = time.Now().Add(-age).Unix()
			q.Expires = q.IssuedAt + int64(life/time.Second)
			return q
		}
		is := func(when string, q *authz.Query, want authz.Verdict) {
			t.Helper()
			if v, err := s.Lookup(t.Context(), q); v != want || (v == authz.Unknown) != errors.Is(err, store.ErrUnproven) {
				t.Errorf("%s: %v %v, want %v", when, v, err, want)
			}
		}
		is("before", token(4*day, 7*day), authz.Unknown)
		open(t, url, store.Options{MaxTokenTTL: 7 * day})
		is("issued before, living longer than was allowed", token(4*day, 7*day), authz.Unknown)
		is("issued before, living as was allowed", token(day/2, day), authz.NotRevoked)
		is("issued since, living longer", token(-5*time.Minute, 7*day), authz.NotRevoked)
		is("issued since, living too long", token(-5*time.Minute, 8*day), authz.Unknown)
		if from, at := raised(t, s); from != day || time.Since(at).Abs() > time.Minute {
			t.Errorf("raised from %s at %s", from, at)
		}
		// Once more, while the first raise still matters; and when it does not.
		open(t, url, store.Options{MaxTokenTTL: 30 * day})
		if from, _ := raised(t, s); from != day {
			t.Errorf("raised from %s, want the first", from)
		}
		if strings.HasPrefix(url, "sqlite") {
			execute(t, url, fmt.Sprintf(`update meta set max_token_ttl_raised = %d`, time.Now().Add(-31*day).UnixMicro()))
		} else {
			execute(t, url, `update authz.former set raised = now() - interval '31 days'`)
		}
		open(t, url, store.Options{MaxTokenTTL: 40 * day})
		if from, at := raised(t, s); from != 30*day || time.Since(at).Abs() > time.Minute {
			t.Errorf("raised from %s at %s, want the last", from, at)
		}
	})
}

// Nobody knows of a raise before it is committed: what was revoked until then
// was given the shorter life.
func TestRaiseCountsFromItsCommit(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	c := pg.Connect(t)
	sql(t, c, "begin")
	sql(t, c, "update authz.meta set max_token_ttl = '7 days'")
	time.Sleep(3 * time.Second)
	before := time.Now()
	sql(t, c, "commit")
	if from, at := raised(t, s); from != day || at.Before(before.Truncate(time.Second)) {
		t.Errorf("raised from %s at %s, committed after %s", from, at, before)
	}
}

// Sidecars keep to a smaller max_staleness as soon as they hear of it. One that
// is cut off does not, so a receipt promises the larger one until that has
// passed.
func TestLoweredStalenessIsPromisedLater(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		set := func(d, ago time.Duration) {
			t.Helper()
			if strings.HasPrefix(url, "sqlite") {
				execute(t, url, fmt.Sprintf(`update meta set max_staleness = %d`, d.Microseconds()))
				execute(t, url, fmt.Sprintf(`update meta set max_staleness_lowered = max_staleness_lowered - %d`, ago.Microseconds()))
				return
			}
			execute(t, url, fmt.Sprintf(`update authz.meta set max_staleness = make_interval(secs => %f)`, d.Seconds()))
			execute(t, url, fmt.Sprintf(`update authz.former set lowered = lowered - make_interval(secs => %f)`, ago.Seconds()))
		}
		promises := func(when string, kept, promised time.Duration) {
			t.Helper()
			l, err := s.Limits(t.Context())
			if err != nil || l.MaxStaleness != kept || l.FleetStaleness != promised {
				t.Errorf("%s: %+v %v", when, l, err)
			}
			if d, err := s.FleetStaleness(t.Context()); err != nil || d != promised {
				t.Errorf("%s: %s %v", when, d, err)
			}
			snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
			if err != nil || snap.MaxStaleness != kept {
				t.Errorf("%s: sidecars are told %s, %v", when, snap.MaxStaleness, err)
			}
		}
		promises("at first", 30*time.Second, 30*time.Second)
		set(10*time.Minute, 0)
		promises("raised", 10*time.Minute, 10*time.Minute)
		set(time.Minute, 5*time.Minute)
		promises("lowered five minutes ago", time.Minute, 10*time.Minute)
		set(5*time.Second, 0)
		promises("lowered again", 5*time.Second, 10*time.Minute)
		set(5*time.Second, 12*time.Minute)
		promises("lowered twelve minutes ago", 5*time.Second, 5*time.Second)
		set(4*time.Second, 0)
		promises("lowered once more", 4*time.Second, 5*time.Second)
	})
}

// gatedFeed can be cut off.
type gatedFeed struct {
	authz.Feed
	cut bool
}

func (g *gatedFeed) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	if g.cut {
		return authz.Snapshot{}, authz.ErrUnavailable
	}
	return g.Feed.Changes(ctx, since, nonce, row)
}

// handClock is moved by hand.
type handClock struct{ passed time.Duration }

func (c *handClock) Now() time.Time      { return time.Now().Add(c.passed) }
func (c *handClock) Boot() time.Duration { return 1000*time.Hour + c.passed }

// The same, seen from a sidecar that is cut off in the moment of the change.
func TestReceiptAfterMaxStalenessWasLowered(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		clock, feed := &handClock{}, &gatedFeed{Feed: s}
		config := cache.DefaultRevocationConfig()
		config.CatchUpWait = 0
		f := cache.NewFollower(feed, cache.NewReplica(), cache.FollowerOptions{Config: config, Clock: clock})
		if err := f.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		feed.cut = true
		if strings.HasPrefix(url, "sqlite") {
			execute(t, url, "update meta set max_staleness = 5000000")
		} else {
			execute(t, url, "update authz.meta set max_staleness = '5 s'")
		}
		rec, err := authz.NewRevoker(s, nil, 30*time.Second, authz.SystemClock{}).Revoke(t.Context(), []authz.Revocation{jti("x")}, authz.WaitCommitted)
		if err != nil {
			t.Fatal(err)
		}
		clock.passed = rec.EnforcedWithin + time.Second
		if v, _ := cache.NewReplicaTier(f).Lookup(t.Context(), queryFor(jti("x"))); v == authz.NotRevoked {
			t.Errorf("allowed %s after a receipt that promised %s", clock.passed, rec.EnforcedWithin)
		}
	})
}

// A store is another after a restore, beside a copy of it, and to those who have
// heard that max_staleness was lowered; not because something was stored.
func TestIdentity(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		seen := map[string]string{}
		is := func(s *store.Store, when string, known bool) {
			t.Helper()
			l, err := s.Limits(t.Context())
			if err != nil || l.Identity == "" {
				t.Fatal(l, err)
			}
			if before, here := seen[l.Identity]; here != known {
				t.Errorf("%s: %s as %q", when, l.Identity, before)
			}
			seen[l.Identity] = when
		}
		is(s, "at first", false)
		if _, err := s.Append(t.Context(), []authz.Revocation{jti("a")}); err != nil {
			t.Fatal(err)
		}
		is(s, "with a row", true)
		is(open(t, url, store.Options{MaxTokenTTL: 2 * day, MaxStaleness: time.Hour}), "opened again, limits raised", true)
		if err := s.BumpEpoch(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(s, "restored", false)
		is(s, "still", true)
		if strings.HasPrefix(url, "sqlite") {
			execute(t, url, `update meta set max_staleness = 5000000`)
		} else {
			execute(t, url, `update authz.meta set max_staleness = '5 s'`)
		}
		is(s, "max_staleness lowered", false)
		if strings.HasPrefix(url, "postgres") {
			name := url[strings.LastIndex(url, "/")+1 : strings.Index(url, "?")]
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			copied := strings.Replace(url, "/"+name, "/"+name+"_copy", 1)
			server := connectTo(t, strings.Replace(url, "/"+name, "/postgres", 1))
			defer server.Close(context.Background())
			sql(t, server, "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1", name)
			sql(t, server, "create database "+name+"_copy template "+name)
			defer sql(t, server, "drop database "+name+"_copy with (force)")
			is(open(t, copied, store.Options{}), "a copied database", false)
		}
	})
}
