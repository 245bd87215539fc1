package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"jwtbouncer/authz"
)

// Append sends the whole batch in one statement, which is its own transaction.
func (p *postgresStore) Append(ctx context.Context, revocations []authz.Revocation) (stored []authz.Revocation, err error) {
	defer p.met.done("append", time.Now(), &err)
	orders, err := prepare(revocations, p.o.Clock.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.WriteTimeout)
	defer cancel()
	err = p.append(ctx, orders)
	if errors.Is(err, errLost) {
		// A lost connection leaves the outcome open; asking for the same again
		// settles it, because appending is idempotent.
		for wait := 20 * time.Millisecond; err != nil && wait < 400*time.Millisecond; wait *= 3 {
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(jitter(wait, 0.25)):
			}
			if p.append(ctx, orders) == nil {
				err = nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return orders.stored, nil
}

// append stores the batch. A server whose clock is behind ours would end what
// has no expiry too early: that is ordered again with ours, which only ever
// makes it last longer.
func (p *postgresStore) append(ctx context.Context, orders *orders) error {
	err := p.appendOnce(ctx, orders)
	if err != nil || !orders.endsEarly(p.o.Clock.Now(), p.o.MaxTokenTTL) {
		return err
	}
	if err := p.appendOnce(ctx, orders); err != nil {
		return fmt.Errorf("%w: postgres %s: its clock is behind, and moving the expiry failed: %w", authz.ErrOutcomeUnknown, p.where, err)
	}
	return nil
}

func (p *postgresStore) appendOnce(ctx context.Context, orders *orders) error {
	n := len(orders.unique)
	kinds, notBefores, expiries := make([]int16, n), make([]*time.Time, n), make([]*time.Time, n)
	issuers, values, actors, reasons := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i := range orders.unique {
		r := &orders.unique[i]
		kinds[i], issuers[i], values[i], actors[i], reasons[i] = int16(r.Kind), r.Issuer, r.Value, r.Actor, r.Reason
		if !r.NotBefore.IsZero() {
			notBefores[i] = &r.NotBefore
		}
		if !r.ExpiresAt.IsZero() {
			expiries[i] = &r.ExpiresAt
		}
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
	rows, err := conn.Query(ctx, `select key, id, not_before, expires_at, revoked_at, actor, reason
		from authz.revoke($1::smallint[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::text[])`,
		kinds, issuers, values, notBefores, expiries, actors, reasons)
	if err != nil {
		return p.unsettled(err)
	}
	defer rows.Close()
	byID := make(map[identity]*order, n)
	for i := range orders.unique {
		byID[orders.unique[i].id] = &orders.unique[i]
	}
	filled := 0
	for rows.Next() {
		var key []byte
		var id int64
		var notBefore *time.Time
		var r authz.Revocation
		if err := rows.Scan(&key, &id, &notBefore, &r.ExpiresAt, &r.RevokedAt, &r.Actor, &r.Reason); err != nil {
			return fmt.Errorf("%w: postgres %s: reading back: %w", authz.ErrOutcomeUnknown, p.where, err)
		}
		at := identity{notBefore: authz.Always}
		copy(at.key[:], key)
		if notBefore != nil {
			r.NotBefore = notBefore.UTC()
			at.notBefore = notBefore.UnixMicro()
		}
		o := byID[at]
		if o == nil {
			continue
		}
		r.ID, r.Kind, r.Issuer, r.Value = strconv.FormatInt(id, 10), o.Kind, o.Issuer, o.Value
		r.ExpiresAt, r.RevokedAt = r.ExpiresAt.UTC(), r.RevokedAt.UTC()
		orders.fill(at, r)
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
// synchronous standby. The server reports that as a mere warning, and success.
const unreplicated = "unreplicated"

func noticed(c *pgconn.PgConn, n *pgconn.Notice) {
	// Its text is translated and its code unspecific; but a warning without
	// context is the server's own, raised outside of any function.
	if (n.SeverityUnlocalized == "WARNING" || n.Severity == "WARNING") && n.Where == "" {
		c.CustomData()[unreplicated] = true
	}
}

// unsettled sorts the error of a statement that was to commit.
func (p *postgresStore) unsettled(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		severity := pg.SeverityUnlocalized
		if severity == "" {
			severity = pg.Severity
		}
		// An ERROR rolls back. FATAL may be said while committing.
		if severity == "ERROR" && pg.Code != "40003" {
			return p.fail(err)
		}
	}
	// pgconn.SafeToRetry is no help: when a simple query's connection is lost
	// before its first result, the error left over is "conn closed", which
	// claims that nothing was sent.
	return fmt.Errorf("%w: postgres %s: %w", errLost, p.where, err)
}

// errLost is the unknown outcome of a statement whose connection was lost.
var errLost = fmt.Errorf("%w: the connection was lost", authz.ErrOutcomeUnknown)

func (p *postgresStore) List(ctx context.Context, f authz.Filter) (page []authz.Revocation, next string, err error) {
	defer p.met.done("list", time.Now(), &err)
	limit, after, err := pageOf(f)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.WriteTimeout)
	defer cancel()
	args := []any{after}
	where := []string{"id < $1"}
	and := func(cond string, arg any) {
		args = append(args, arg)
		where = append(where, cond+" $"+strconv.Itoa(len(args)))
	}
	if f.Kind != authz.KindUnknown {
		and("kind =", int16(f.Kind))
	}
	if f.Issuer != "" {
		and("iss =", f.Issuer)
	}
	if f.Value != "" {
		and("value =", f.Value)
	}
	if f.Kind != authz.KindUnknown && f.Issuer != "" && (f.Value != "" || f.Kind == authz.KindIss) {
		key := authz.RevocationKey(f.Kind, f.Issuer, f.Value)
		and("key =", key[:]) // the same condition, with an index
	}
	if !f.IncludeExpired {
		where = append(where, "expires_at > now()")
	}
	args = append(args, limit+1)
	// The conditions are constants; what a caller chose is only ever an argument.
	rows, err := p.writes.Query(ctx, `select id, kind, iss, value, not_before, expires_at, revoked_at, actor, reason from authz.revocations where `+
		strings.Join(where, " and ")+` order by id desc limit $`+strconv.Itoa(len(args)), args...)
	if err != nil {
		return nil, "", p.fail(err)
	}
	page, err = pgx.CollectRows(rows, scanPostgres)
	if err != nil {
		return nil, "", p.fail(err)
	}
	page, next = cut(page, limit)
	return page, next, nil
}

func scanPostgres(row pgx.CollectableRow) (authz.Revocation, error) {
	var r authz.Revocation
	var id int64
	var kind int16
	var notBefore *time.Time
	if err := row.Scan(&id, &kind, &r.Issuer, &r.Value, &notBefore, &r.ExpiresAt, &r.RevokedAt, &r.Actor, &r.Reason); err != nil {
		return r, err
	}
	r.ID, r.Kind = strconv.FormatInt(id, 10), authz.Kind(kind)
	if notBefore != nil {
		r.NotBefore = notBefore.UTC()
	}
	r.ExpiresAt, r.RevokedAt = r.ExpiresAt.UTC(), r.RevokedAt.UTC()
	return r, nil
}
