package store

import (
	"database/sql"
	"fmt"

	"jwtbouncer/authz"
)

// sqliteMeta is the row of facts for the whole fleet.
type sqliteMeta struct {
	version                   int
	fileID                    string
	epoch, seq                int64
	maxStaleness, maxTokenTTL int64 // microseconds
	previousTTL, raisedAt     sql.NullInt64
}

const sqliteMetaColumns = `meta.schema_version, meta.file_id, meta.epoch, meta.seq, meta.max_staleness, meta.max_token_ttl, meta.previous_token_ttl, meta.raised_at`

// scan reads sqliteMetaColumns, and behind them more, from one row.
func (m *sqliteMeta) scan(row *sql.Row, more ...any) error {
	err := row.Scan(append([]any{&m.version, &m.fileID, &m.epoch, &m.seq, &m.maxStaleness, &m.maxTokenTTL, &m.previousTTL, &m.raisedAt}, more...)...)
	if err != nil {
		return err
	}
	return checkSchema(m.version)
}

// tokens bounds the tokens for which the absence of a revocation is proof.
func (m *sqliteMeta) tokens() authz.TokenLimit {
	return authz.TokenLimit{Max: micro(m.maxTokenTTL), RaisedFrom: micro(m.previousTTL.Int64), Raised: ceilSeconds(m.raisedAt.Int64)}
}

func (m *sqliteMeta) limits() Limits {
	return Limits{MaxStaleness: micro(m.maxStaleness), MaxTokenTTL: micro(m.maxTokenTTL), Incarnation: fmt.Sprintf("%s/%d", m.fileID, m.epoch)}
}
