package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// canceller cancels at the server the statement of a caller who left: merely
// closing the socket would leave it running there, one more with every retry.
//
// It does what pgconn's own handler does, but for one thing: it never hangs up
// while the request is under way, not even when the statement has ended by
// itself meanwhile. pgbouncer 1.18 and 1.19.0 die of that (their issue 801),
// and the pooler's other clients with them.
type canceller struct {
	conn *pgconn.PgConn
	done chan struct{}
}

// cancelTimeout is how long a statement and the request to cancel it may take
// once the caller has left.
const cancelTimeout = time.Second

func newCanceller(c *pgconn.PgConn) ctxwatch.Handler { return &canceller{conn: c} }

// HandleCancel implements ctxwatch.Handler.
func (c *canceller) HandleCancel(context.Context) {
	c.done = make(chan struct{})
	_ = c.conn.Conn().SetDeadline(time.Now().Add(cancelTimeout))
	go func() {
		defer close(c.done)
		ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
		defer cancel()
		_ = c.conn.CancelRequest(ctx)
		// The server takes the request and delivers it a moment later; the
		// connection's next statement must not be what it meets.
		time.Sleep(100 * time.Millisecond)
	}()
}

// HandleUnwatchAfterCancel implements ctxwatch.Handler.
func (c *canceller) HandleUnwatchAfterCancel() {
	<-c.done
	_ = c.conn.Conn().SetDeadline(time.Time{})
}
