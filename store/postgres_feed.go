package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// feedConn is the feed's own connection, opened when needed. After a failed
// attempt the next one has to wait, so that wake-ups and catch-ups during an
// outage do not become a storm of dials.
type feedConn struct {
	mu     sync.Mutex // Changes is not concurrent; close may be
	conn   *pgx.Conn
	closed bool
	wait   time.Duration
	next   time.Time
	last   error // of the last attempt

	facts serverFacts // of the last answer
	turn  turn
}

const (
	firstRedial = 50 * time.Millisecond
	lastRedial  = time.Second // healing must not take longer
)

func (p *postgresStore) feedConn(ctx context.Context) (*pgx.Conn, error) {
	f := &p.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, errors.New("closed")
	case f.conn != nil && !f.conn.IsClosed():
		return f.conn, nil
	case time.Now().Before(f.next):
		return nil, fmt.Errorf("not tried again yet after: %w", f.last)
	}
	config := p.config.Copy()
	err := p.dial(ctx, config)
	var conn *pgx.Conn
	if err == nil {
		conn, err = pgx.ConnectConfig(ctx, config)
	}
	if err != nil {
		f.wait = min(max(2*f.wait, firstRedial), lastRedial)
		f.next, f.last = time.Now().Add(breaker.Jitter(f.wait, 0.25)), err
		return nil, err
	}
	p.met.connects.WithLabelValues("ok").Inc()
	f.conn, f.wait, f.next = conn, 0, time.Time{}
	return conn, nil
}

func (f *feedConn) drop(ctx context.Context) {
	f.mu.Lock()
	conn := f.conn
	f.conn = nil
	f.mu.Unlock()
	if conn != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		conn.Close(ctx)
	}
}

func (f *feedConn) close(ctx context.Context) {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.drop(ctx)
}

// A nonce becomes part of the text of a COPY, which takes no parameters.
var nonceForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// changes asks authz.sync, or streams authz.changes by binary COPY: neither side
// spools anything, and reading a row allocates nothing. Both work through a
// pooler, and as simple queries they let the server report whether they ran in a
// transaction of their own.
func (p *postgresStore) changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	if !nonceForm.MatchString(nonce) {
		return authz.Snapshot{}, errors.New("postgres: nonce must be 1 to 64 letters, digits, - or _")
	}
	if since.Epoch != "" {
		snap, err := p.sync(ctx, since, nonce, row)
		if !errors.Is(err, errMany) {
			return snap, err
		}
	}
	reader := &changeReader{row: row}
	question := fmt.Sprintf(`authz.changes(%d, '%s', '%s')`, since.Last, bigints(since.Open), nonce)
	columns := `(c).key, (c).not_before, (c).expires, (c).xid, (c).snapshot`
	admitted, err := p.inTurn(since.Epoch == "", func(gate string) (bool, error) {
		err := p.onFeed(ctx, func(ctx context.Context, c *pgx.Conn, progress func()) error {
			reader.progress = progress
			_, err := c.PgConn().CopyTo(ctx, reader, `copy (select `+columns+` from (select `+question+` as c`+gate+`) s) to stdout (format binary)`)
			if err == nil && gate != "" && reader.empty() {
				return nil
			}
			if err == nil {
				err = reader.end()
			}
			return err
		})
		return !reader.empty(), err
	})
	p.met.rows.Add(float64(reader.rows))
	if err != nil {
		return authz.Snapshot{}, err
	}
	if !admitted {
		return authz.Snapshot{}, fmt.Errorf("postgres %s: %w", p.where, authz.ErrTurn)
	}
	snap, err := parseSnapshot(reader.snapshot)
	if err != nil {
		p.feed.drop(ctx)
		return authz.Snapshot{}, p.fail(err)
	}
	if snap.Nonce != nonce {
		snap.Proves = false // the answer to another question; the connection is out of step
		p.feed.drop(ctx)
	}
	return snap, nil
}

// onFeed asks a question on the feed's connection. Silence ends it, not its
// duration: ten million rows take a while. ask calls progress when data has come.
// After an error the connection is dropped.
func (p *postgresStore) onFeed(ctx context.Context, ask func(ctx context.Context, c *pgx.Conn, progress func()) error) error {
	conn, err := p.feedConn(ctx)
	if err != nil {
		return p.fail(err)
	}
	if err := p.listen(ctx, conn, ask); err != nil {
		p.feed.drop(ctx)
		return p.fail(err)
	}
	return nil
}

func (p *postgresStore) listen(ctx context.Context, conn *pgx.Conn, ask func(ctx context.Context, c *pgx.Conn, progress func()) error) error {
	if status := conn.PgConn().TxStatus(); status != 'I' {
		return fmt.Errorf("postgres %s: %w: the connection is inside a transaction", p.where, ErrUnproven)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(p.o.FeedTimeout, func() { cancel(errSilence) })
	defer idle.Stop()
	err := ask(ctx, conn, func() { idle.Reset(p.o.FeedTimeout) })
	if err != nil && errors.Is(context.Cause(ctx), errSilence) {
		err = errors.Join(errSilence, err)
	}
	return err
}

var errSilence = errors.New("the server has gone silent")

// Fields of the snapshot, in the order of authz.changes.
const (
	snapSchema = iota
	snapNonce
	snapSystem
	snapTimeline
	snapEpoch
	snapFollows
	snapFresh
	snapClock
	snapStaleness
	snapTTL
	snapPreviousTTL
	snapRaised
	snapXmax
	snapOpen // and all that follow
)

func parseSnapshot(f []string) (authz.Snapshot, error) {
	var bad error
	number := func(i int) uint64 {
		n, err := strconv.ParseUint(f[i], 10, 63)
		bad = errors.Join(bad, err)
		return n
	}
	secs := func(i int) time.Duration {
		n, err := strconv.ParseFloat(f[i], 64)
		bad = errors.Join(bad, err)
		return time.Duration(n * float64(time.Second))
	}
	if len(f) == 0 {
		return authz.Snapshot{}, fmt.Errorf("%w: changes returned no description of its snapshot", ErrSchema)
	}
	if err := checkSchema(int(number(snapSchema))); bad == nil && err != nil {
		return authz.Snapshot{}, err
	}
	if len(f) < snapOpen {
		return authz.Snapshot{}, fmt.Errorf("%w: changes described its snapshot by only %d facts", ErrSchema, len(f))
	}
	s := authz.Snapshot{
		Nonce:        f[snapNonce],
		Epoch:        f[snapSystem] + "/" + f[snapTimeline] + "/" + f[snapEpoch],
		Xmax:         number(snapXmax),
		Proves:       f[snapFollows] == "false" && f[snapFresh] == "true",
		Clock:        time.Unix(0, int64(secs(snapClock))),
		MaxStaleness: secs(snapStaleness), MaxTokenTTL: secs(snapTTL),
		RaisedFrom: secs(snapPreviousTTL), Raised: int64(number(snapRaised)),
	}
	for i := snapOpen; i < len(f); i++ {
		s.Open = append(s.Open, number(i))
	}
	if bad != nil {
		return authz.Snapshot{}, fmt.Errorf("%w: snapshot: %w", ErrSchema, bad)
	}
	return s, nil
}
