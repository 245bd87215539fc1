package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// holdLists makes every list wait inside the server until release is called.
func holdLists(t testing.TB, c *pgx.Conn) (release func()) {
	t.Helper()
	sql(t, c, "select pg_advisory_lock(1)")
	sql(t, c, `create or replace function authz.expiry(expires_at timestamptz, ttl_from timestamptz, max_token_ttl interval) returns timestamptz language plpgsql as $$ begin
		if current_query() like '%order by id desc%' then perform pg_advisory_xact_lock_shared(1); end if;
		return least(greatest(expires_at, ttl_from + max_token_ttl), '9999-12-31 23:59:59+00'::timestamptz); end $$`)
	return func() { t.Helper(); sql(t, c, "select pg_advisory_unlock(1)") }
}

// listsHeld returns when n lists wait.
func listsHeld(t testing.TB, c *pgx.Conn, pg *harness.PG, n int) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "the lists to wait", func(ctx context.Context) error {
		var have int
		err := c.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = $1 and wait_event = 'advisory'`, pg.Database).Scan(&have)
		if err == nil && have != n {
			err = fmt.Errorf("%d", have)
		}
		return err
	})
}

// However many lists are wanted, and however long each takes, a revocation and
// what else writes find connections. Lists beyond those that may wait are refused
// at once, and the others when their callers' time is over.
func TestListsStarveNobody(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{WriteTimeout: 10 * time.Second})
	_, err := s.Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
	c := pg.Connect(t)
	release := holdLists(t, c)
	const callers = 100
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var busy, gone atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			_, _, err := s.List(ctx, authz.Filter{})
			assert.ErrorIs(t, err, authz.ErrUnavailable)
			if gone.Add(1); ctx.Err() == nil {
				busy.Add(1)
				assert.ErrorIs(t, err, store.ErrBusy)
			}
		})
	}
	listsHeld(t, c, pg, 2)
	harness.Eventually(t, 20*time.Second, "the rest to be refused", func(context.Context) error {
		if n := busy.Load(); n != callers-2-64 {
			return fmt.Errorf("%d refused", n)
		}
		return nil
	})
	for i := range 5 {
		_, err := s.Append(t.Context(), []authz.Revocation{jti(fmt.Sprint("beside lists ", i))})
		require.NoError(t, err)
	}
	require.NoError(t, usable(t, s))
	_, err = s.GC(t.Context())
	require.NoError(t, err)
	leave()
	wg.Wait()
	assert.Equal(t, int64(callers), gone.Load())
	release()
	page, _, err := s.List(t.Context(), authz.Filter{})
	require.NoError(t, err)
	assert.Len(t, page, 6)
}

// The server ends a list by itself: the process that wanted it may be gone.
func TestListEndsAtTheServer(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	_, err := open(t, pg.URL, store.Options{}).Append(t.Context(), []authz.Revocation{jti("a")})
	require.NoError(t, err)
	s := openOnly(t, pg.Via(proxy.Addr), store.Options{WriteTimeout: 2 * time.Second})
	c := pg.Connect(t)
	release := holdLists(t, c)
	defer release()
	done := make(chan error, 1)
	go func() {
		_, _, err := s.List(t.Context(), authz.Filter{})
		done <- err
	}()
	listsHeld(t, c, pg, 1)
	proxy.Down() // no request to cancel arrives
	require.ErrorIs(t, <-done, authz.ErrUnavailable)
	listsHeld(t, c, pg, 0)
}

// Finding a value, or its beginning, among many revocations reads the index on it,
// and only as much of it as fills the page.
func TestListByValueUsesTheIndex(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	s := open(t, pg.URL, store.Options{})
	c := pg.Connect(t)
	// The value that half of them have is none of the newest.
	sql(t, c, `insert into authz.revocations (kind, iss, value, not_before) select 2, $1, 'often', '2026-01-01'::timestamptz + i * interval '1 second' from generate_series(1, 20000) i`, issuer)
	sql(t, c, `insert into authz.revocations (kind, iss, value) select 1, $1, i::text from generate_series(1, 20000) i`, issuer)
	sql(t, c, `analyze authz.revocations`)
	counters := func() (seq, byValue, rows int64) {
		sql(t, c, "select pg_stat_clear_snapshot()")
		require.NoError(t, c.QueryRow(t.Context(), `select t.seq_scan, i.idx_scan, t.seq_tup_read + t.idx_tup_fetch from pg_stat_user_tables t, pg_stat_user_indexes i
			where t.relid = 'authz.revocations'::regclass and i.indexrelid = 'authz.revocations_value'::regclass`).Scan(&seq, &byValue, &rows))
		return seq, byValue, rows
	}
	var seq, byValue, read int64
	harness.Eventually(t, 20*time.Second, "settled statistics", func(context.Context) error {
		last := seq // building the indexes was counted
		if seq, byValue, read = counters(); seq == 0 || seq != last {
			return fmt.Errorf("%d", seq)
		}
		return nil
	})
	filters := []authz.Filter{
		{Value: "17"}, {Value: "often"}, {Value: "nobody's"}, {Value: "17", Issuer: issuer}, {Value: "17", Kind: authz.KindJTI},
		{ValuePrefix: "17"}, {ValuePrefix: "oft", After: "15000 often"}, {ValuePrefix: "often", Kind: authz.KindSub}, {ValuePrefix: "nobody's"},
		{Value: "often", IncludeExpired: true}, {Value: "often", After: "15000"}, {Value: "often", Limit: 1000},
	}
	for _, f := range filters {
		page, _, err := s.List(t.Context(), f)
		require.NoError(t, err)
		assert.Equalf(t, f.Value+f.ValuePrefix == "nobody's", len(page) == 0, "%+v", f)
	}
	require.NoError(t, s.Close()) // its sessions report their numbers
	var seqAfter, readAfter int64
	harness.Eventually(t, 20*time.Second, "statistics", func(context.Context) error {
		var n int64
		if seqAfter, n, readAfter = counters(); n-byValue < int64(len(filters)) {
			return fmt.Errorf("%d lists by value", n-byValue)
		}
		return nil
	})
	assert.Zero(t, seqAfter-seq, "sequential scans")
	assert.Less(t, readAfter-read, int64(2000), "rows that were read")
}
