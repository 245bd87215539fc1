package store_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// enough is a number of revocations that is worth a packed snapshot.
const enough = 10_000

// fill inserts n revocations whose values are "1" to n.
func fill(t testing.TB, pg *harness.PG, n int) {
	t.Helper()
	pg.Exec(t, `insert into authz.revocations (kind, iss, value) select 1, $1, i::text from generate_series(1, $2::int) i`, issuer, n)
}

// unpack loads from the packed snapshot, as the product's follower does, and
// follows from there.
func (f *followed) unpack(t testing.TB, s *store.Store) {
	t.Helper()
	pack, err := s.Pack(t.Context(), "nonce")
	require.NoError(t, err)
	require.NotNil(t, pack, "there is no pack")
	require.Equal(t, "nonce", pack.Nonce)
	require.True(t, pack.Primary)
	f.Entries = map[authz.Key]authz.Entry{}
	n := 0
	require.NoError(t, s.Chunks(t.Context(), pack, func(sum authz.PackSum, data []byte) error {
		more, err := authz.UnpackChunk(sum, data, func(e authz.Entry) { f.Entries[e.Key] = e })
		n += more
		return err
	}))
	require.Equal(t, pack.Entries, n, "entries")
	f.Position = pack.Position
}

// same compares what a follower holds with a load row by row.
func (f *followed) same(t testing.TB, s *store.Store) {
	t.Helper()
	f.sync(t)
	rows := followed{feed: s}
	rows.sync(t)
	assert.Equal(t, len(rows.Entries), len(f.Entries), "revocations")
	assert.True(t, maps.Equal(rows.Entries, f.Entries), "revocations differ")
}

// A load from a pack ends where a load row by row ends: a transaction that was
// open when it was packed commits later, with an id below the watermark.
func TestPackedSnapshot(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	_, s := newFollowed(t, pg.URL)
	c, long := pg.Connect(t), pg.Connect(t)
	sql(t, c, `insert into authz.revocations (kind, iss, value, not_before, expires_at) values (2, $1, 'sub', '2024-01-01', 'infinity')`, issuer)
	none, err := s.Pack(t.Context(), "n")
	require.NoError(t, err)
	require.Nil(t, none, "a pack of one revocation")
	sql(t, long, "begin")
	insert(t, long, "long")
	fill(t, pg, enough)
	f := &followed{feed: s}
	f.unpack(t, s)
	require.NotEmpty(t, f.Position.Open, "no open transaction: the test shows nothing")
	insert(t, c, "after")
	f.same(t, s)
	sql(t, long, "commit")
	f.sees(t, map[string]bool{"long": true, "after": true, "1": true})
	f.same(t, s)
	again := &followed{feed: s}
	again.unpack(t, s) // from the same pack
	again.same(t, s)
}

// Whoever may pack may do so in a transaction that revokes afterwards: the rows
// have an id that the pack's snapshot does not call running.
func TestPackBeforeRevokingInOneTransaction(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	_, s := newFollowed(t, pg.URL)
	c, other := pg.Connect(t), pg.Connect(t)
	sql(t, c, "begin")
	insert(t, c, "before")
	fill(t, pg, enough) // with a higher id
	insert(t, other, "between")
	var packed bool
	require.NoError(t, c.QueryRow(t.Context(), "select authz.pack()").Scan(&packed))
	require.True(t, packed)
	insert(t, c, "after")
	sql(t, c, "commit")
	f := &followed{feed: s}
	f.unpack(t, s)
	f.sees(t, map[string]bool{"before": true, "between": true, "after": true})
	f.same(t, s)
}

// A pack ends with the store's life: a raised limit changes expiries, and after a
// restore ids may mean something else. Then the database packs anew.
func TestPackEndsWithTheEpoch(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	_, s := newFollowed(t, pg.URL)
	fill(t, pg, enough)
	pack := func() *authz.Pack {
		t.Helper()
		p, err := s.Pack(t.Context(), "n")
		require.NoError(t, err)
		require.NotNil(t, p)
		snap, err := s.Changes(t.Context(), p.Position, "n", func(authz.Row) {})
		require.NoError(t, err)
		assert.Equal(t, snap.Epoch, p.Position.Epoch, "the pack's epoch and the store's")
		return p
	}
	first := pack()
	insert(t, pg.Connect(t), "one more")
	assert.Equal(t, first.Sums[0], pack().Sums[0], "packed again for one revocation")
	require.NoError(t, s.BumpEpoch(t.Context()))
	assert.NotEqual(t, first.Position.Epoch, pack().Position.Epoch)
	raised := open(t, pg.URL, store.Options{MaxTokenTTL: 48 * time.Hour})
	assert.NotEqual(t, first.Sums[0], pack().Sums[0], "expiries by the former limit")
	f := &followed{feed: raised}
	f.unpack(t, raised)
	f.same(t, raised)
	// A copy that a dump brought from another server, whose ids are others.
	pg.Exec(t, "update authz.packs set system = system + 1")
	assert.NotEqual(t, first.Sums[0], pack().Sums[0])
	f.unpack(t, raised)
	f.same(t, raised)
}

// Nobody but the owner's function writes a pack, so nobody can forge "nothing is
// revoked" for those who load from it.
func TestPackRights(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	_, s := newFollowed(t, pg.URL)
	fill(t, pg, enough)
	_, err := s.Pack(t.Context(), "n")
	require.NoError(t, err)
	for _, role := range []string{"authz_sidecar", "authz_revoker"} {
		c := pg.Connect(t)
		sql(t, c, "set role "+role)
		for _, statement := range []string{
			"delete from authz.pack_chunks", "truncate authz.packs", "update authz.packs set open = '{}'",
			"insert into authz.pack_chunks values (1, 'a', 'b')", "select * from authz.packs", "select * from authz.pack_chunks",
		} {
			_, err := c.Exec(t.Context(), statement)
			assert.ErrorContainsf(t, err, "permission denied", "%s: %s", role, statement)
		}
		sql(t, c, "select authz.pack()")
	}
	login := pg.Database + "_sidecar"
	pg.Exec(t, "create role "+login+" login in role authz_sidecar")
	t.Cleanup(func() { pg.Use("postgres").Exec(t, "drop role "+login) })
	config, err := pgx.ParseConfig(pg.URL)
	require.NoError(t, err)
	sidecar := openOnly(t, fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", login, pg.Addr, config.Database), store.Options{})
	f := &followed{feed: sidecar}
	f.unpack(t, sidecar)
	f.same(t, sidecar)
}

// Four full loads run at a time, and others wait for their turn.
func TestFullLoadsTakeTurns(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	fill(t, pg, enough)
	pack, err := s.Pack(t.Context(), "n")
	require.NoError(t, err)
	var holders []*pgx.Conn
	for range 4 {
		c := pg.Connect(t)
		sql(t, c, "begin")
		var admitted bool
		require.NoError(t, c.QueryRow(t.Context(), "select authz.admit()").Scan(&admitted))
		require.True(t, admitted)
		holders = append(holders, c)
	}
	rows := func() error {
		_, err := s.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
		return err
	}
	chunks := func() error {
		return s.Chunks(t.Context(), pack, func(authz.PackSum, []byte) error { return nil })
	}
	describe := func() error {
		_, err := s.Pack(t.Context(), "n")
		return err
	}
	require.ErrorIs(t, rows(), authz.ErrTurn)
	require.ErrorIs(t, chunks(), authz.ErrTurn)
	require.ErrorIs(t, describe(), authz.ErrTurn, "describing the pack to everybody who waits would keep the server busy")
	f.sync(t) // who has loaded does not wait
	sql(t, holders[0], "commit")
	require.NoError(t, describe())
	require.NoError(t, rows())
	require.NoError(t, chunks())
}

// A standby serves chunks, however far behind it is: the primary names them by
// their sums and serves those that the standby does not have. A standby that was
// promoted changes nothing: a chunk with the right sum is the right chunk.
func TestStandbyServesChunks(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t)
	_, installed := newFollowed(t, pg.URL)
	fill(t, pg, enough)
	_, err := installed.Pack(t.Context(), "n")
	require.NoError(t, err)
	standby := pg.Standby(t)
	there := standby.Use(pg.Database)
	s := openOnly(t, pg.URL, store.Options{Standbys: []string{"postgres://nobody@127.0.0.1:1/nowhere?sslmode=disable", there.URL}})
	load := func() *followed {
		t.Helper()
		f := &followed{feed: s}
		f.unpack(t, s)
		f.same(t, s)
		return f
	}
	// The primary serves no load now, so what comes is the standby's.
	var holders []*pgx.Conn
	for range 4 {
		c := pg.Connect(t)
		sql(t, c, "begin")
		sql(t, c, "select authz.admit()")
		holders = append(holders, c)
	}
	f := &followed{feed: s}
	f.unpack(t, s)
	for _, c := range holders {
		sql(t, c, "commit")
	}
	f.same(t, s)

	// The standby lags: it has the former pack, and the primary has another.
	there.Exec(t, "select pg_wal_replay_pause()")
	harness.Eventually(t, 10*time.Second, "replay is paused", func(ctx context.Context) error {
		var state string
		if err := there.Connect(t).QueryRow(ctx, "select pg_get_wal_replay_pause_state()").Scan(&state); err != nil || state != "paused" {
			return fmt.Errorf("%s, %w", state, err)
		}
		return nil
	})
	insert(t, pg.Connect(t), "after the standby's pack")
	require.NoError(t, s.BumpEpoch(t.Context()))
	f = load()
	f.sees(t, map[string]bool{"1": true, "after the standby's pack": true})

	// The standby is promoted meanwhile and goes its own way.
	there.Exec(t, "select pg_wal_replay_resume()")
	standby.Promote(t)
	insert(t, there.Connect(t), "elsewhere")
	require.NoError(t, openOnly(t, there.URL, store.Options{}).BumpEpoch(t.Context()))
	f = load()
	f.sees(t, map[string]bool{"1": true, "after the standby's pack": true, "elsewhere": false})

	// After the failover to it, the pack that it inherited still holds there.
	s = openOnly(t, there.URL, store.Options{})
	load().sees(t, map[string]bool{"1": true, "elsewhere": true})
}

// BenchmarkFullLoad reports the processor time of a full load of a million
// revocations on the server.
func BenchmarkFullLoad(b *testing.B) {
	pg, _ := harness.DefaultPostgres(b)
	s := open(b, pg.URL, store.Options{})
	for range 10 {
		pg.Exec(b, `insert into authz.revocations (kind, iss, value) select 1, 'i', gen_random_uuid()::text from generate_series(1, 100000) i`)
	}
	start := time.Now()
	pack, err := s.Pack(b.Context(), "n")
	require.NoError(b, err)
	b.Logf("packed in %s", time.Since(start))
	for name, load := range map[string]func() error{
		"rows": func() error {
			_, err := s.Changes(b.Context(), authz.Position{}, "n", func(authz.Row) {})
			return err
		},
		"packed": func() error {
			pack, err := s.Pack(b.Context(), "n")
			if err == nil {
				err = s.Chunks(b.Context(), pack, func(authz.PackSum, []byte) error { return nil })
			}
			if err == nil {
				_, err = s.Changes(b.Context(), pack.Position, "n", func(authz.Row) {})
			}
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			before := pg.CPU(b)
			for b.Loop() {
				require.NoError(b, load())
			}
			b.ReportMetric((pg.CPU(b)-before).Seconds()/float64(b.N), "server-s/op")
		})
	}
	require.Equal(b, 1_000_000, pack.Entries)
}
