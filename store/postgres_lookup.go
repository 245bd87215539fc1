package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"jwtbouncer/authz"
)

// knownLimit is the limit on tokens in one epoch of the store. authz.lookup sends
// it only to a caller that does not name the epoch.
type knownLimit struct {
	epoch  int64 // meta.epoch
	tokens authz.TokenLimit
}

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
	conn, err := p.reads.Acquire(ctx)
	if err != nil {
		return result{}, p.fail(err)
	}
	defer conn.Release()
	known := *cmp.Or(p.limit.Load(), &knownLimit{})
	// A revocation has expired when both clocks say so: the database is told ours.
	nonce, wall := rand.Text(), p.o.Clock.Now().Unix()
	line, err := p.calls.call(ctx, conn.Conn(), "authz.lookup(bytea[],pg_catalog.text,bigint,bigint)",
		byteas(keys), nonce, strconv.FormatInt(wall, 10), strconv.FormatInt(known.epoch, 10))
	if err != nil {
		return result{}, p.fail(err)
	}
	a, err := parseLookup(line, known)
	r := result{notBefore: a.notBefore, tokens: a.limit.tokens}
	switch {
	case err != nil:
		return r, p.fail(err)
	case a.follows:
		return r, fmt.Errorf("postgres %s: %w: %s", p.where, ErrUnproven, followsAnother)
	case a.nonce != nonce || !a.fresh:
		return r, fmt.Errorf("postgres %s: %w: it is the answer to another question, or from inside a transaction", p.where, ErrUnproven)
	case a.clock-wall > int64(authz.MaxClockLag/time.Second):
		return r, fmt.Errorf("postgres %s: %w: the wall clock here is %s behind the database's, which may have deleted revocations that still matter here",
			p.where, ErrUnproven, time.Duration(a.clock-wall)*time.Second)
	}
	p.limit.Store(&a.limit)
	return r, nil
}

// lookupAnswer is what authz.lookup returns.
type lookupAnswer struct {
	nonce            string
	follows, fresh   bool
	notBefore, clock int64 // in Unix seconds
	limit            knownLimit
}

// Fields of the line that authz.lookup returns.
const (
	lookupSchema = iota
	lookupNonce
	lookupFollows
	lookupFresh
	lookupNotBefore
	lookupClock
	lookupEpoch
	lookupTTL
	lookupPreviousTTL
	lookupRaised
	lookupFields
)

// Fields of the line if there is no revocation and the caller knows the limit.
const (
	noneNonce = iota
	noneClock
	noneFields
)

// parseLookup reads the line. An answer under another version of the schema comes
// with an error; the revocation in it is true all the same.
func parseLookup(line string, known knownLimit) (a lookupAnswer, err error) {
	f := strings.Split(line, " ")
	var bad error
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		bad = errors.Join(bad, err)
		return n
	}
	secs := func(text string) time.Duration { return time.Duration(number(text)) * time.Second }
	if len(f) == noneFields && known.tokens.Max > 0 {
		a = lookupAnswer{nonce: f[noneNonce], fresh: true, clock: number(f[noneClock]), limit: known}
	} else {
		err = checkSchema(int(number(f[lookupSchema])))
		if bad == nil && len(f) != lookupFields {
			return a, cmp.Or(err, fmt.Errorf("%w: lookup returned %d fields", ErrSchema, len(f)))
		}
		if bad == nil {
			a = lookupAnswer{
				nonce: f[lookupNonce], follows: f[lookupFollows] != "f", fresh: f[lookupFresh] == "t",
				notBefore: number(f[lookupNotBefore]), clock: number(f[lookupClock]),
				limit: knownLimit{epoch: number(f[lookupEpoch]), tokens: authz.TokenLimit{
					Max: secs(f[lookupTTL]), RaisedFrom: secs(f[lookupPreviousTTL]), Raised: number(f[lookupRaised]),
				}},
			}
		}
	}
	if bad != nil {
		return lookupAnswer{}, fmt.Errorf("%w: lookup: %w", ErrSchema, bad)
	}
	return a, err
}

// byteas is the text of an array of keys.
func byteas(keys []authz.Key) string {
	text := make([]string, len(keys))
	for i := range keys {
		text[i] = `"\\x` + hex.EncodeToString(keys[i][:]) + `"`
	}
	return "{" + strings.Join(text, ",") + "}"
}
