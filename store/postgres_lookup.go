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
	// say so. The third asks whether max_token_ttl was raised. A schema of
	// version 1 takes no notice of the one, and of version 2 of the other.
	wall := p.o.Clock.Now()
	nonce := rand.Text() + " " + strconv.FormatInt(wall.Unix(), 10) + " raised"
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
	words, bad := wholeSeconds(told)
	switch {
	case bad == nil && len(words) == 0: // a schema of version 1
		r.tokens.Max = time.Duration(p.ttl.Load())
	case bad == nil && len(words) == 2: // of version 2
		clock, r.tokens.Max = words[0], time.Duration(words[1])*time.Second
	case bad == nil && len(words) == 4:
		clock, r.tokens.Max = words[0], time.Duration(words[1])*time.Second
		r.tokens.Raised, r.tokens.RaisedFrom = words[2], time.Duration(words[3])*time.Second
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

// wholeSeconds reads numbers with spaces between them.
func wholeSeconds(text string) (numbers []int64, err error) {
	for word := range strings.FieldsSeq(text) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
