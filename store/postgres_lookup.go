package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"jwtbouncer/authz"
)

func (p *postgresStore) Lookup(ctx context.Context, q *authz.Query) (v authz.Verdict, err error) {
	defer p.met.done("lookup", time.Now(), &err)
	return p.lookup.verdict(ctx, q)
}

// read asks the primary for the strictest not_before.
func (p *postgresStore) read(ctx context.Context, keys []authz.Key) (reading, error) {
	r, err := p.readOnce(ctx, keys)
	var pg *pgconn.PgError
	if err != nil && ctx.Err() == nil && (!errors.As(err, &pg) || strings.HasPrefix(pg.Code, "57")) && !errors.Is(err, ErrUnproven) {
		// The pooled connection had died since it was used last: reading again
		// on another one is harmless.
		r, err = p.readOnce(ctx, keys)
	}
	return r, err
}

func (p *postgresStore) readOnce(ctx context.Context, keys []authz.Key) (reading, error) {
	raw := make([][]byte, len(keys))
	for i := range keys {
		raw[i] = keys[i][:]
	}
	// The second word is the time here: a revocation is over when both clocks
	// say so. A schema of version 1 takes no notice of it.
	wall := p.o.Clock.Now()
	nonce := rand.Text() + " " + strconv.FormatInt(wall.Unix(), 10)
	var echo string
	var recovering, fresh bool
	var r reading
	err := p.reads.QueryRow(ctx, `select echo, recovering, fresh, level from authz.lookup($1::bytea[], $2)`, raw, nonce).
		Scan(&echo, &recovering, &fresh, &r.level)
	if err != nil {
		return reading{}, p.fail(err)
	}
	told, own := strings.CutPrefix(echo, nonce)
	var clock int64
	switch words := strings.Fields(told); len(words) {
	case 0: // a schema of version 1
		r.maxTokenTTL = time.Duration(p.ttl.Load())
	case 2:
		var ttl int64
		if _, err := fmt.Sscan(told, &clock, &ttl); err != nil {
			own = false
		}
		r.maxTokenTTL = time.Duration(ttl) * time.Second
	default:
		own = false
	}
	switch {
	case recovering:
		return r, fmt.Errorf("postgres %s: %w: it is a hot standby", p.where, ErrUnproven)
	case !own || !fresh:
		return r, fmt.Errorf("postgres %s: %w: it is the answer to another question, or from inside a transaction", p.where, ErrUnproven)
	case clock-wall.Unix() > int64(authz.MaxClockLag/time.Second):
		return r, fmt.Errorf("postgres %s: %w: the wall clock here is %s behind the database's, which may have deleted revocations that still matter here",
			p.where, ErrUnproven, time.Duration(clock-wall.Unix())*time.Second)
	}
	return r, nil
}
