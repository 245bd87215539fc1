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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		"postgres://user:s3cret@host:port/db": "its port is not a number",
		"postgres://sslmode:s3cret@sslmode.example:0/db?sslmode=require":                 "its port is not a number",
		"postgres://sslmode:s3cret@sslmode.example/port?sslmode=require&sslrootcert=/no": "its sslrootcert cannot",
		"postgres://user:s3cret@host/sslmode?connect_timeout=soon":                       "its connect_timeout cannot",
		"postgres://user:s3cret@host/sslmode?pool_max_conns=s3cret":                      "its pool_max_conns cannot",
		"postgres://user:s3cret@host/sslmode?sslmode=require&sslcert=/no/s3c":            "its sslcert cannot",
		"postgres://user:x/s3cret@host/db":                                               "percent-encode",
		"postgres://user:x@s3cret@host/db":                                               "store_password_file",
		"postgres://user:s3cret@host/db#s3cret":                                          "%23",
		"postgres://user:s3cret@host/db?sslmode=perhaps":                                 "sslmode",
		"postgres://user:s3cret@host/db?sslrootcert=/no/s3cret":                          "its sslrootcert cannot be used",
		"postgres://user:s3cret@h1:5432,h2:5433/db?target_session_attrs=primary":         "",
		"postgres://user:s3cret@h1:5432,h2:5433/db?target_session_attrs=s3cretwhim":      "target_session_attrs",
		strings.Repeat("x", 99) + "://h":                                                 "unknown scheme",
	} {
		err := store.CheckURL(url)
		if assert.Equalf(t, err == nil, want == "", "%s: %v, want %q", url, err, want) {
			assert.Falsef(t, err != nil && !strings.Contains(err.Error(), want), "%s: %v, want %q", url, err, want)
		}
		assert.NotContainsf(t, fmt.Sprint(err), "s3c", "%s: %v", url, err)
		assert.LessOrEqualf(t, len(fmt.Sprint(err)), 300, "%s: %v", url, err)
	}
}

func TestNotInstalled(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := openOnly(t, url, store.Options{})
		_, appendErr := s.Append(t.Context(), []authz.Revocation{jti("a")})
		_, changesErr := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		v, lookupErr := s.Lookup(t.Context(), queryFor(jti("a")))
		for what, err := range map[string]error{"ping": usable(t, s), "append": appendErr, "changes": changesErr, "lookup": lookupErr} {
			assert.ErrorIsf(t, err, store.ErrSchema, "%s", what)
			assert.ErrorIsf(t, err, authz.ErrUnavailable, "%s", what)
			assert.Containsf(t, err.Error(), "jwt-bouncer migrate", "%s: %v", what, err)
		}
		assert.Equal(t, authz.Unknown, v)
	})
}

// exec runs SQL beside the product, as an administrator would.
func execute(t testing.TB, url, text string) {
	t.Helper()
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		db := openFile(t, path)
		defer db.Close()
		_, err := db.ExecContext(t.Context(), text)
		require.NoErrorf(t, err, "%s", text)
		return
	}
	c := connectTo(t, url)
	defer c.Close(context.Background())
	sql(t, c, text)
}

func TestManyMigrateAtOnce(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for range 8 {
			s := openOnly(t, url, store.Options{})
			wg.Go(func() {
				assert.NoError(t, s.Migrate(t.Context()), "migrate")
				_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
				assert.NoError(t, err, "append")
			})
		}
		wg.Wait()
		s := open(t, url, store.Options{})
		page, _, err := s.List(t.Context(), authz.Filter{})
		if assert.NoErrorf(t, err, "%d", len(page)) {
			assert.Lenf(t, page, 1, "%v", err)
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
	execute(t, url, `insert into revocations (kind, iss, value, expires_at, key, xid) values (1, 'i', 'old', 1000000, randomblob(16), 1)`)
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
	<-hints // from the first poll
	f := &followed{feed: sidecar}
	for i := range 5 {
		_, err := cli.Append(t.Context(), []authz.Revocation{jti(fmt.Sprint(i))})
		require.NoError(t, err)
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
	assert.NoError(t, <-ended)
	// On PostgreSQL there is nothing to watch; it ends with its context.
	p := openOnly(t, harness.Postgres(t).URL, store.Options{})
	err := p.Watch(ctx, func() { t.Error("a hint") })
	assert.NoError(t, err)
}

func TestSQLiteFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	path := filepath.Join(dir, "r?#%20 odd.db")
	s := open(t, "sqlite://"+strings.NewReplacer("?", "%3F", "#", "%23", "%", "%25", " ", "%20").Replace(path), store.Options{})
	_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
	files, err := os.ReadDir(dir)
	require.NoErrorf(t, err, "%v", files)
	require.GreaterOrEqualf(t, len(files), 2, "%v, %v", files, err)
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
	_, err = os.Stat(path)
	assert.NoError(t, err)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	_, err = store.Open(t.Context(), "sqlite://"+filepath.Join(dir, "no", "such", "dir.db"), store.Options{})
	if assert.Error(t, err) {
		if assert.Containsf(t, err.Error(), "does not exist", "%v", err) {
			assert.Containsf(t, err.Error(), "sqlite", "%v", err)
		}
	}
	_, err = store.Open(t.Context(), "sqlite://"+dir, store.Options{})
	if assert.Error(t, err) {
		assert.Containsf(t, err.Error(), "sqlite", "%v", err)
	}
}

// Every operation after Close fails; none hangs or panics.
func TestClosed(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		require.NoError(t, s.Close())
		v, err := s.Lookup(t.Context(), queryFor(jti("a")))
		assert.Equalf(t, authz.Unknown, v, "%v", err)
		assert.Errorf(t, err, "%s", v)
		_, err = s.Append(t.Context(), []authz.Revocation{jti("a")})
		assert.Error(t, err, "appended")
		snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		if assert.Error(t, err, "read") {
			assert.False(t, snap.Proves, "read")
		}
	})
}

// A flood of lookups is bounded: few run, few wait, the rest fails at once.
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
	assert.NotZerof(t, busy.Load(), "busy, %d waited", other.Load())
	assert.NotZerof(t, other.Load(), "%d busy, waited", busy.Load())
	var sessions int
	err := c.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'`, pg.Database).Scan(&sessions)
	if assert.NoErrorf(t, err, "%d sessions wait for the lock", sessions) {
		assert.LessOrEqualf(t, sessions, 3, "%d sessions wait for the lock, %v", sessions, err)
	}
	sql(t, c, "rollback")
	healed(t, s)
}

// Revocations without an expiry last for the store's max_token_ttl: for a token
// that lives longer, their absence proves nothing.
func TestTokenOutlivesRevocations(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{MaxTokenTTL: 24 * time.Hour})
		_, err := s.Append(t.Context(), []authz.Revocation{jti("revoked")})
		require.NoError(t, err)
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
				v, err := s.Lookup(t.Context(), q)
				assert.Equalf(t, want, v, "%s, living %s: %v", value, life, err)
				assert.Equalf(t, errors.Is(err, store.ErrUnproven), v == authz.Unknown, "%s, living %s: %v %v, want %v", value, life, v, err, want)
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
	require.NoError(t, err)
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
		logout := authz.Revocation{Kind: authz.KindSub, Issuer: issuer, Value: "alice", RevokedBy: "test", NotBefore: time.Now().Add(-3 * day), ExpiresAt: time.Now().Add(-2 * day)}
		_, err := then.Append(t.Context(), []authz.Revocation{logout})
		require.NoError(t, err)
		s := openOnly(t, url, store.Options{})
		n, err := s.GC(t.Context())
		require.Equalf(t, int64(1), n, "%v %v", n, err)
		require.NoErrorf(t, err, "%v %v", n, err)
		from, at := raised(t, s)
		assert.Zerof(t, from, "never raised, yet from %s at %s", from, at)
		assert.Truef(t, at.IsZero(), "never raised, yet from %s at %s", from, at)
		token := func(age, life time.Duration) *authz.Query {
			q := queryFor(logout)
			q.IssuedAt = time.Now().Add(-age).Unix()
			q.Expires = q.IssuedAt + int64(life/time.Second)
			return q
		}
		is := func(when string, q *authz.Query, want authz.Verdict) {
			t.Helper()
			v, err := s.Lookup(t.Context(), q)
			assert.Equalf(t, want, v, "%s: %v", when, err)
			assert.Equalf(t, errors.Is(err, store.ErrUnproven), v == authz.Unknown, "%s: %v %v, want %v", when, v, err, want)
		}
		is("before", token(4*day, 7*day), authz.Unknown)
		open(t, url, store.Options{MaxTokenTTL: 7 * day})
		is("issued before, living longer than was allowed", token(4*day, 7*day), authz.Unknown)
		is("issued before, living as was allowed", token(day/2, day), authz.NotRevoked)
		is("issued since, living longer", token(-5*time.Minute, 7*day), authz.NotRevoked)
		is("issued since, living too long", token(-5*time.Minute, 8*day), authz.Unknown)
		from, at = raised(t, s)
		assert.Equalf(t, day, from, "raised from %s at %s", from, at)
		assert.LessOrEqualf(t, time.Since(at).Abs(), time.Minute, "raised from %s at %s", from, at)
		// Once more, while the first raise still matters; and when it does not.
		open(t, url, store.Options{MaxTokenTTL: 30 * day})
		from, _ = raised(t, s)
		assert.Equalf(t, day, from, "raised from %s, want the first", from)
		if strings.HasPrefix(url, "sqlite") {
			execute(t, url, fmt.Sprintf(`update meta set raised_at = %d`, time.Now().Add(-31*day).UnixMicro()))
		} else {
			execute(t, url, `update authz.meta set raised_at = now() - interval '31 days'`)
		}
		open(t, url, store.Options{MaxTokenTTL: 40 * day})
		from, at = raised(t, s)
		assert.Equalf(t, 30*day, from, "raised from %s at %s, want the last", from, at)
		assert.LessOrEqualf(t, time.Since(at).Abs(), time.Minute, "raised from %s at %s, want the last", from, at)
	})
}

// A schema that is missing, older or newer is named, and a second run of
// migrate changes nothing.
func TestUpgrade(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		meta := "meta"
		if strings.HasPrefix(url, "postgres") {
			meta = "authz.meta"
		}
		s := openOnly(t, url, store.Options{})
		version := func(n int) {
			execute(t, url, fmt.Sprintf("update %s set schema_version = %d", meta, n))
		}
		refused := func(when, want string) {
			t.Helper()
			_, appendErr := s.Append(t.Context(), []authz.Revocation{jti("refused")})
			_, changesErr := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
			v, lookupErr := s.Lookup(t.Context(), queryFor(jti("not revoked")))
			errs := map[string]error{"ping": usable(t, s), "changes": changesErr, "lookup": lookupErr}
			if when == "missing" {
				errs["append"] = appendErr
			}
			for what, err := range errs {
				assert.ErrorIsf(t, err, store.ErrSchema, "%s, %s, want %q", when, what, want)
				assert.Containsf(t, err.Error(), want, "%s, %s: %v", when, what, err)
			}
			assert.Equalf(t, authz.Unknown, v, "%s", when)
		}
		refused("missing", "jwt-bouncer migrate")
		require.NoError(t, s.Migrate(t.Context()))
		_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		require.NoError(t, err)
		f := &followed{feed: s}
		f.sync(t)
		before, err := s.Limits(t.Context())
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, s.Migrate(t.Context()))
		}
		after, err := s.Limits(t.Context())
		if assert.NoErrorf(t, err, "migrating again: %+v %v, before: %+v", after, err, before) {
			assert.Equalf(t, before, after, "migrating again: %v, before", err)
		}
		n, _ := f.sync(t)
		assert.Zerof(t, n, "migrating again touched %d rows", n)
		version(store.SchemaVersion - 1)
		refused("older", "jwt-bouncer migrate")
		version(store.SchemaVersion + 1)
		refused("newer", "upgrade jwt-bouncer")
		v, err := s.Lookup(t.Context(), queryFor(jti("a")))
		assert.NoError(t, err)
		assert.Equal(t, authz.Revoked, v, "a revocation is true wherever it was read")
		err = s.Migrate(t.Context())
		assert.ErrorIs(t, err, store.ErrSchema, "migrate on a newer schema")
		assert.Containsf(t, err.Error(), "upgrade jwt-bouncer", "migrate on a newer schema: %v", err)
		version(store.SchemaVersion)
		enforced(t, s, "a", "in the end")
	})
}

// The limits of the fleet are raised by configuration, never lowered, and what
// was stored under a shorter token lifetime lasts for the longer one.
func TestLimits(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{MaxStaleness: 10 * time.Second, MaxTokenTTL: time.Hour})
		limits := func(s *store.Store, staleness, ttl time.Duration) {
			t.Helper()
			got, err := s.Limits(t.Context())
			if assert.NoErrorf(t, err, "%+v", got) {
				if assert.NotEmptyf(t, got.Incarnation, "%+v, %v", got, err) {
					if assert.Equalf(t, staleness, got.MaxStaleness, "%+v, %v", got, err) {
						assert.Equalf(t, ttl, got.MaxTokenTTL, "%+v, %v", got, err)
					}
				}
			}
		}
		limits(s, 30*time.Second, 24*time.Hour)
		later := authz.Revocation{Kind: authz.KindSub, Issuer: issuer, Value: "u", NotBefore: time.Now().Add(12 * time.Hour)}
		before, err := s.Append(t.Context(), []authz.Revocation{jti("a"), later})
		require.NoErrorf(t, err, "%v %v", before.MaxStaleness, err)
		require.Equalf(t, 30*time.Second, before.MaxStaleness, "%v %v", before.MaxStaleness, err)
		f := &followed{feed: s}
		f.sync(t)
		s2 := open(t, url, store.Options{MaxStaleness: time.Minute, MaxTokenTTL: 48 * time.Hour})
		limits(s2, time.Minute, 48*time.Hour)
		f.sync(t) // finds the epoch changed
		n, snap := f.sync(t)
		assert.Equalf(t, time.Minute, snap.MaxStaleness, "%+v", snap)
		assert.Equalf(t, 48*time.Hour, snap.MaxTokenTTL, "%+v", snap)
		for _, was := range before.Revocations {
			if e := f.Entries[was.Key()]; n != 2 || e.Expires < was.Entry().Expires+23*3600 {
				t.Errorf("%d rows, %+v, was %+v", n, e, was.Entry())
			}
		}
		// an older configuration
		require.NoError(t, s.Migrate(t.Context()))
		limits(s, time.Minute, 48*time.Hour)
		after, err := s.Append(t.Context(), []authz.Revocation{jti("b")})
		if assert.NoErrorf(t, err, "%+v", after) {
			if assert.Equalf(t, time.Minute, after.MaxStaleness, "%+v, %v", after, err) {
				assert.Equalf(t, 48*time.Hour, time.Until(after.Revocations[0].ExpiresAt).Round(time.Hour), "%+v, %v", after, err)
			}
		}
	})
}

// A store that was just installed has no past: its configured limit holds for
// tokens that were issued before, and at once.
func TestNewStoreHasNoFormerLimit(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{MaxTokenTTL: 7 * day})
		from, at := raised(t, s)
		assert.Zerof(t, from, "raised from %s at %s", from, at)
		assert.Truef(t, at.IsZero(), "raised from %s at %s", from, at)
		config := cache.DefaultRevocationConfig()
		config.MaxTokenTTL = 7 * day
		f := cache.NewFollower(s, cache.NewReplica(), cache.FollowerOptions{Config: config})
		require.NoError(t, f.Sync(t.Context()))
		for _, age := range []time.Duration{5 * day, time.Second, -30 * time.Second} {
			q := queryFor(jti("never revoked"))
			q.IssuedAt = time.Now().Add(-age).Unix()
			q.Expires = q.IssuedAt + int64(7*day/time.Second)
			for name, tier := range map[string]authz.Tier{"lookup": s, "replica": cache.NewReplicaTier(f)} {
				v, err := tier.Lookup(t.Context(), q)
				assert.Equalf(t, authz.NotRevoked, v, "%s, issued %s ago: %v", name, age, err)
			}
		}
		// Several sidecars start at once: whichever is first.
		other := open(t, url, store.Options{MaxTokenTTL: 7 * day})
		from, _ = raised(t, other)
		assert.Zerof(t, from, "raised from %s", from)
	})
}

// A revocation that had expired by the lower limit, and was not deleted yet, is
// enforced again by the higher one.
func TestRaisedTokenLifeRevivesWhatIsStored(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		_, err := s.Append(t.Context(), []authz.Revocation{jti("old")})
		require.NoError(t, err)
		if strings.HasPrefix(url, "sqlite") {
			execute(t, url, fmt.Sprintf("drop trigger revocation_fixed; update revocations set ttl_from = %d", time.Now().Add(-2*day).UnixMicro()))
		} else {
			execute(t, url, "alter table authz.revocations disable trigger revocation_stamp")
			execute(t, url, "update authz.revocations set ttl_from = now() - interval '2 days'")
			execute(t, url, "alter table authz.revocations enable always trigger revocation_stamp")
		}
		v, err := s.Lookup(t.Context(), queryFor(jti("old")))
		assert.Equalf(t, authz.NotRevoked, v, "expired: %v", err)
		f := &followed{feed: s}
		f.sync(t)
		expired := f.Entries[jti("old").Key()].Expires
		open(t, url, store.Options{MaxTokenTTL: 7 * day})
		enforced(t, s, "old", "after the raise")
		f.sync(t)
		f.sync(t)
		e := f.Entries[jti("old").Key()]
		assert.Equalf(t, expired+int64(6*day/time.Second), e.Expires, "followers keep it until %d", e.Expires)
	})
}

// A repeated request counts from the repetition. Beside an expiry of its own,
// the later of both counts.
func TestLastsFromTheLastRequest(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		lasts := func(ahead time.Duration, r authz.Revocation, want time.Duration) {
			t.Helper()
			s := open(t, url, store.Options{Clock: pastClock{behind: -ahead}})
			stored, err := s.Append(t.Context(), []authz.Revocation{r})
			if assert.NoErrorf(t, err, "%+v %v, want %s", stored, err, want) {
				assert.Equalf(t, want, time.Until(stored.Revocations[0].ExpiresAt).Round(time.Hour), "%+v %v", stored, err)
			}
		}
		until := func(d time.Duration) authz.Revocation {
			r := jti("a")
			r.ExpiresAt = time.Now().Add(d)
			return r
		}
		lasts(2*day, jti("a"), 3*day)
		lasts(0, jti("a"), 3*day)
		lasts(4*day, jti("a"), 5*day)
		lasts(0, until(2*day), 5*day)
		lasts(0, until(10*day), 10*day)
		lasts(5*day, jti("a"), 10*day)
		open(t, url, store.Options{MaxTokenTTL: 20 * day})
		lasts(0, jti("a"), 25*day)
	})
}

// Sidecars that have lost their connection keep to the value they have read, so
// a lower one would make receipts promise too much.
func TestMaxStalenessIsNotLowered(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		var err error
		if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
			db := openFile(t, path)
			defer db.Close()
			_, err = db.ExecContext(t.Context(), "update meta set max_staleness = 5000000")
		} else {
			c := connectTo(t, url)
			defer c.Close(context.Background())
			_, err = c.Exec(t.Context(), "update authz.meta set max_staleness = '5 s'")
		}
		if assert.Error(t, err) {
			assert.Containsf(t, err.Error(), "max_staleness cannot be lowered", "%v", err)
		}
		got, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		if assert.NoErrorf(t, err, "%+v %v", got, err) {
			assert.Equalf(t, 30*time.Second, got.MaxStaleness, "%+v %v", got, err)
		}
	})
}

// A revocation without its own expiry has to last as long as its receipt said.
func TestMaxTokenTTLIsNotLowered(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		stored, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		require.NoError(t, err)
		err = tryExecute(t, url, "update meta set max_token_ttl = 3600000000", "update authz.meta set max_token_ttl = '1 h'")
		require.ErrorContains(t, err, "max_token_ttl cannot be lowered")
		again, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		require.NoError(t, err)
		require.False(t, again.Revocations[0].ExpiresAt.Before(stored.Revocations[0].ExpiresAt))
	})
}

// A row whose expiry overflowed would keep every sidecar from reading the feed,
// and nothing could delete it.
func TestTimesThatCannotExpireAreRefused(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		for _, column := range []string{"not_before", "ttl_from"} {
			err := tryExecute(t, url,
				"insert into revocations (kind, iss, value, "+column+", expires_at, key) values (1, 'i', 'v', 9223372036854775806, 1, randomblob(16))",
				"insert into authz.revocations (kind, iss, value, "+column+", xid) values (1, 'i', 'v', '294276-12-31 12:00+00', 0)") // as a row of authz.append
			require.ErrorContains(t, err, "constraint", column)
		}
		require.Error(t, tryExecute(t, url, "update meta set max_token_ttl = 9223372036854775807", "update authz.meta set max_token_ttl = '9000000 hours'"))
		_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		require.NoError(t, err)
	})
}

// tryExecute runs the statement for the engine at url.
func tryExecute(t *testing.T, url, sqlite, postgres string) error {
	t.Helper()
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		db := openFile(t, path)
		defer db.Close()
		_, err := db.ExecContext(t.Context(), sqlite)
		return err
	}
	c := connectTo(t, url)
	defer c.Close(context.Background())
	_, err := c.Exec(t.Context(), postgres)
	return err
}

// A raise of max_staleness waits for a revocation that is being committed, whose
// receipt does not know it; so no sidecar has read the higher value before it
// can read the revocation.
func TestReceiptIsOrderedBeforeARaise(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	c, watch := pg.Connect(t), pg.Connect(t)
	sql(t, c, "begin")
	var promised float64
	err := c.QueryRow(t.Context(), `select extract(epoch from max_staleness)::float8 from authz.revoke('{1}', array['`+issuer+`'], '{x}', '{null}', '{null}', '{a}', '{r}')`).Scan(&promised)
	require.NoErrorf(t, err, "%v %v", promised, err)
	require.Equalf(t, float64(30), promised, "%v %v", promised, err)
	raised := make(chan error, 1)
	go func() {
		raised <- openOnly(t, pg.URL, store.Options{MaxStaleness: 5 * time.Minute}).Migrate(t.Context())
	}()
	harness.Eventually(t, 20*time.Second, "the raise to wait", func(ctx context.Context) error {
		var n int
		err := watch.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = $1 and wait_event_type = 'Lock' and query like 'update authz.meta%'`, pg.Database).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	snap, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { t.Error("a row that is not committed") })
	if assert.NoErrorf(t, err, "%+v %v", snap, err) {
		assert.Equalf(t, 30*time.Second, snap.MaxStaleness, "%+v %v", snap, err)
	}
	_, err = s.Append(t.Context(), []authz.Revocation{jti("meanwhile")})
	assert.NoError(t, err, "beside a raise that waits")
	sql(t, c, "commit")
	assert.NoError(t, <-raised)
	l, err := s.Limits(t.Context())
	if assert.NoErrorf(t, err, "%v %v", l, err) {
		assert.Equalf(t, 5*time.Minute, l.MaxStaleness, "%v %v", l, err)
	}
}

// Only what expired longer ago than the grace is deleted.
func TestGC(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		_, err := s.Append(t.Context(), []authz.Revocation{jti("live")})
		require.NoError(t, err)
		want := int64(2 * 2500)
		if strings.HasPrefix(url, "sqlite") {
			const n = `with recursive n (i) as (select 1 union all select i + 1 from n where i < 2500) insert into revocations `
			execute(t, url, n+`(kind, iss, value, expires_at, key, xid) select 1, 'i', 'own ' || i, 1000000, randomblob(16), 1 from n`)
			execute(t, url, n+`(kind, iss, value, ttl_from, key) select 1, 'i', 'limit ' || i, 1000000, randomblob(16) from n`)
			for _, columns := range []string{"(expires_at, ttl_from, ", "(ttl_from, expires_at, "} { // one of them still counts
				execute(t, url, `insert into revocations `+columns+fmt.Sprintf(`kind, iss, value, key, xid) values (1000000, %d, 1, 'i', 'both', randomblob(16), 1)`, time.Now().UnixMicro()))
			}
			execute(t, url, fmt.Sprintf(`insert into revocations (kind, iss, value, expires_at, key, xid) values (1, 'i', 'just expired', %d, randomblob(16), 1)`, time.Now().Add(-30*time.Minute).UnixMicro()))
			execute(t, url, fmt.Sprintf(`insert into revocations (kind, iss, value, ttl_from, key) values (1, 'i', 'just expired', %d, randomblob(16))`, time.Now().Add(-24*time.Hour-30*time.Minute).UnixMicro()))
		} else {
			want = 2 * 12000
			execute(t, url, `insert into authz.revocations (kind, iss, value, expires_at, xid) select 1, 'i', 'own ' || i, '1970-01-02', 1 from generate_series(1, 12000) i`)
			execute(t, url, `insert into authz.revocations (kind, iss, value, ttl_from) select 1, 'i', 'limit ' || i, '1970-01-02' from generate_series(1, 12000) i`)
			execute(t, url, `insert into authz.revocations (kind, iss, value, expires_at, ttl_from, xid) values (1, 'i', 'both', '1970-01-02', now(), 1), (1, 'i', 'both too', now(), '1970-01-02', 1)`)
			execute(t, url, `insert into authz.revocations (kind, iss, value, expires_at, xid) values (1, 'i', 'just expired', now() - interval '30 minutes', 1)`)
			execute(t, url, `insert into authz.revocations (kind, iss, value, ttl_from) values (1, 'i', 'just expired too', now() - interval '24 hours 30 minutes')`)
		}
		n, err := s.GC(t.Context())
		if assert.NoErrorf(t, err, "%d, want %d", n, want) {
			assert.Equalf(t, want, n, "%v", err)
		}
		page, _, err := s.List(t.Context(), authz.Filter{IncludeExpired: true})
		if assert.NoErrorf(t, err, "%d left", len(page)) {
			assert.Lenf(t, page, 5, "left, %v", err)
		}
	})
}

// A store has another incarnation after a restore, as a copy, and with other
// limits, under which a cached answer may be older; but not because something
// was stored.
func TestIncarnation(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		seen := map[string]string{}
		is := func(s *store.Store, when string, known bool) {
			t.Helper()
			l, err := s.Limits(t.Context())
			require.NoErrorf(t, err, "%v %v", l, err)
			require.NotEmptyf(t, l.Incarnation, "%v %v", l, err)
			before, here := seen[l.Incarnation]
			assert.Equalf(t, known, here, "%s: %s as %q", when, l.Incarnation, before)
			seen[l.Incarnation] = when
		}
		is(s, "at first", false)
		_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
		require.NoError(t, err)
		is(s, "with a row", true)
		is(open(t, url, store.Options{MaxStaleness: time.Hour}), "max_staleness raised", false)
		is(open(t, url, store.Options{MaxTokenTTL: 2 * day}), "max_token_ttl raised", false)
		is(open(t, url, store.Options{}), "opened again", true)
		require.NoError(t, s.BumpEpoch(t.Context()))
		is(s, "restored", false)
		is(s, "still", true)
		if strings.HasPrefix(url, "postgres") {
			name := url[strings.LastIndex(url, "/")+1 : strings.Index(url, "?")]
			require.NoError(t, s.Close())
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

// The SQL keeps to the limits of package authz.
func TestLimitsInSQL(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		stored, err := s.Append(t.Context(), []authz.Revocation{{Kind: authz.KindKID, Issuer: issuer, Value: "k"}, {Kind: authz.KindJTI, Issuer: issuer, Value: "late", ExpiresAt: time.Unix(authz.LastSecond+1, 0)}})
		if assert.NoErrorf(t, err, "%+v %v", stored, err) {
			if assert.Equalf(t, int64(authz.LastSecond), stored.Revocations[0].ExpiresAt.Unix(), "%+v %v", stored, err) {
				assert.Equalf(t, int64(authz.LastSecond), stored.Revocations[1].ExpiresAt.Unix(), "%+v %v", stored, err)
			}
		}
		put := func(value string, expired time.Duration) {
			t.Helper()
			at := time.Now().Add(-expired)
			if strings.HasPrefix(url, "sqlite") {
				key := jti(value).Key()
				execute(t, url, fmt.Sprintf(`insert into revocations (kind, iss, value, expires_at, key, xid) values (1, '%s', '%s', %d, x'%x', 1)`, issuer, value, at.UnixMicro(), key[:]))
			} else {
				execute(t, url, fmt.Sprintf(`insert into authz.revocations (kind, iss, value, expires_at, xid) values (1, '%s', '%s', '%s', 1)`, issuer, value, at.UTC().Format(time.RFC3339Nano)))
			}
		}
		const margin = 20 * time.Second
		put("graced", authz.ExpiryGrace-margin)
		put("over", authz.ExpiryGrace+margin)
		put("kept", authz.ExpiredKept-margin)
		put("deleted", authz.ExpiredKept+margin)
		enforced(t, s, "graced", "in its grace")
		v, err := s.Lookup(t.Context(), queryFor(jti("over")))
		assert.Equalf(t, authz.NotRevoked, v, "after its grace: %v", err)
		n, err := s.GC(t.Context())
		assert.Equalf(t, int64(1), n, "deleted: %v", err)
		assert.NoErrorf(t, err, "%d deleted", n)
	})
}
