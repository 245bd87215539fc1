package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"jwtbouncer/authz"
)

func (s *sqliteStore) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (snap authz.Snapshot, err error) {
	defer s.met.done("changes", time.Now(), &err)
	if since.Last > math.MaxInt64 {
		return authz.Snapshot{}, fmt.Errorf("sqlite: %w", errSince)
	}
	file := s.place.now.Load()
	snap, err = s.changesIn(ctx, file, since, nonce, row)
	s.place.renewed(file, err) // for the next call: rows may have been handed over
	if moved := s.place.check(file); moved != nil {
		return authz.Snapshot{}, moved // whatever went wrong, that is why
	}
	return snap, err
}

// changesIn reads everything in one transaction. Writers take turns in SQLite,
// so change numbers become visible in order and none is ever still open.
func (s *sqliteStore) changesIn(ctx context.Context, in *sqliteFile, since authz.Position, nonce string, row func(authz.Row)) (snap authz.Snapshot, err error) {
	tx, err := in.feed.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return authz.Snapshot{}, s.fail(err)
	}
	defer tx.Rollback()
	meta, err := readMeta(ctx, tx)
	switch {
	case errors.Is(err, ErrSchema):
		return authz.Snapshot{}, fmt.Errorf("sqlite %s: %w", s.path, err)
	case err != nil:
		return authz.Snapshot{}, s.fail(err)
	}
	tokens := meta.tokens()
	snap = authz.Snapshot{
		Nonce: nonce, Epoch: fmt.Sprintf("%s/%d/%d", meta.fileID, meta.epoch, in.nth), Proves: true, Clock: s.o.Clock.Now(),
		Xmin: uint64(meta.seq) + 1, Xmax: uint64(meta.seq) + 1,
		MaxStaleness: micro(meta.maxStaleness), MaxTokenTTL: tokens.Max, RaisedFrom: tokens.RaisedFrom, Raised: tokens.Raised,
	}
	// No id is ever open here, but whoever asks for some gets them.
	open, err := json.Marshal(since.Open)
	if err != nil {
		return authz.Snapshot{}, err
	}
	const change = `key, cast(kind as integer), iss, value, ` + sqliteNotBefore + `, ` + sqliteExpires + `, xid from revocations`
	rows, err := tx.QueryContext(ctx, `select `+change+` where xid > ?1
		union all select `+change+` where xid <= ?1 and xid in (select value from json_each(?2))`,
		int64(since.Last), string(open))
	if err != nil {
		return authz.Snapshot{}, s.fail(err)
	}
	defer rows.Close()
	var n float64
	var key, iss, value sql.RawBytes
	for rows.Next() {
		var kind authz.Kind
		var notBefore sql.NullInt64
		var expires, xid int64
		if err := rows.Scan(&key, &kind, &iss, &value, &notBefore, &expires, &xid); err != nil {
			return authz.Snapshot{}, s.fail(err)
		}
		r := authz.Row{Entry: authz.Entry{NotBefore: levelOf(notBefore), Expires: ceilSeconds(expires)}, XID: uint64(xid)}
		if len(key) == len(r.Key) {
			copy(r.Key[:], key)
		} else {
			r.Key = authz.RevocationKey(kind, string(iss), string(value))
		}
		row(r)
		n++
	}
	if err := rows.Err(); err != nil {
		return authz.Snapshot{}, s.fail(err)
	}
	s.met.rows.Add(n)
	return snap, nil
}

// errClosing: the connection is to be given back, for all are being closed.
var errClosing = errors.New("sqlite: the file is being opened again")

// watchInterval is how soon another process's commit is noticed. One poll
// reads a counter in shared memory.
const watchInterval = 20 * time.Millisecond

// watch polls data_version, which changes when another connection commits.
func (s *sqliteStore) watch(ctx context.Context, changed func()) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var conn *sql.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	var last int64
	var file *sqliteFile
	for {
		var version int64
		err := error(nil)
		if conn == nil {
			file = s.place.now.Load()
			conn, err = file.feed.Conn(ctx)
			last = 0
		}
		if err == nil {
			err = conn.QueryRowContext(ctx, `pragma data_version`).Scan(&version)
		}
		if moved := s.place.check(file); moved != nil {
			err = moved
		}
		if file.again.Load() || s.place.renewed(file, err) {
			err = errClosing
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// The number is only comparable on one connection: start over.
			if conn != nil {
				conn.Close()
				conn = nil
			}
		case version != last:
			last = version
			changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
