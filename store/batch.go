package store

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"jwtbouncer/authz"
)

// dedupKey identifies a revocation: those with an equal one are stored once.
type dedupKey struct {
	key       authz.Key
	notBefore int64 // Unix microseconds; authz.Always for none
}

type batchEntry struct {
	authz.Revocation
	dedup dedupKey
	byTTL bool // was also requested without an expiry, which max_token_ttl then gives
}

// batch is a list of revocations to append. unique contains each revocation once, in
// an order that all writers share, so that two batches cannot deadlock.
type batch struct {
	unique []batchEntry
	places map[dedupKey][]int // indexes in the caller's list
	stored authz.Appended
}

// forever is the expiry of a revocation that never ends.
var forever = time.Unix(authz.LastSecond, 0).UTC()

// newBatch validates revocations and rounds their times up to microseconds, the
// precision of the stores: the later time is the stricter one.
func newBatch(revocations []authz.Revocation, now time.Time) (*batch, error) {
	b := &batch{places: make(map[dedupKey][]int, len(revocations)), stored: authz.Appended{Revocations: make([]authz.Revocation, len(revocations))}}
	index := make(map[dedupKey]int, len(revocations))
	for i := range revocations {
		r := revocations[i]
		if err := r.Normalize(now); err != nil {
			return nil, fmt.Errorf("revocation %d: %w", i+1, err)
		}
		r.NotBefore, r.ExpiresAt = ceilMicro(r.NotBefore), ceilMicro(r.ExpiresAt)
		if r.ExpiresAt.After(forever) {
			r.ExpiresAt = forever
		}
		if !r.NotBefore.IsZero() && (r.NotBefore.Year() < 1970 || r.NotBefore.After(forever)) {
			return nil, fmt.Errorf("revocation %d: %w: not_before: must lie between 1970 and 9999", i+1, authz.ErrInvalid)
		}
		d := dedupKey{key: r.Key(), notBefore: authz.Always}
		if !r.NotBefore.IsZero() {
			d.notBefore = r.NotBefore.UnixMicro()
		}
		b.places[d] = append(b.places[d], i)
		if j, seen := index[d]; seen {
			u := &b.unique[j]
			// The later expiry applies. Only the store can compare one with none.
			u.byTTL = u.byTTL || r.ExpiresAt.IsZero() != u.ExpiresAt.IsZero()
			if r.ExpiresAt.After(u.ExpiresAt) {
				u.ExpiresAt = r.ExpiresAt
			}
			if u.byTTL && r.Kind == authz.KindKID && r.NotBefore.IsZero() {
				u.ExpiresAt = forever
			}
			continue
		}
		index[d] = len(b.unique)
		b.unique = append(b.unique, batchEntry{Revocation: r, dedup: d})
	}
	slices.SortFunc(b.unique, func(x, y batchEntry) int {
		return cmp.Or(slices.Compare(x.dedup.key[:], y.dedup.key[:]), cmp.Compare(x.dedup.notBefore, y.dedup.notBefore))
	})
	return b, nil
}

// fill sets a stored revocation at every index of the caller's list that has its key.
func (b *batch) fill(d dedupKey, r authz.Revocation) {
	for _, i := range b.places[d] {
		b.stored.Revocations[i] = r
	}
}

// ceilMicro rounds t up to microseconds.
func ceilMicro(t time.Time) time.Time {
	return t.UTC().Add(time.Microsecond - 1).Truncate(time.Microsecond)
}

// pageOf validates the limit and the cursor of a filter. The cursor is the ID of the
// last revocation of the previous page, which all IDs of the page are below.
func pageOf(f authz.Filter) (limit int, before int64, err error) {
	limit = cmp.Or(f.Limit, 100)
	if limit < 0 || limit > 1000 {
		return 0, 0, fmt.Errorf("%w: limit: must lie between 1 and 1000", authz.ErrInvalid)
	}
	if f.After == "" {
		return limit, authz.Always, nil
	}
	before, err = strconv.ParseInt(f.After, 10, 64)
	if err != nil || before < 1 {
		return 0, 0, fmt.Errorf("%w: after: not a cursor returned by an earlier page", authz.ErrInvalid)
	}
	return limit, before, nil
}

// scanRevocation reads a row: id, kind, iss, value, not_before, expires_at,
// revoked_at, actor, reason. Its times are microseconds since 1970.
func scanRevocation(row interface{ Scan(...any) error }) (authz.Revocation, error) {
	var r authz.Revocation
	var id, expires, revoked int64
	var notBefore *int64
	if err := row.Scan(&id, &r.Kind, &r.Issuer, &r.Value, &notBefore, &expires, &revoked, &r.Actor, &r.Reason); err != nil {
		return authz.Revocation{}, err
	}
	r.ID = strconv.FormatInt(id, 10)
	setTimes(&r, notBefore, expires, revoked)
	return r, nil
}

// setTimes sets times that are given in microseconds since 1970.
func setTimes(r *authz.Revocation, notBefore *int64, expires, revoked int64) {
	if notBefore != nil {
		r.NotBefore = time.UnixMicro(*notBefore).UTC()
	}
	r.ExpiresAt, r.RevokedAt = time.UnixMicro(expires).UTC(), time.UnixMicro(revoked).UTC()
}
