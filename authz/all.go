package authz

import (
	"context"
	"errors"
)

// all is a conjunction of tiers; see All.
type all []Tier

// All returns a tier that reports NotRevoked only if every one of tiers does,
// whereas a Chain stops at the first proof. It is for sources that know of
// different revocations. Revoked from one of them decides.
func All(tiers ...Tier) Tier { return all(tiers) }

var _ Tier = all(nil)

// Name implements Tier.
func (all) Name() string { return "all" }

// Lookup implements Tier. Without tiers, it returns Unknown.
func (a all) Lookup(ctx context.Context, q *Query) (Verdict, error) {
	var errs []error
	proven := len(a) > 0
	for _, t := range a {
		v, err := t.Lookup(ctx, q)
		if v == Revoked { // even with an error: denying is safe
			return Revoked, nil
		}
		proven = proven && v == NotRevoked && err == nil
		errs = append(errs, err)
	}
	if proven {
		return NotRevoked, nil
	}
	return Unknown, errors.Join(errs...)
}
