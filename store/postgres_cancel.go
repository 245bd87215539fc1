package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// canceller cancels a statement on the server when its caller leaves: closing
// the socket alone would leave it running there, one more with every retry.
//
// Unlike pgconn's own handler, it never closes the connection while the cancel
// request is in flight, not even when the statement has ended meanwhile.
// pgbouncer 1.18 and 1.19.0 crash on that (their issue 801), and all of their
// clients lose their connections.
type canceller struct {
	conn *pgconn.PgConn
	done chan struct{}
}

// cancelTimeout bounds a statement, and the request to cancel it, after the
// caller has left.
const cancelTimeout = time.Second

func newCanceller(c *pgconn.PgConn) ctxwatch.Handler { return &canceller{conn: c} }

// closeTimeout bounds the attempt to take leave of the server.
const closeTimeout = 100 * time.Millisecond

// HandleCancel implements ctxwatch.Handler.
func (c *canceller) HandleCancel(context.Context) {
	c.done = make(chan struct{})
	_ = c.conn.Conn().SetDeadline(time.Now().Add(cancelTimeout))
	go func() {
		defer close(c.done)
		ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
		defer cancel()
		_ = c.conn.CancelRequest(ctx)
		// The server delivers the cancellation a moment after accepting it; it
		// must not hit the connection's next statement.
		time.Sleep(100 * time.Millisecond)
	}()
}

// HandleUnwatchAfterCancel implements ctxwatch.Handler.
func (c *canceller) HandleUnwatchAfterCancel() {
	<-c.done
	_ = c.conn.Conn().SetDeadline(time.Time{})
}
