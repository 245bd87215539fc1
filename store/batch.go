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
}

// batch is a list of revocations on its way into the ledger: each revocation
// once, in an order that all writers share, so that two batches cannot
// deadlock.
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
			// Without an expiry it lasts longest.
			if u.ExpiresAt.IsZero() || r.ExpiresAt.IsZero() {
				u.ExpiresAt = time.Time{}
			} else if r.ExpiresAt.After(u.ExpiresAt) {
				u.ExpiresAt = r.ExpiresAt
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

// fill puts a stored revocation in every place of the caller's list that names
// it.
func (b *batch) fill(d dedupKey, r authz.Revocation) {
	for _, i := range b.places[d] {
		b.stored.Revocations[i] = r
	}
}

func ceilMicro(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	f := t.UTC().Truncate(time.Microsecond)
	if f.Before(t) {
		f = f.Add(time.Microsecond)
	}
	return f
}

// pageOf validates a filter's limit and cursor. A cursor is the last ID seen.
func pageOf(f authz.Filter) (limit int, after int64, err error) {
	limit = f.Limit
	switch {
	case limit == 0:
		limit = 100
	case limit < 0 || limit > 1000:
		return 0, 0, fmt.Errorf("%w: limit: must lie between 1 and 1000", authz.ErrInvalid)
	}
	if f.After == "" {
		return limit, authz.Always, nil
	}
	after, err = strconv.ParseInt(f.After, 10, 64)
	if err != nil || after < 1 {
		return 0, 0, fmt.Errorf("%w: after: not a cursor returned by an earlier page", authz.ErrInvalid)
	}
	return limit, after, nil
}
