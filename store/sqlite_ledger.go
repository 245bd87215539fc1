package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"jwtbouncer/authz"
)

func (s *sqliteStore) Append(ctx context.Context, revocations []authz.Revocation) (stored []authz.Revocation, err error) {
	defer s.met.done("append", time.Now(), &err)
	orders, err := prepare(revocations, s.o.Clock.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.WriteTimeout)
	defer cancel()
	err = s.inWrite(ctx, func(tx *sql.Tx) error {
		if err := adopt(ctx, tx); err != nil {
			return err
		}
		put, err := tx.PrepareContext(ctx, `insert into revocations (kind, iss, value, not_before, expires_at, actor, reason, key) values (?, ?, ?, ?, ?, ?, ?, ?)
			on conflict (key, coalesce(not_before, 9223372036854775807)) do update set expires_at = excluded.expires_at where excluded.expires_at > expires_at`)
		if err != nil {
			return err
		}
		defer put.Close()
		get, err := tx.PrepareContext(ctx, `select `+sqliteColumns+` from revocations where key = ? and coalesce(not_before, 9223372036854775807) = ?`)
		if err != nil {
			return err
		}
		defer get.Close()
		var ttl int64
		if err := tx.QueryRowContext(ctx, `select max_token_ttl from meta`).Scan(&ttl); err != nil {
			return err
		}
		now := s.o.Clock.Now()
		for _, o := range orders.unique {
			r := o.Revocation
			if r.ExpiresAt.IsZero() {
				r.ExpiresAt = defaultExpiry(r, now, time.Duration(ttl)*time.Microsecond)
			}
			key := r.Key()
			if _, err := put.ExecContext(ctx, r.Kind, r.Issuer, r.Value, micros(r.NotBefore), micros(r.ExpiresAt), r.Actor, r.Reason, key[:]); err != nil {
				return err
			}
			level := any(authz.Always)
			if !r.NotBefore.IsZero() {
				level = r.NotBefore.UnixMicro()
			}
			got, err := scanSQLite(get.QueryRowContext(ctx, key[:], level))
			if err != nil {
				return fmt.Errorf("reading back what was stored: %w", err)
			}
			orders.fill(o.id, got)
		}
		return nil
	})
	if err != nil {
		return nil, s.fail(err)
	}
	return orders.stored, nil
}

// adopt gives rows written by hand (which cannot compute it) their key. A
// duplicate of an adopted row stays as it is: it is enforced all the same.
func adopt(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `select id, cast(kind as integer), iss, value from revocations where key is null limit 1000`)
	if err != nil {
		return err
	}
	defer rows.Close()
	keys := map[int64]authz.Key{}
	for rows.Next() {
		var id int64
		var r authz.Revocation
		if err := rows.Scan(&id, &r.Kind, &r.Issuer, &r.Value); err != nil {
			return err
		}
		keys[id] = r.Key()
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for id, key := range keys {
		if _, err := tx.ExecContext(ctx, `update or ignore revocations set key = ? where id = ?`, key[:], id); err != nil {
			return err
		}
	}
	return nil
}

// A row written by hand, before the schema refused it, may hold anything: what
// is no number counts as the strictest there is.
const (
	sqliteNotBefore = `iif(typeof(not_before) = 'integer', not_before, null)`
	sqliteExpires   = `iif(typeof(expires_at) = 'integer' and typeof(not_before) in ('integer', 'null'), expires_at, 253402300799000000)`
	sqliteColumns   = `id, cast(kind as integer), iss, value, ` + sqliteNotBefore + `, ` + sqliteExpires + `, revoked_at, actor, reason`
)

func scanSQLite(row interface{ Scan(...any) error }) (authz.Revocation, error) {
	var r authz.Revocation
	var id, expires, revoked int64
	var notBefore sql.NullInt64
	if err := row.Scan(&id, &r.Kind, &r.Issuer, &r.Value, &notBefore, &expires, &revoked, &r.Actor, &r.Reason); err != nil {
		return authz.Revocation{}, err
	}
	r.ID = strconv.FormatInt(id, 10)
	if notBefore.Valid {
		r.NotBefore = time.UnixMicro(notBefore.Int64).UTC()
	}
	r.ExpiresAt, r.RevokedAt = time.UnixMicro(expires).UTC(), time.UnixMicro(revoked).UTC()
	return r, nil
}

func (s *sqliteStore) List(ctx context.Context, f authz.Filter) (page []authz.Revocation, next string, err error) {
	defer s.met.done("list", time.Now(), &err)
	limit, after, err := pageOf(f)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.WriteTimeout)
	defer cancel()
	live := int64(math.MinInt64)
	if !f.IncludeExpired {
		live = s.o.Clock.Now().UnixMicro()
	}
	err = s.place.use(func(file *sqliteFile) error {
		page, err = file.page(ctx, after, f.Kind, f.Issuer, f.Value, live, limit+1)
		return err
	})
	if err != nil {
		return nil, "", s.fail(err)
	}
	page, next = cut(page, limit)
	return page, next, nil
}

func (f *sqliteFile) page(ctx context.Context, args ...any) (page []authz.Revocation, err error) {
	rows, err := f.list.QueryContext(ctx, `select `+sqliteColumns+` from revocations
		where id < ?1 and (?2 = 0 or kind = ?2) and (?3 = '' or iss = ?3) and (?4 = '' or value = ?4) and expires_at > ?5 order by id desc limit ?6`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanSQLite(rows)
		if err != nil {
			return nil, err
		}
		page = append(page, r)
	}
	return page, rows.Err()
}

func (s *sqliteStore) Lookup(ctx context.Context, q *authz.Query) (v authz.Verdict, err error) {
	defer s.met.done("lookup", time.Now(), &err)
	return s.lookup.verdict(ctx, q)
}

// read finds the strictest not_before for the keys.
func (s *sqliteStore) read(ctx context.Context, keys []authz.Key) (r reading, err error) {
	err = s.place.use(func(file *sqliteFile) error {
		r, err = s.readFrom(ctx, file, keys)
		return err
	})
	return r, s.fail(err)
}

func (s *sqliteStore) readFrom(ctx context.Context, file *sqliteFile, keys []authz.Key) (r reading, err error) {
	meta, err := readMeta(ctx, file.read)
	if err != nil {
		return reading{}, err
	}
	r.tokens = meta.tokens()
	const atOnce = 6 // a token has no more
	for chunk := range slices.Chunk(keys, atOnce) {
		args := make([]any, atOnce+1)
		args[0] = s.o.Clock.Now().Add(-expiryGrace).UnixMicro()
		for i := range chunk {
			args[i+1] = chunk[i][:]
		}
		some, err := file.level(ctx, keys, args)
		if err != nil {
			return reading{}, err
		}
		r.level = max(r.level, some)
	}
	return r, nil
}

func (f *sqliteFile) level(ctx context.Context, keys []authz.Key, args []any) (level int64, err error) {
	rows, err := f.read.QueryContext(ctx, `select key, cast(kind as integer), iss, value, `+sqliteNotBefore+` from revocations where `+sqliteExpires+` > ?1 and key in (?2, ?3, ?4, ?5, ?6, ?7)
		union all select key, cast(kind as integer), iss, value, `+sqliteNotBefore+` from revocations where `+sqliteExpires+` > ?1 and key is null`, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var r authz.Revocation
		var key []byte
		var notBefore sql.NullInt64
		if err := rows.Scan(&key, &r.Kind, &r.Issuer, &r.Value, &notBefore); err != nil {
			return 0, err
		}
		if key == nil && !slices.Contains(keys, r.Key()) {
			continue // written by hand, and about another token
		}
		level = max(level, levelOf(notBefore))
	}
	return level, rows.Err()
}

// levelOf turns a stored not_before into whole seconds, rounded up.
func levelOf(micros sql.NullInt64) int64 {
	if !micros.Valid {
		return authz.Always
	}
	return ceilSeconds(micros.Int64)
}

func ceilSeconds(micros int64) int64 {
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

var errSince = errors.New("since: not a position of this store")
