package authz

import (
	"context"
	"errors"
	"time"
)

// Chain asks tiers in order until one has proof.
type Chain struct {
	tiers []Tier
	seen  func(tier string, v Verdict, err error, took time.Duration)
}

var _ Tier = (*Chain)(nil)

// Name implements Tier.
func (c *Chain) Name() string { return "chain" }

// NewChain returns a chain of tiers, nearest first. It calls seen, if not nil,
// after every lookup; seen must not block.
func NewChain(seen func(tier string, v Verdict, err error, took time.Duration), tiers ...Tier) *Chain {
	return &Chain{tiers: tiers, seen: seen}
}

// Lookup returns the first proven verdict and hands it to the earlier tiers
// that are Fillers. Revoked decides even with an error, because denying is
// safe, but such a verdict is not handed on. Without a verdict, Lookup returns
// Unknown and the joined errors of the tiers that failed.
func (c *Chain) Lookup(ctx context.Context, q *Query) (Verdict, error) {
	var errs []error
	var fills []fill
	for i, t := range c.tiers {
		v, err := c.ask(ctx, t, q)
		switch {
		case err == nil && v != Unknown:
			for _, f := range fills {
				f.to.Fill(*q, v, f.mark)
			}
			return v, nil
		case v == Revoked:
			return Revoked, nil
		case err != nil:
			errs = append(errs, err)
			continue // a tier that failed cannot be filled either
		}
		if f, ok := t.(Filler); ok && i < len(c.tiers)-1 {
			if mark, ok := f.Begin(ctx, q); ok {
				fills = append(fills, fill{f, mark})
			}
		}
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
	}
	return Unknown, errors.Join(errs...)
}

// LookupNow implements Tier. Only the nearest tier can answer: without its proof the
// next one is asked, which would have to wait. The observer sees a lookup only if
// it is proven.
func (c *Chain) LookupNow(q *Query) (Verdict, bool) {
	return c.lookupNow(q, false)
}

// lookupNow is LookupNow. If onlyRevoked, the caller uses no other verdict, so the
// observer sees no other.
func (c *Chain) lookupNow(q *Query, onlyRevoked bool) (Verdict, bool) {
	if len(c.tiers) == 0 {
		return Unknown, false
	}
	var start time.Time
	if c.seen != nil {
		start = time.Now()
	}
	v, proven := c.tiers[0].LookupNow(q)
	if proven && c.seen != nil && (v == Revoked || !onlyRevoked) {
		c.seen(c.tiers[0].Name(), v, nil, time.Since(start))
	}
	return v, proven
}

type fill struct {
	to   Filler
	mark time.Duration
}

func (c *Chain) ask(ctx context.Context, t Tier, q *Query) (Verdict, error) {
	if c.seen == nil {
		return t.Lookup(ctx, q)
	}
	start := time.Now()
	v, err := t.Lookup(ctx, q)
	c.seen(t.Name(), v, err, time.Since(start))
	return v, err
}

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

// LookupNow implements Tier. Revoked from one tier decides, whatever the others
// cannot prove. It asks the first tier last: that one alone may have an effect, its
// observer as a Chain, which must not come about if another tier would wait.
func (a all) LookupNow(q *Query) (Verdict, bool) {
	if len(a) == 0 {
		return Unknown, false
	}
	waits := false
	for _, t := range a[1:] {
		v, proven := t.LookupNow(q)
		if proven && v == Revoked {
			return Revoked, true
		}
		waits = waits || !proven || v != NotRevoked
	}
	var v Verdict
	var proven bool
	if c, ok := a[0].(*Chain); ok {
		v, proven = c.lookupNow(q, waits)
	} else {
		v, proven = a[0].LookupNow(q)
	}
	if proven && v == Revoked || !waits {
		return v, proven
	}
	return Unknown, false
}
