package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// rounds lets the sessions keep time by the follower's syncs.
type rounds struct {
	mu    sync.Mutex
	ended chan struct{} // closed when the present round ends
	last  bool
}

// next returns a channel that is closed when the present round ends.
func (r *rounds) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// end begins the next round, unless it was the last: then nothing waits any more.
func (r *rounds) end(last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last {
		close(r.ended)
	}
	if r.last = r.last || last; !r.last {
		r.ended = make(chan struct{})
	}
}

// writer is one of several sessions that write concurrently and fail in every way.
type writer struct {
	name string
	url  string
	rnd  *rand.Rand
	pid  atomic.Uint32
	n    int

	syncs *rounds

	committed func(values ...string) // known to be committed
	prepared  chan<- string
}

func (w *writer) value() string {
	w.n++
	return fmt.Sprintf("%s-%d", w.name, w.n)
}

// run writes until ctx ends, connecting again whenever it was killed.
func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := pgx.Connect(ctx, w.url)
		if err != nil {
			continue
		}
		w.pid.Store(c.PgConn().PID())
		for ctx.Err() == nil && w.once(c) == nil {
		}
		c.Close(context.Background())
	}
}

func (w *writer) once(c *pgx.Conn) error {
	ctx := context.Background()
	put := func(v string) error {
		_, err := c.Exec(ctx, `insert into authz.revocations (kind, iss, value) values (1, $1, $2)`, issuer, v)
		return err
	}
	pause := func() { // for some syncs
		for range w.rnd.IntN(4) {
			<-w.syncs.next()
		}
	}
	kind := w.rnd.IntN(10)
	if kind < 3 { // alone
		v := w.value()
		err := put(v)
		if err == nil {
			w.committed(v)
		}
		return err
	}
	if _, err := c.Exec(ctx, "begin"); err != nil {
		return err
	}
	var kept []string
	for range 1 + w.rnd.IntN(3) {
		v := w.value()
		if err := put(v); err != nil {
			return err
		}
		kept = append(kept, v)
		pause()
	}
	if kind >= 6 { // a part of it undone, a part released
		if _, err := c.Exec(ctx, "savepoint s"); err != nil {
			return err
		}
		if err := put(w.value()); err != nil {
			return err
		}
		if _, err := c.Exec(ctx, "rollback to s; savepoint r"); err != nil {
			return err
		}
		v := w.value()
		if err := put(v); err != nil {
			return err
		}
		kept = append(kept, v)
		if _, err := c.Exec(ctx, "release r"); err != nil {
			return err
		}
	}
	switch kind {
	case 3:
		_, err := c.Exec(ctx, "rollback")
		return err
	case 4, 8:
		id := w.name + "_" + fmt.Sprint(w.n)
		_, err := c.Exec(ctx, "prepare transaction '"+id+"'")
		if err == nil {
			w.prepared <- id
		}
		return err
	}
	_, err := c.Exec(ctx, "commit")
	if err == nil {
		w.committed(kept...)
	}
	return err
}

// Under concurrent commits, rollbacks, savepoints, prepared transactions and
// killed sessions the anchored watermark loses nothing: whatever had been
// committed before a sync began is known after it. Followers by "id > last"
// and "xid > last" lose rows in the same run.
func TestTortureOfChanges(t *testing.T) {
	t.Parallel()
	pg := harness.OwnPostgres(t, "max_prepared_transactions", "100", "max_connections", "60")
	s := open(t, pg.URL, store.Options{})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	syncing := &rounds{ended: make(chan struct{})}

	var mu sync.Mutex
	var done []string
	committed := func(values ...string) {
		mu.Lock()
		defer mu.Unlock()
		done = append(done, values...)
	}
	prepared := make(chan string, 10_000)
	var wg sync.WaitGroup
	var writers []*writer
	for i := range 8 {
		w := &writer{name: fmt.Sprintf("w%d", i), url: pg.URL, rnd: rand.New(rand.NewPCG(1, uint64(i))), committed: committed, prepared: prepared, syncs: syncing}
		writers = append(writers, w)
		wg.Go(func() { w.run(ctx) })
	}
	admin := pg.Connect(t)
	var kills, settled atomic.Int64
	wg.Go(func() { // kills sessions
		for ctx.Err() == nil {
			for range 7 {
				<-syncing.next()
			}
			if _, err := admin.Exec(context.Background(), "select pg_terminate_backend($1)", int32(writers[int(kills.Load())%len(writers)].pid.Load())); err == nil {
				kills.Add(1)
			}
		}
	})
	second := pg.Connect(t)
	settle := func(id string) {
		end := "commit"
		if settled.Add(1)%3 == 0 {
			end = "rollback"
		}
		_, err := second.Exec(context.Background(), end+" prepared '"+id+"'")
		assert.NoErrorf(t, err, "%s prepared", end)
	}
	wg.Go(func() { // ends prepared transactions, out of order and late
		var waiting []string
		for ctx.Err() == nil {
			select {
			case id := <-prepared:
				waiting = append(waiting, id)
			case <-syncing.next():
			}
			if len(waiting) > 12 {
				i := int(settled.Load()) * 7 % len(waiting)
				settle(waiting[i])
				waiting = append(waiting[:i], waiting[i+1:]...)
			}
		}
		for _, id := range waiting {
			settle(id)
		}
	})

	f := &followed{feed: s}
	naive := newNaive(t, pg)
	syncs, late := 0, 0
	step := func() {
		mu.Lock()
		before := len(done)
		mu.Unlock()
		f.sync(t)
		syncs++
		naive.sync(t)
		mu.Lock()
		defer mu.Unlock()
		for _, v := range done[:before] {
			if _, here := f.Entries[jti(v).Key()]; !here {
				late++
			}
		}
	}
	const enoughRows, enoughSyncs, enoughKills, enoughSettled = 400, 200, 20, 10
	for enough := false; !enough; {
		require.NoError(t, ctx.Err(), "too little happened in a minute")
		step()
		mu.Lock()
		enough = len(done) >= enoughRows && syncs >= enoughSyncs && kills.Load() >= enoughKills && settled.Load() >= enoughSettled
		mu.Unlock()
		if enough {
			stop()
		}
		syncing.end(enough)
	}
	wg.Wait()
	for len(prepared) > 0 {
		settle(<-prepared)
	}
	step()
	step()

	rows, err := admin.Query(t.Context(), "select value from authz.revocations")
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	lost := 0
	for _, v := range all {
		if _, here := f.Entries[jti(v).Key()]; !here {
			lost++
		}
	}
	byID, byXID := naive.lost(all)
	t.Logf("%d rows, %d syncs, %d sessions killed, %d prepared transactions ended: %d lost, %d late; by id > last: %d lost, by xid > last: %d lost",
		len(all), syncs, kills.Load(), settled.Load(), lost, late, byID, byXID)
	assert.LessOrEqualf(t, lost+late, 0, "%d lost, %d late", lost, late)
	extra := len(f.Entries) - len(all)
	assert.Zerof(t, extra, "%d rows more than were committed", extra)
	assert.NotZero(t, byID, "the naive followers lost nothing: the run was too tame to show anything")
	assert.NotZero(t, byXID, "the naive followers lost nothing: the run was too tame to show anything")
	v, err := s.Lookup(t.Context(), queryFor(jti(all[0])))
	assert.Equalf(t, authz.Revoked, v, "%v", err)
	assert.NoErrorf(t, err, "%s", v)
}

// naive are followers as one would write them at first.
type naive struct {
	c           *pgx.Conn
	lastID      int64
	lastXID     int64
	byID, byXID map[string]bool
}

func newNaive(t testing.TB, pg *harness.PG) *naive {
	return &naive{c: pg.Connect(t), byID: map[string]bool{}, byXID: map[string]bool{}}
}

func (n *naive) sync(t testing.TB) {
	t.Helper()
	follow := func(column string, last *int64, seen map[string]bool) {
		rows, err := n.c.Query(context.Background(), "select value, "+column+" from authz.revocations where "+column+" > $1", *last)
		require.NoError(t, err)
		defer rows.Close()
		for rows.Next() {
			var v string
			var at int64
			require.NoError(t, rows.Scan(&v, &at))
			seen[v] = true
			*last = max(*last, at)
		}
	}
	follow("id", &n.lastID, n.byID)
	follow("xid", &n.lastXID, n.byXID)
}

func (n *naive) lost(all []string) (byID, byXID int) {
	for _, v := range all {
		if !n.byID[v] {
			byID++
		}
		if !n.byXID[v] {
			byXID++
		}
	}
	return byID, byXID
}
