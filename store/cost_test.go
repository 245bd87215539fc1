package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// costs runs each operation on a server with default settings and many
// revocations, and calls report with the processor time that it and "select 1"
// took there.
type costs struct {
	pg         *harness.PG
	operations map[string]func(n int)
	plain      func(n int)
}

func newCosts(t testing.TB, pooled bool) *costs {
	pg, jit := harness.DefaultPostgres(t)
	if !jit {
		t.Log("this PostgreSQL has no JIT (Debian's has): what JIT would add is not seen")
	}
	url := pg.URL
	open(t, url, store.Options{}) // installs the schema
	if pooled {
		url = pg.Via(harness.PgBouncer(t, pg, "transaction").Addr)
	}
	s := openOnly(t, url, store.Options{Lookups: 1})
	c := pg.Connect(t)
	const rows = 100_000
	sql(t, c, fmt.Sprintf(`insert into authz.revocations (kind, iss, value) select 1, 'i', i::text from generate_series(1, %d) i`, rows))
	sql(t, c, "analyze authz.revocations")
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	plain, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = plain.Close(t.Context()) })
	f := &followed{feed: s}
	f.sync(t)
	q := queryFor(jti("none"))
	next := 0
	return &costs{pg: pg, operations: map[string]func(n int){
		"sync": func(n int) {
			for range n {
				rows, _ := f.sync(t)
				if rows > 0 {
					f.sync(t)
				}
			}
		},
		"lookup": func(n int) {
			for range n {
				v, err := s.Lookup(t.Context(), q)
				require.NoError(t, err)
				require.Equal(t, authz.NotRevoked, v)
			}
		},
		"revoke": func(n int) {
			for range n {
				next++
				_, err := s.Append(t.Context(), []authz.Revocation{jti(fmt.Sprint(next))})
				require.NoError(t, err)
			}
		},
	}, plain: func(n int) {
		for range n {
			_, err := plain.Exec(t.Context(), "select 1")
			require.NoError(t, err)
		}
	}}
}

// of returns the processor time on the server of one call.
func (c *costs) of(t testing.TB, n int, f func(n int)) time.Duration {
	before := c.pg.CPU(t)
	f(n)
	return (c.pg.CPU(t) - before) / time.Duration(n)
}

// ratio returns how many times a "select 1" the operation costs: the median of
// several comparisons, side by side, because a busy machine changes both.
func (c *costs) ratio(t testing.TB, name string) float64 {
	f := c.operations[name]
	f(20) // plans what a session plans once
	c.plain(20)
	var ratios []float64
	for range 15 {
		ratios = append(ratios, float64(c.of(t, 300, f))/float64(c.of(t, 300, c.plain)))
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// TestStatementsAreCheap holds what a sidecar asks for again and again to a few
// times the least that a server can be asked, with default settings and JIT.
func TestStatementsAreCheap(t *testing.T) {
	for name, pooled := range map[string]bool{"direct": false, "pgbouncer": true} {
		t.Run(name, func(t *testing.T) {
			c := newCosts(t, pooled)
			for _, operation := range []string{"sync", "lookup"} {
				got := c.ratio(t, operation)
				t.Logf("%s: %.1f times select 1", operation, got)
				// Three to four times on a quiet machine; a busy one must not make the test fail.
				assert.LessOrEqualf(t, got, 6.0, "%s costs more than 6 times select 1", operation)
			}
		})
	}
}

// BenchmarkCost reports processor time on the server:
// go test ./store -run - -bench Cost.
func BenchmarkCost(b *testing.B) {
	for name, pooled := range map[string]bool{"direct": false, "pgbouncer": true} {
		c := newCosts(b, pooled)
		for _, operation := range []string{"select 1", "sync", "lookup", "revoke"} {
			b.Run(name+"/"+operation, func(b *testing.B) {
				f := c.plain
				if operation != "select 1" {
					f = c.operations[operation]
					b.ReportMetric(c.ratio(b, operation), "times-select-1")
				}
				b.ReportMetric(float64(c.of(b, max(b.N, 300), f).Nanoseconds())/1000, "server-µs/op")
			})
		}
	}
}
