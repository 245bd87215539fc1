package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"jwtbouncer/authz"
)

// BridgeOptions describe the table of an existing writer.
type BridgeOptions struct {
	// Issuer is the "iss" its tokens have. Required.
	Issuer string
	// Table may be qualified by a schema; empty: revoked_tokens. Only the column
	// jti is required; expires_at and user_id are used if they exist.
	Table string
}

// InstallBridge puts triggers on another writer's table, then copies the rows
// that were committed before them.
func (p *postgresStore) InstallBridge(ctx context.Context, o BridgeOptions) (n int64, err error) {
	if o.Issuer == "" {
		return 0, fmt.Errorf("%w: bridge: the issuer of the table's tokens is required", authz.ErrInvalid)
	}
	rows, err := p.writes.Query(ctx, `select source, columns from authz.install_bridge($1, $2)`, cmp.Or(o.Table, "revoked_tokens"), o.Issuer)
	var sources []bridgeSource
	if err == nil {
		sources, err = pgx.CollectRows(rows, pgx.RowToStructByPos[bridgeSource])
	}
	if err != nil {
		return 0, p.bridgeFailed(ctx, cmp.Or(o.Table, "revoked_tokens"), err)
	}
	for _, source := range sources {
		copied, err := p.copyBridged(ctx, source, o.Issuer)
		n += copied
		if err != nil {
			return n, p.bridgeFailed(ctx, source.Table, err)
		}
	}
	return n, nil
}

// bridgeFailed is fail for statements that concern another writer's table.
func (p *postgresStore) bridgeFailed(ctx context.Context, table string, err error) error {
	switch stateOf(err) {
	case "42501":
		var login, schema string
		var owns bool
		if p.writes.QueryRow(ctx, `select quote_ident(current_user), (select quote_ident(nspowner::regrole::text) from pg_namespace where nspname = 'authz'),
			(select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = 'authz')`).Scan(&login, &schema, &owns) != nil {
			return p.fail(err)
		}
		if !owns {
			return fmt.Errorf("%w: postgres %s: the schema authz belongs to %s, and %s is not a member of that role; install the bridge as %s: %w", ErrForbidden, p.where, schema, login, schema, err)
		}
		return fmt.Errorf("%w: postgres %s: the login %s may not bridge the table; run `grant select, trigger on %s to %s;` as its owner: %w", ErrForbidden, p.where, login, table, login, err)
	case "42P01", "42703": // of the table, not of the schema, which was migrated before
		return fmt.Errorf("%w: postgres %s: bridge: %w", authz.ErrInvalid, p.where, err)
	}
	return p.fail(err)
}

// bridgeSource is a table with rows of a bridge.
type bridgeSource struct {
	Table   string // qualified and quoted
	Columns string // those of bridgeColumns that it has
}

var bridgeColumns = [...]string{"jti", "expires_at", "user_id"}

// bridgeBatch is the number of rows that one statement stores.
const bridgeBatch = 5000

// copyBridged reads with COPY, because any query of the table may run code of the
// table's owner with the rights of this login: casts, policies, expressions of
// indexes. The settings give values the text that the bridge's triggers give
// them, and refuse a table that would hide rows.
func (p *postgresStore) copyBridged(ctx context.Context, source bridgeSource, issuer string) (int64, error) {
	conn, err := p.writes.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `set local row_security = off; set local datestyle = 'ISO'; set local extra_float_digits = 1; set local bytea_output = 'hex'`); err != nil {
		return 0, err
	}
	b := &bridgeReader{store: func(rows [len(bridgeColumns)][]string) (n int64, err error) {
		err = p.writes.QueryRow(ctx, `select authz.bridge_rows($1, $2, $3::text[], $4::text[], $5::text[])`, source.Table, issuer, rows[0], rows[1], rows[2]).Scan(&n)
		return n, err
	}}
	for _, column := range strings.Split(source.Columns, ", ") {
		b.columns = append(b.columns, slices.Index(bridgeColumns[:], column))
	}
	if _, err := conn.Conn().PgConn().CopyTo(ctx, b, "copy "+source.Table+" ("+source.Columns+") to stdout"); err != nil {
		return b.stored, err
	}
	return b.stored, b.flush()
}

// bridgeReader reads the text form of COPY, which may be cut anywhere, and stores
// its rows in batches. A null is read as an empty text.
type bridgeReader struct {
	store   func(rows [len(bridgeColumns)][]string) (int64, error)
	columns []int // indexes in bridgeColumns, in the order of the fields
	rows    [len(bridgeColumns)][]string
	rest    []byte // an incomplete row
	stored  int64
}

// Write implements io.Writer for pgconn's CopyTo.
func (b *bridgeReader) Write(data []byte) (int, error) {
	b.rest = append(b.rest, data...)
	used := 0
	for {
		length := bytes.IndexByte(b.rest[used:], '\n')
		if length < 0 {
			b.rest = append(b.rest[:0], b.rest[used:]...)
			return len(data), nil
		}
		if err := b.row(string(b.rest[used : used+length])); err != nil {
			return 0, err
		}
		used += length + 1
	}
}

func (b *bridgeReader) row(line string) error {
	fields := strings.Split(line, "\t")
	if len(fields) != len(b.columns) {
		return fmt.Errorf("%w: %d columns", errCopy, len(fields))
	}
	for i := range b.rows {
		b.rows[i] = append(b.rows[i], "")
	}
	last := len(b.rows[0]) - 1
	for i, field := range fields {
		b.rows[b.columns[i]][last] = copyText(field)
	}
	if last+1 < bridgeBatch {
		return nil
	}
	return b.flush()
}

func (b *bridgeReader) flush() error {
	if len(b.rows[0]) == 0 {
		return nil
	}
	n, err := b.store(b.rows)
	b.stored += n
	for i := range b.rows {
		b.rows[i] = b.rows[i][:0]
	}
	return err
}

var copyEscapes = strings.NewReplacer(`\\`, `\`, `\b`, "\b", `\f`, "\f", `\n`, "\n", `\r`, "\r", `\t`, "\t", `\v`, "\v")

// copyText returns the value of a field of the text form of COPY.
func copyText(field string) string {
	if field == `\N` {
		return ""
	}
	return copyEscapes.Replace(field)
}
