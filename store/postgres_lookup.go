package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"jwtbouncer/authz"
)

func (p *postgresStore) Lookup(ctx context.Context, q *authz.Query) (v authz.Verdict, err error) {
	defer p.met.done("lookup", time.Now(), &err)
	level, err := p.lookup.level(ctx, q.Keys)
	// A revocation is true wherever it was read; its absence is not.
	if errors.Is(err, ErrUnproven) && verdict(q, level) == authz.Revoked {
		return authz.Revoked, nil
	}
	if err != nil {
		return authz.Unknown, err
	}
	return verdict(q, level), nil
}

// level asks the primary for the strictest not_before.
func (p *postgresStore) level(ctx context.Context, keys []authz.Key) (int64, error) {
	level, err := p.levelOnce(ctx, keys)
	var pg *pgconn.PgError
	if err != nil && ctx.Err() == nil && (!errors.As(err, &pg) || pg.Code[:2] == "57") && !errors.Is(err, ErrUnproven) {
		// The pooled connection had died since it was used last: reading again
		// on another one is harmless.
		level, err = p.levelOnce(ctx, keys)
	}
	return level, err
}

func (p *postgresStore) levelOnce(ctx context.Context, keys []authz.Key) (int64, error) {
	raw := make([][]byte, len(keys))
	for i := range keys {
		raw[i] = keys[i][:]
	}
	// The second word is the time here: a revocation is over when both clocks
	// say so. A schema of version 1 takes no notice of it.
	nonce := rand.Text() + " " + strconv.FormatInt(p.o.Clock.Now().Unix(), 10)
	var echo string
	var recovering, fresh bool
	var level int64
	err := p.reads.QueryRow(ctx, `select echo, recovering, fresh, level from authz.lookup($1::bytea[], $2)`, raw, nonce).
		Scan(&echo, &recovering, &fresh, &level)
	switch {
	case err != nil:
		return 0, p.fail(err)
	case recovering:
		return level, fmt.Errorf("postgres %s: %w: it is a hot standby", p.where, ErrUnproven)
	case echo != nonce || !fresh:
		return level, fmt.Errorf("postgres %s: %w: it is the answer to another question, or from inside a transaction", p.where, ErrUnproven)
	}
	return level, nil
}
