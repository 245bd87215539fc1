package store

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"jwtbouncer/authz"
)

// identity is what makes two revocations one.
type identity struct {
	key       authz.Key
	notBefore int64 // Unix microseconds; authz.Always for none
}

type order struct {
	authz.Revocation
	id identity
}

// orders is a batch on its way into the ledger: each revocation once, in an
// order that all writers share, so that two batches cannot wait for each other.
type orders struct {
	unique []order
	places map[identity][]int // where in the caller's batch
	stored []authz.Revocation
}

// forever stands for "never expires"; every store can hold it.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// prepare checks a batch and brings times to what is stored: whole
// microseconds, rounded up, which is the stricter side.
func prepare(revocations []authz.Revocation, now time.Time) (*orders, error) {
	o := &orders{places: make(map[identity][]int, len(revocations)), stored: make([]authz.Revocation, len(revocations))}
	index := make(map[identity]int, len(revocations))
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
		id := identity{key: r.Key(), notBefore: authz.Always}
		if !r.NotBefore.IsZero() {
			id.notBefore = r.NotBefore.UnixMicro()
		}
		o.places[id] = append(o.places[id], i)
		if j, seen := index[id]; seen {
			u := &o.unique[j]
			// No expiry means the longest.
			if u.ExpiresAt.IsZero() || r.ExpiresAt.IsZero() {
				u.ExpiresAt = time.Time{}
			} else if r.ExpiresAt.After(u.ExpiresAt) {
				u.ExpiresAt = r.ExpiresAt
			}
			continue
		}
		index[id] = len(o.unique)
		o.unique = append(o.unique, order{Revocation: r, id: id})
	}
	slices.SortFunc(o.unique, func(a, b order) int {
		return cmp.Or(slices.Compare(a.id.key[:], b.id.key[:]), cmp.Compare(a.id.notBefore, b.id.notBefore))
	})
	return o, nil
}

// fill hands what was stored to every place that asked for it.
func (o *orders) fill(id identity, r authz.Revocation) {
	for _, i := range o.places[id] {
		o.stored[i] = r
	}
}

// endsEarly reports whether something was ordered without an expiry and was
// stored with one that is too early by the clock here, and then asks for ours.
func (o *orders) endsEarly(now time.Time, ttl time.Duration) (early bool) {
	for i := range o.unique {
		u := &o.unique[i]
		if !u.ExpiresAt.IsZero() {
			continue
		}
		due := defaultExpiry(u.Revocation, now, ttl)
		if o.stored[o.places[u.id][0]].ExpiresAt.Before(due.Add(-time.Minute)) {
			u.ExpiresAt, early = due, true
		}
	}
	return early
}

// defaultExpiry is when the last token that r can match has expired. A key
// that is not trusted any more can sign tokens of any age for as long as it is
// published: its revocation does not end by itself.
func defaultExpiry(r authz.Revocation, now time.Time, ttl time.Duration) time.Time {
	if r.Kind == authz.KindKID && r.NotBefore.IsZero() {
		return forever
	}
	if r.NotBefore.After(now) {
		now = r.NotBefore
	}
	return ceilMicro(now.Add(ttl))
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

// pageOf checks a filter's limit and cursor. A cursor is the last ID seen.
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

// cut makes a page of limit+1 rows, or fewer.
func cut(rows []authz.Revocation, limit int) (page []authz.Revocation, next string) {
	if len(rows) <= limit {
		return rows, ""
	}
	return rows[:limit], rows[limit-1].ID
}
