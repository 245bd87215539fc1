package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// append is the only writer at that moment, so a rise of max_staleness comes before
// or after it as a whole. The comment on authz.revoke in the PostgreSQL schema says
// why the value that it reads limits every sidecar.
func (s *sqliteStore) append(ctx context.Context, b *batch) error {
	return s.fail(s.file.writing(ctx, func(tx *sql.Tx) error { return s.insert(ctx, tx, b) }))
}

func (s *sqliteStore) insert(ctx context.Context, tx *sql.Tx, b *batch) error {
	var m sqliteMeta
	if err := m.scan(tx.QueryRowContext(ctx, `select `+sqliteMetaColumns+` from meta`)); err != nil {
		return err
	}
	put, err := tx.PrepareContext(ctx, `insert into revocations as r (kind, iss, value, not_before, expires_at, ttl_from, actor, reason, key, xid) values (?, ?, ?, ?, ?, ?, ?, ?, ?, -1)
		on conflict (key, coalesce(not_before, 9223372036854775807)) do update set
			expires_at = max(coalesce(r.expires_at, excluded.expires_at), coalesce(excluded.expires_at, r.expires_at)),
			ttl_from = max(coalesce(r.ttl_from, excluded.ttl_from), coalesce(excluded.ttl_from, r.ttl_from))
		where excluded.expires_at > coalesce(r.expires_at, 0) or excluded.ttl_from > coalesce(r.ttl_from, 0)`)
	if err != nil {
		return err
	}
	defer put.Close()
	get, err := tx.PrepareContext(ctx, `select `+sqliteColumns+` from revocations where key = ? and coalesce(not_before, 9223372036854775807) = ?`)
	if err != nil {
		return err
	}
	defer get.Close()
	now := s.o.Clock.Now()
	for i := range b.unique {
		r := &b.unique[i]
		expires, ttlFrom := r.ExpiresAt, time.Time{}
		switch {
		case !expires.IsZero() && !r.byTTL:
		case r.Kind == authz.KindKID && r.NotBefore.IsZero():
			// A withdrawn key can sign tokens of any age while it is published: its
			// revocation never ends by itself.
			expires = forever
		case r.NotBefore.After(now):
			ttlFrom = r.NotBefore
		default:
			ttlFrom = ceilMicro(now)
		}
		if _, err := put.ExecContext(ctx, r.Kind, r.Issuer, r.Value, micros(r.NotBefore), micros(expires), micros(ttlFrom), r.RevokedBy, r.Reason, r.dedup.key[:]); err != nil {
			return err
		}
		got, err := scanRevocation(get.QueryRowContext(ctx, r.dedup.key[:], r.dedup.notBefore))
		if err != nil {
			return fmt.Errorf("reading back what was stored: %w", err)
		}
		b.fill(r.dedup, got)
	}
	b.stored.MaxStaleness = micro(m.maxStaleness)
	return nil
}

// sqliteExpiry is when a revocation ends under the limit in force: the later of
// its own expiry and the limit's, and no later than authz.LastSecond.
const (
	sqliteExpiry  = `min(max(coalesce(expires_at, 0), coalesce(ttl_from + (select max_token_ttl from meta), 0)), 253402300799000000)`
	sqliteColumns = `id, kind, iss, value, not_before, ` + sqliteExpiry + `, revoked_at, actor, reason`
)

func (s *sqliteStore) page(ctx context.Context, f authz.Filter, after place, limit int) (page []authz.Revocation, err error) {
	live := int64(math.MinInt64)
	if !f.IncludeExpired {
		live = s.o.Clock.Now().UnixMicro()
	}
	query, args := sqlitePage(f, after, live, limit)
	err = s.file.reading(func() error {
		page, err = s.readPage(ctx, query, args)
		return err
	})
	return page, s.fail(err)
}

// sqlitePage returns the query for a page. It holds only the conditions that
// restrict, because SQLite plans a query before it knows the parameters.
func sqlitePage(f authz.Filter, after place, live int64, limit int) (query string, args []any) {
	order := `id desc`
	query, args = `select `+sqliteColumns+` from revocations where `+sqliteExpiry+` > ?`, []any{live}
	end := prefixEnd(f.ValuePrefix)
	if f.ValuePrefix != "" {
		order = `value, id`
	}
	first := after == place{} // page of a list by prefix
	for _, c := range []struct {
		condition string
		args      []any
		restrict  bool
	}{
		{`id < ?`, []any{after.id}, f.ValuePrefix == ""}, {`value >= ?`, []any{f.ValuePrefix}, first},
		{`(value, id) > (?, ?)`, []any{after.value, after.id}, f.ValuePrefix != "" && !first}, {`value < ?`, []any{end}, end != ""},
		{`kind = ?`, []any{f.Kind}, f.Kind != authz.KindUnknown}, {`iss = ?`, []any{f.Issuer}, f.Issuer != ""}, {`value = ?`, []any{f.Value}, f.Value != ""},
		{`revoked_at >= ?`, []any{f.Since.UnixMicro()}, !f.Since.IsZero()},
		{`actor = ?`, []any{f.By}, f.By != "" && !strings.HasSuffix(f.By, ":")},
		{`substr(actor, 1, length(?)) = ?`, []any{f.By, f.By}, strings.HasSuffix(f.By, ":")},
	} {
		if c.restrict {
			query += ` and ` + c.condition
			args = append(args, c.args...)
		}
	}
	return query + ` order by ` + order + ` limit ?`, append(args, limit)
}

func (s *sqliteStore) readPage(ctx context.Context, query string, args []any) (page []authz.Revocation, err error) {
	rows, err := s.file.list.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRevocation(rows)
		if err != nil {
			return nil, err
		}
		page = append(page, r)
	}
	return page, rows.Err()
}

func (s *sqliteStore) read(ctx context.Context, keys []authz.Key) (r result, err error) {
	err = s.file.reading(func() error {
		r, err = s.readOnce(ctx, keys)
		return err
	})
	return r, s.fail(err)
}

// readOnce reads rows and limits in one statement, and so from one commit.
func (s *sqliteStore) readOnce(ctx context.Context, keys []authz.Key) (result, error) {
	args := []any{s.o.Clock.Now().Add(-authz.ExpiryGrace).UnixMicro()}
	for i := range keys {
		args = append(args, keys[i][:])
	}
	var m sqliteMeta
	var notBefore int64
	err := m.scan(s.file.read.QueryRowContext(ctx, `select `+sqliteMetaColumns+`,
		coalesce((select max(coalesce(not_before, 9223372036854775807)) from revocations where `+sqliteExpiry+` > ? and key in (?`+strings.Repeat(", ?", len(keys)-1)+`)), 0) from meta`,
		args...), &notBefore)
	return result{notBefore: ceilSeconds(notBefore), tokens: m.tokens()}, err
}

// ceilSeconds turns microseconds into seconds, rounded up.
func ceilSeconds(micros int64) int64 {
	if micros == authz.Always {
		return authz.Always
	}
	s := micros / 1e6
	if micros%1e6 > 0 {
		s++
	}
	return s
}

func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}
