package store

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// append sends the whole batch in one statement, which is its own transaction. A
// lost connection leaves the outcome open; repeating the statement settles it,
// because appending is idempotent.
func (p *postgresStore) append(ctx context.Context, b *batch) error {
	now := p.o.Clock.Now()
	err := p.appendOnce(ctx, b, now)
	if !errors.Is(err, errLost) {
		return err
	}
	for wait := 20 * time.Millisecond; wait < 400*time.Millisecond; wait *= 3 {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(breaker.Jitter(wait, 0.25)):
		}
		if p.appendOnce(ctx, b, now) == nil {
			return nil
		}
	}
	return err
}

func (p *postgresStore) appendOnce(ctx context.Context, b *batch, now time.Time) error {
	n := len(b.unique)
	kinds, notBefores, expiries := make([]int16, n), make([]string, n), make([]string, n)
	issuers, values, actors, reasons := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	byTTL := make([]bool, n)
	places := make(map[dedupKey]*batchEntry, n)
	for i := range b.unique {
		r := &b.unique[i]
		places[r.dedup] = r
		kinds[i], issuers[i], values[i], actors[i], reasons[i] = int16(r.Kind), r.Issuer, r.Value, r.RevokedBy, r.Reason
		notBefores[i], expiries[i], byTTL[i] = timestamp(r.NotBefore), timestamp(r.ExpiresAt), r.byTTL
	}
	conn, err := p.writes.Acquire(ctx)
	if err != nil {
		return p.fail(err)
	}
	defer conn.Release()
	if err := ctx.Err(); err != nil {
		return p.fail(err)
	}
	delete(conn.Conn().PgConn().CustomData(), unreplicated)
	rows, err := conn.Query(ctx, `select encode(key, 'hex'), id, `+pgNotBefore+`, (extract(epoch from expires_at) * 1000000)::bigint, `+pgRevokedAt+`, actor, reason,
			(extract(epoch from max_staleness) * 1000000)::bigint
		from authz.revoke($1::smallint[], $2::text[], $3::text[],
			array(select nullif(t, '')::timestamptz from unnest($4::text[]) with ordinality as u (t, i) order by i),
			array(select nullif(t, '')::timestamptz from unnest($5::text[]) with ordinality as u (t, i) order by i), $6::text[], $7::text[], $8::timestamptz, $9::boolean[])`,
		kinds, issuers, values, notBefores, expiries, actors, reasons, timestamp(now), byTTL)
	if err != nil {
		return p.unsettled(err)
	}
	defer rows.Close()
	filled := 0
	for rows.Next() {
		var key string
		var id, expires, revoked, staleness int64
		var notBefore *int64
		var r authz.Revocation
		err := rows.Scan(&key, &id, &notBefore, &expires, &revoked, &r.RevokedBy, &r.Reason, &staleness)
		d := dedupKey{notBefore: authz.Always}
		if err == nil {
			_, err = hex.Decode(d.key[:], []byte(key[:min(len(key), 2*len(d.key))]))
		}
		if err != nil {
			return fmt.Errorf("%w: postgres %s: reading back: %w", authz.ErrOutcomeUnknown, p.where, err)
		}
		if notBefore != nil {
			d.notBefore = *notBefore
		}
		e := places[d]
		if e == nil {
			continue
		}
		r.ID, r.Kind, r.Issuer, r.Value = strconv.FormatInt(id, 10), e.Kind, e.Issuer, e.Value
		setTimes(&r, notBefore, expires, revoked)
		b.fill(d, r)
		b.stored.MaxStaleness = micro(staleness)
		filled++
	}
	if err := rows.Err(); err != nil {
		return p.unsettled(err)
	}
	if _, there := conn.Conn().PgConn().CustomData()[unreplicated]; there {
		return fmt.Errorf("%w: postgres %s: committed here, but the wait for its synchronous standby was cancelled", authz.ErrOutcomeUnknown, p.where)
	}
	if filled != n {
		return fmt.Errorf("%w: postgres %s: %d of %d revocations came back", authz.ErrOutcomeUnknown, p.where, filled, n)
	}
	return nil
}

// unreplicated marks a connection whose last commit was not confirmed by the
// synchronous standby. The server reports that as success with a warning.
const unreplicated = "unreplicated"

func noticed(c *pgconn.PgConn, n *pgconn.Notice) {
	// The text is translated and the code is unspecific, but a warning without
	// context comes from the server itself, outside of any function.
	if (n.SeverityUnlocalized == "WARNING" || n.Severity == "WARNING") && n.Where == "" {
		c.CustomData()[unreplicated] = true
	}
}

// unsettled classifies the error of a statement that commits.
func (p *postgresStore) unsettled(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		severity := pg.SeverityUnlocalized
		if severity == "" {
			severity = pg.Severity
		}
		// An ERROR rolls back. FATAL may arrive during the commit.
		if severity == "ERROR" && pg.Code != "40003" {
			return p.fail(err)
		}
	}
	// pgconn.SafeToRetry does not help: when a simple query's connection is lost
	// before its first result, the remaining error is "conn closed", which
	// claims that nothing was sent.
	return fmt.Errorf("%w: postgres %s: %w", errLost, p.where, err)
}

// errLost is the unknown outcome of a statement whose connection was lost.
var errLost = fmt.Errorf("%w: the connection was lost", authz.ErrOutcomeUnknown)

// page passes every condition: the simple protocol sends constants, so the planner
// drops those that always hold, and finds the indexes on key and on value. A value
// is written as a range, and the first in order: for one that it believes to be
// frequent, the planner would read the newest rows, of whatever value, until it has
// found enough. The index on value is in the order of bytes, which makes a prefix a
// range too.
//
// The time limit goes to the server in the same round trip. A list that no index
// serves then ends there too, even if this process has gone and cannot cancel it.
func (p *postgresStore) page(ctx context.Context, f authz.Filter, after place, limit int) ([]authz.Revocation, error) {
	var key []byte
	if f.Kind != authz.KindUnknown && f.Issuer != "" && (f.Value != "" || f.Kind == authz.KindIss) {
		k := authz.RevocationKey(f.Kind, f.Issuer, f.Value)
		key = k[:]
	}
	from, order := `id < $1 and $4 = '' and $8 = '' and $9 = ''`, `id desc`
	value := f.Value
	switch {
	case f.ValuePrefix != "":
		value = f.ValuePrefix
		// Only one lower bound: the scan of an index begins at one, not at the tighter.
		from = `$8 = '' and $1 = 0 and value collate "C" >= $4 and ($9 = '' or value collate "C" < $9)`
		if after.id > 0 {
			from = `$4 <> '' and (value collate "C", id) > ($8 collate "C", $1) and ($9 = '' or value collate "C" < $9)`
		}
		order = `value collate "C", id`
	case f.Value != "":
		from = `id < $1 and $8 = '' and $9 = '' and value collate "C" between $4 and $4`
		order = `value collate "C" desc, id desc`
	}
	var b pgx.Batch
	if deadline, ok := ctx.Deadline(); ok {
		b.Queue(`select set_config('statement_timeout', $1, true)`, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10))
	}
	b.Queue(`select id, kind, iss, value, `+pgNotBefore+`, `+pgExpiresAt+`, `+pgRevokedAt+`, actor, reason from authz.revocations
		where `+from+` and ($2 = 0 or kind = $2) and ($3 = '' or iss = $3)
			and ($5::bytea is null or key = $5::bytea)
			and ($10 = '' or revoked_at >= nullif($10, '')::timestamptz)
			and ($11 = '' or actor = $11 or right($11, 1) = ':' and left(actor, length($11)) = $11) and ($6 or `+pgExpiry+` > now()) order by `+order+` limit $7`,
		after.id, int16(f.Kind), f.Issuer, value, key, f.IncludeExpired, limit, after.value, prefixEnd(f.ValuePrefix), timestamp(f.Since), f.By)
	results := p.lists.SendBatch(ctx, &b)
	var page []authz.Revocation
	var err error
	for range b.Len() - 1 {
		_, failed := results.Exec()
		err = errors.Join(err, failed)
	}
	if err == nil {
		var rows pgx.Rows
		if rows, err = results.Query(); err == nil {
			page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (authz.Revocation, error) { return scanRevocation(row) })
		}
	}
	if err = cmp.Or(err, results.Close()); err != nil {
		return nil, p.fail(err)
	}
	return page, nil
}

// timestamp formats a time so that every datestyle reads it alike. The zero time
// is an empty text, because array_nulls can change how a null in an array is
// read.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
