package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"jwtbouncer/authz"
)

// read asks the primary for the strictest not_before.
func (p *postgresStore) read(ctx context.Context, keys []authz.Key) (result, error) {
	r, err := p.readOnce(ctx, keys)
	var pg *pgconn.PgError
	if err != nil && ctx.Err() == nil && (!errors.As(err, &pg) || strings.HasPrefix(pg.Code, "57")) && !errors.Is(err, ErrUnproven) {
		// The pooled connection had died since its last use: reading again
		// on another one is harmless.
		r, err = p.readOnce(ctx, keys)
	}
	return r, err
}

func (p *postgresStore) readOnce(ctx context.Context, keys []authz.Key) (result, error) {
	raw := make([][]byte, len(keys))
	for i := range keys {
		raw[i] = keys[i][:]
	}
	// A revocation has expired when both clocks say so: the database is told ours.
	nonce, wall := rand.Text(), p.o.Clock.Now().Unix()
	var version int
	var echo string
	var recovering, fresh bool
	var clock, maxTTL, previousTTL int64
	var r result
	err := p.reads.QueryRow(ctx, `select schema_version, echo, recovering, fresh, not_before, clock, max_token_ttl, previous_token_ttl, raised_at
		from authz.lookup($1::bytea[], $2, $3)`, raw, nonce, wall).
		Scan(&version, &echo, &recovering, &fresh, &r.notBefore, &clock, &maxTTL, &previousTTL, &r.tokens.Raised)
	if err == nil {
		err = checkSchema(version)
	}
	if err != nil {
		return result{}, p.fail(err)
	}
	r.tokens.Max, r.tokens.RaisedFrom = time.Duration(maxTTL)*time.Second, time.Duration(previousTTL)*time.Second
	switch {
	case recovering:
		return r, fmt.Errorf("postgres %s: %w: it is a hot standby", p.where, ErrUnproven)
	case echo != nonce || !fresh:
		return r, fmt.Errorf("postgres %s: %w: it is the answer to another question, or from inside a transaction", p.where, ErrUnproven)
	case clock-wall > int64(authz.MaxClockLag/time.Second):
		return r, fmt.Errorf("postgres %s: %w: the wall clock here is %s behind the database's, which may have deleted revocations that still matter here",
			p.where, ErrUnproven, time.Duration(clock-wall)*time.Second)
	}
	return r, nil
}
