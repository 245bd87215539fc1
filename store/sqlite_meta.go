package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"jwtbouncer/authz"
)

// sqliteMeta is the row of facts for the fleet. Of an older schema it lacks
// what came later.
type sqliteMeta struct {
	version, compatible                   int
	fileID                                string
	epoch, seq                            int64
	maxStaleness, maxTokenTTL             int64         // microseconds
	maxTokenTTLFrom, maxTokenTTLRaised    sql.NullInt64 // what it was, and until when
	maxStalenessFrom, maxStalenessLowered sql.NullInt64
}

// readMeta reads it in one statement, and so from one commit.
func readMeta(ctx context.Context, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}) (m sqliteMeta, err error) {
	rows, err := q.QueryContext(ctx, `select * from meta`)
	if err != nil {
		return m, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return m, err
	}
	known := map[string]any{
		"schema_version": &m.version, "schema_compatible": &m.compatible, "file_id": &m.fileID, "epoch": &m.epoch, "seq": &m.seq,
		"max_staleness": &m.maxStaleness, "max_token_ttl": &m.maxTokenTTL,
		"max_token_ttl_before": &m.maxTokenTTLFrom, "max_token_ttl_raised": &m.maxTokenTTLRaised,
		"max_staleness_before": &m.maxStalenessFrom, "max_staleness_lowered": &m.maxStalenessLowered,
	}
	into := make([]any, len(columns))
	for i, name := range columns {
		if into[i] = known[name]; into[i] == nil {
			into[i] = new(any) // a later schema's
		}
	}
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return m, err
		}
		return m, sql.ErrNoRows
	}
	if err := rows.Scan(into...); err != nil {
		return m, err
	}
	if err := rows.Close(); err != nil {
		return m, err
	}
	return m, checkSchema(m.version, m.compatible)
}

// tokens bounds what the absence of a revocation is proof for.
func (m *sqliteMeta) tokens() authz.TokenLimit {
	return authz.TokenLimit{Max: micro(m.maxTokenTTL), RaisedFrom: micro(m.maxTokenTTLFrom.Int64), Raised: ceilSeconds(m.maxTokenTTLRaised.Int64)}
}

// fleetStaleness is what no sidecar exceeds. The triggers noted the machine's
// time; a commit may take its own to be seen.
func (m *sqliteMeta) fleetStaleness() time.Duration {
	now, from := micro(m.maxStaleness), micro(m.maxStalenessFrom.Int64)
	if m.maxStalenessLowered.Valid && time.Now().Before(time.UnixMicro(m.maxStalenessLowered.Int64).Add(from+time.Minute)) {
		return max(now, from)
	}
	return now
}

// identity is empty for a file of an older schema, whose epoch may have been
// given before.
func (m *sqliteMeta) identity() string {
	if m.version < 3 {
		return ""
	}
	return fmt.Sprintf("%s/%d/%d", m.fileID, m.epoch, m.maxStalenessLowered.Int64)
}

func (f *sqliteFile) about(ctx context.Context) (Limits, error) {
	m, err := readMeta(ctx, f.read)
	if err != nil {
		return Limits{}, err
	}
	return Limits{
		SchemaVersion: m.version, MaxStaleness: micro(m.maxStaleness), MaxTokenTTL: micro(m.maxTokenTTL),
		FleetStaleness: m.fleetStaleness(), Identity: m.identity(),
	}, nil
}
