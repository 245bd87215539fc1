package store

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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

// place is the end of the previous page of a list. A list by prefix goes on after
// (value, id), which its index has in order; any other goes on below id.
type place struct {
	id    int64
	value string
}

// pageOf validates a filter and returns its limit and the place at which the page
// begins. A cursor is the ID of the last revocation of the previous page; in a list
// by prefix, its value follows.
func pageOf(f authz.Filter) (limit int, after place, err error) {
	limit = cmp.Or(f.Limit, 100)
	if limit < 0 || limit > 1000 {
		return 0, place{}, fmt.Errorf("%w: limit: must lie between 1 and 1000", authz.ErrInvalid)
	}
	byPrefix := f.ValuePrefix != ""
	switch {
	case byPrefix && f.Value != "":
		return 0, place{}, fmt.Errorf("%w: value: cannot be combined with a prefix", authz.ErrInvalid)
	case !authz.ValidText(f.ValuePrefix):
		return 0, place{}, fmt.Errorf("%w: value: must be valid UTF-8 without NUL", authz.ErrInvalid)
	case f.After == "" && byPrefix:
		return limit, place{}, nil
	case f.After == "":
		return limit, place{id: authz.Always}, nil
	}
	id, value, hasValue := strings.Cut(f.After, " ")
	after = place{value: value}
	after.id, err = strconv.ParseInt(id, 10, 64)
	if err != nil || after.id < 1 || hasValue != byPrefix || !strings.HasPrefix(value, f.ValuePrefix) || !authz.ValidText(value) {
		return 0, place{}, fmt.Errorf("%w: after: not a cursor returned by an earlier page", authz.ErrInvalid)
	}
	return limit, after, nil
}

// cursorAfter returns the cursor of the page that follows last.
func cursorAfter(f authz.Filter, last *authz.Revocation) string {
	if f.ValuePrefix != "" {
		return last.ID + " " + last.Value
	}
	return last.ID
}

// prefixEnd returns the first text, in the order of bytes, that is above every text
// with the prefix; "" if there is none. Its bytes are valid UTF-8, as those of the
// prefix, because that order is the order of code points.
func prefixEnd(prefix string) string {
	runes := []rune(prefix)
	for i, r := range slices.Backward(runes) {
		switch r {
		case utf8.MaxRune:
			continue
		case surrogateMin - 1:
			r = surrogateMax
		}
		runes[i] = r + 1
		return string(runes[:i+1])
	}
	return ""
}

// The code points between these are no characters and cannot be encoded.
const surrogateMin, surrogateMax = 0xd800, 0xdfff

// scanRevocation reads a row: id, kind, iss, value, not_before, expires_at,
// revoked_at, actor, reason. Its times are microseconds since 1970.
func scanRevocation(row interface{ Scan(...any) error }) (authz.Revocation, error) {
	var r authz.Revocation
	var id, expires, revoked int64
	var notBefore *int64
	if err := row.Scan(&id, &r.Kind, &r.Issuer, &r.Value, &notBefore, &expires, &revoked, &r.RevokedBy, &r.Reason); err != nil {
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
