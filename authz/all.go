package authz

import (
	"context"
	"errors"
)

// all is a conjunction of tiers; see All.
type all []Tier

// All returns a tier in which every one of tiers must prove that the token is
// not revoked, where a Chain is content with the first proof: for sources that
// know of different revocations. One that proves the opposite decides.
func All(tiers ...Tier) Tier { return all(tiers) }

var _ Tier = all(nil)

// Name implements Tier.
func (all) Name() string { return "all" }

// Lookup implements Tier. No tiers at all know nothing.
func (a all) Lookup(ctx context.Context, q *Query) (Verdict, error) {
	var errs []error
	proven := len(a) > 0
	for _, t := range a {
		v, err := t.Lookup(ctx, q)
		if v == Revoked && err == nil {
			return Revoked, nil
		}
		if v != NotRevoked || err != nil {
			proven = false
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if proven {
		return NotRevoked, nil
	}
	return Unknown, errors.Join(errs...)
}
