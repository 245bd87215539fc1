package store_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// Loading allocates per connection, not per row, and the server spools nothing.
//
// It counts the whole process's allocations, so nothing runs beside it.
func TestLoadStreams(t *testing.T) {
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	const n = 100_000
	pg.Exec(t, `create table spools as select i from generate_series(1, 200000) i order by md5(i::text)`) // shows that spooling is counted
	pg.Exec(t, fmt.Sprintf(`insert into authz.revocations (kind, iss, value) select 1, 'i', i::text from generate_series(1, %d) i`, n))
	c := pg.Connect(t)
	spooledBefore := int64(0)
	harness.Eventually(t, 20*time.Second, "statistics", func(context.Context) error {
		last := spooledBefore
		if spooledBefore = spooled(t, pg, c); spooledBefore == 0 || spooledBefore != last {
			return fmt.Errorf("%d bytes", spooledBefore)
		}
		return nil
	})
	rows := 0
	var before, after runtime.MemStats
	start := time.Now()
	runtime.ReadMemStats(&before)
	_, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) { rows++ })
	require.NoErrorf(t, err, "%d", rows)
	require.Equalf(t, n, rows, "%v", err)
	runtime.ReadMemStats(&after)
	took := time.Since(start)
	perRow := float64(after.Mallocs-before.Mallocs) / n
	t.Logf("%d rows in %s, %.0f rows/s, %.3f allocations a row", n, took, n/took.Seconds(), perRow)
	assert.LessOrEqualf(t, perRow, 0.1, "%.2f allocations a row", perRow)
	// Sessions report their numbers, at the latest, when they end.
	require.NoError(t, s.Close())
	harness.Eventually(t, 20*time.Second, "the sessions' end", func(ctx context.Context) error {
		var left int
		err := c.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()`, pg.Database).Scan(&left)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d left", left)
		}
		return err
	})
	more := spooled(t, pg, c) - spooledBefore
	assert.LessOrEqualf(t, more, int64(0), "the server spooled %d bytes", more)
}

// spooled is how much the sessions on the database have written to temporary files.
func spooled(t testing.TB, pg *harness.PG, c *pgx.Conn) (n int64) {
	t.Helper()
	sql(t, c, "select pg_stat_clear_snapshot()")
	require.NoError(t, c.QueryRow(t.Context(), `select temp_bytes from pg_stat_database where datname = $1`, pg.Database).Scan(&n))
	return n
}

// What stamping costs writers, against the same table without the trigger.
// Run by hand: go test ./store -run xxx -bench Append.
func BenchmarkAppend(b *testing.B) {
	pg := harness.OwnPostgres(b, "fsync", "on")
	s := open(b, pg.URL, store.Options{})
	c := pg.Connect(b)
	_, err := c.Exec(b.Context(), `create table bare (like authz.revocations including all)`)
	require.NoError(b, err)
	_, err = c.Exec(b.Context(), `alter table bare alter key set default decode(md5(random()::text), 'hex'), alter xid set default 1, alter expires_at set default now() + interval '1 day'`)
	require.NoError(b, err)
	insert := func(table string) func(b *testing.B) {
		return func(b *testing.B) {
			var wg sync.WaitGroup
			const writers = 16
			for w := range writers {
				conn, err := pgx.Connect(b.Context(), pg.URL)
				require.NoError(b, err)
				wg.Go(func() {
					defer conn.Close(context.Background())
					for i := w; i < b.N; i += writers {
						_, err := conn.Exec(b.Context(), `insert into `+table+` (kind, iss, value) values (1, 'i', gen_random_uuid()::text)`)
						if !assert.NoError(b, err) {
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		}
	}
	b.Run("bare table, 16 sessions", insert("bare"))
	b.Run("stamped, 16 sessions", insert("authz.revocations"))
	b.Run("Append of 1000", func(b *testing.B) {
		n := 0
		for b.Loop() {
			batch := make([]authz.Revocation, 1000)
			for i := range batch {
				n++
				batch[i] = jti(fmt.Sprint(n))
			}
			_, err := s.Append(b.Context(), batch)
			require.NoError(b, err)
		}
		b.ReportMetric(float64(1000*b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}

func BenchmarkLookup(b *testing.B) {
	for name, url := range map[string]string{"sqlite": sqliteURL(b), "postgres": harness.Postgres(b).URL} {
		b.Run(name, func(b *testing.B) {
			s := open(b, url, store.Options{})
			q := queryFor(jti("a"))
			b.ReportAllocs()
			for b.Loop() {
				if v, err := s.Lookup(b.Context(), q); v != authz.NotRevoked {
					b.Fatal(v, err)
				}
			}
		})
	}
}

// BenchmarkLoad loads a million revocations.
func BenchmarkLoad(b *testing.B) {
	pg := harness.Postgres(b)
	s := open(b, pg.URL, store.Options{})
	const n = 1_000_000
	for i := range 20 {
		pg.Exec(b, fmt.Sprintf(`insert into authz.revocations (kind, iss, value) select 1, 'i', i::text from generate_series(%d, %d) i`, i*n/20+1, (i+1)*n/20))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Changes(b.Context(), authz.Position{}, "n", func(authz.Row) {}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkIdleSync is a sync that brings nothing, beside the least a server
// can be asked.
func BenchmarkIdleSync(b *testing.B) {
	pg := harness.Postgres(b)
	f, _ := newFollowed(b, pg.URL)
	c := pg.Connect(b)
	insert(b, c, "a")
	f.sync(b)
	b.Run("changes", func(b *testing.B) {
		for b.Loop() {
			f.sync(b)
		}
	})
	b.Run("select 1", func(b *testing.B) {
		for b.Loop() {
			_, err := c.Exec(b.Context(), "select 1", pgx.QueryExecModeSimpleProtocol)
			require.NoError(b, err)
		}
	})
}
