package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"jwtbouncer/authz"
)

func (s *sqliteStore) changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	snap, err := s.readChanges(ctx, since, nonce, row)
	s.file.reopen(err) // for the next call: rows may have been handed over
	if replaced := s.file.check(); replaced != nil {
		return authz.Snapshot{}, replaced // whatever else went wrong, that is why
	}
	return snap, s.fail(err)
}

// readChanges reads everything in one transaction. Writers take turns in SQLite,
// so change numbers become visible in order and none is ever still open.
func (s *sqliteStore) readChanges(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (snap authz.Snapshot, err error) {
	tx, err := s.file.feed.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return authz.Snapshot{}, err
	}
	defer tx.Rollback()
	var meta sqliteMeta
	if err := meta.scan(tx.QueryRowContext(ctx, `select `+sqliteMetaColumns+` from meta`)); err != nil {
		return authz.Snapshot{}, err
	}
	limits, tokens := meta.limits(), meta.tokens()
	snap = authz.Snapshot{
		Nonce: nonce, Epoch: limits.Incarnation, Proves: true, Clock: s.o.Clock.Now(), Xmax: uint64(meta.seq) + 1,
		MaxStaleness: limits.MaxStaleness, MaxTokenTTL: tokens.Max, RaisedFrom: tokens.RaisedFrom, Raised: tokens.Raised,
	}
	// No id is ever open here, but a caller that asks for some gets them.
	open, err := json.Marshal(since.Open)
	if err != nil {
		return authz.Snapshot{}, err
	}
	const change = `key, coalesce(not_before, 9223372036854775807), ` + sqliteExpiry + `, xid from revocations`
	rows, err := tx.QueryContext(ctx, `select `+change+` where xid > ?1
		union all select `+change+` where xid <= ?1 and xid in (select value from json_each(?2))`,
		int64(since.Last), string(open))
	if err != nil {
		return authz.Snapshot{}, err
	}
	defer rows.Close()
	var n float64
	var key sql.RawBytes
	for rows.Next() {
		var notBefore, expires, xid int64
		if err := rows.Scan(&key, &notBefore, &expires, &xid); err != nil {
			return authz.Snapshot{}, err
		}
		if len(key) != len(authz.Key{}) {
			return authz.Snapshot{}, fmt.Errorf("a key of %d bytes", len(key))
		}
		row(authz.Row{Entry: authz.Entry{Key: authz.Key(key), NotBefore: ceilSeconds(notBefore), Expires: ceilSeconds(expires)}, XID: uint64(xid)})
		n++
	}
	if err := rows.Err(); err != nil {
		return authz.Snapshot{}, err
	}
	s.met.rows.Add(n)
	return snap, nil
}

// watchInterval is how soon another process's commit is noticed. One poll
// reads a counter in shared memory.
const watchInterval = 20 * time.Millisecond

// Watch polls data_version, which changes when another connection commits.
func (s *sqliteStore) Watch(ctx context.Context, changed func()) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var conn *sql.Conn
	release := func() {
		if conn != nil {
			conn.Close()
			conn = nil
		}
	}
	defer release()
	var last, generation int64
	for {
		if conn != nil && s.file.generation.Load() != generation {
			release() // the connections are being reopened
		}
		if err := s.file.check(); err != nil {
			release()
			<-ctx.Done()
			return nil
		}
		version, err := int64(0), error(nil)
		if conn == nil {
			// The number is only comparable on one connection: start over.
			last, generation = 0, s.file.generation.Load()
			conn, err = s.file.feed.Conn(ctx)
		}
		if err == nil {
			err = conn.QueryRowContext(ctx, `pragma data_version`).Scan(&version)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.file.reopen(err)
			release()
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
