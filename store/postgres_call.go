package store

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// function is a function of the schema that returns one text, by its signature.
type function string

// caller calls functions by the protocol's function call. The server neither
// parses nor plans anything for it, so that a call costs less than "select 1". It
// counts as a simple query: it runs in a transaction of its own, outside of which
// now() equals statement_timestamp(), and pgbouncer passes it on.
//
// Whoever passes on only queries is asked by query, after some connections have
// not answered their first call.
type caller struct {
	log        *slog.Logger
	unanswered atomic.Int32 // connections in a row that did not answer their first call
}

const mostUnanswered = 3

// call returns the function's result. After an error other than the server's own,
// the connection is closed.
func (k *caller) call(ctx context.Context, c *pgx.Conn, f function, args ...string) (string, error) {
	if k.unanswered.Load() >= mostUnanswered {
		return query(ctx, c, f, args)
	}
	conn := c.PgConn()
	known := conn.CustomData()
	oid, old := known[string(f)].(uint32)
	if !old {
		// On each connection again: behind a pooler there may be another database by then.
		err := c.QueryRow(ctx, `select $1::regprocedure::oid::bigint`, string(f)).Scan(&oid)
		if err != nil {
			return "", err
		}
	}
	text, err := ask(ctx, conn, &pgproto3.FunctionCall{Function: oid, ArgFormatCodes: []uint16{pgx.TextFormatCode}, Arguments: encoded(args), ResultFormatCode: pgx.TextFormatCode})
	switch {
	case err == nil:
		known[string(f)] = oid
		k.unanswered.Store(0)
	case !conn.IsClosed(): // the server's error: perhaps the number is another function's by now
		delete(known, string(f))
		k.unanswered.Store(0)
	case !old && k.unanswered.Add(1) == mostUnanswered:
		k.log.Warn("the database, or a pooler before it, does not answer function calls; asking by query from now on, which costs the database more")
	}
	return text, err
}

// ask sends the call and reads up to the end of its answer.
func ask(ctx context.Context, conn *pgconn.PgConn, call *pgproto3.FunctionCall) (text string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ended := false
	defer func() {
		if !ended {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			_ = conn.Close(ctx)
		}
	}()
	conn.Frontend().Send(call)
	if err := conn.Frontend().Flush(); err != nil {
		return "", err
	}
	var failed error
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return "", err
		}
		switch m := message.(type) {
		case *pgproto3.FunctionCallResponse:
			text = string(m.Result)
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
			// What remains follows at once.
			finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
			defer cancel()
			ctx = finish
		case *pgproto3.ReadyForQuery:
			ended = true
			return text, failed
		}
	}
}

func encoded(args []string) [][]byte {
	list := make([][]byte, len(args))
	for i, a := range args {
		list[i] = []byte(a)
	}
	return list
}

// query calls the function in a select list: the server would spool what a
// function returns into "from".
func query(ctx context.Context, c *pgx.Conn, f function, args []string) (text string, err error) {
	name, _, _ := strings.Cut(string(f), "(")
	places, values := make([]string, len(args)), make([]any, len(args))
	for i, a := range args {
		places[i], values[i] = "$"+strconv.Itoa(i+1), a
	}
	err = c.QueryRow(ctx, fmt.Sprintf(`select %s(%s)::text`, name, strings.Join(places, ", ")), values...).Scan(&text)
	return text, err
}
