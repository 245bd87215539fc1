package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// lookups makes point lookups behind a circuit breaker, so that a slow database
// can neither hold up a request beyond its deadline nor pile requests up.
// Cancelling a query takes a moment (a cancel request to the server, a lock's
// timeout in SQLite) that the request does not have: the query is left behind.
type lookups struct {
	name    string
	read    func(context.Context, []authz.Key) (result, error)
	breaker *breaker.Breaker
}

func newLookups(name string, o *Options, met *metrics, read func(context.Context, []authz.Key) (result, error)) *lookups {
	return &lookups{name: name, read: read, breaker: breaker.New(breaker.Options{
		Dependency: name, Timeout: o.LookupTimeout, Concurrent: o.Lookups, Waiting: o.Waiting,
		Probe: func(ctx context.Context) error {
			_, err := read(ctx, []authz.Key{{}})
			return err
		},
		Logger: o.Logger, State: met.breaker, Pending: met.waiting,
	})}
}

// verdict reads the store's answer for q. A revocation is true wherever it was
// read; its absence is not.
func (l *lookups) verdict(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if len(q.Keys) == 0 {
		return authz.Unknown, fmt.Errorf("%w: %s: a token without keys cannot be looked up", authz.ErrUnavailable, l.name)
	}
	keys := slices.Clone(q.Keys) // a query's keys must not be used after Lookup has returned
	r, err := breaker.Do(ctx, l.breaker, func(ctx context.Context) (result, error) { return l.read(ctx, keys) })
	switch {
	case errors.Is(err, breaker.ErrBusy):
		return authz.Unknown, fmt.Errorf("%s: %w", l.name, ErrBusy)
	case err != nil && !errors.Is(err, authz.ErrUnavailable):
		return authz.Unknown, fmt.Errorf("%w: %w", authz.ErrUnavailable, err)
	case err != nil && !errors.Is(err, ErrUnproven) && !errors.Is(err, ErrSchema):
		return authz.Unknown, err
	}
	v, unproven := r.verdict(q)
	if v != authz.Revoked && err != nil {
		return authz.Unknown, err
	}
	return v, unproven
}

// result is the authority's answer for some keys.
type result struct {
	// notBefore is the strictest not_before of their revocations in Unix
	// seconds; authz.Always; 0: there is none.
	notBefore int64
	// tokens bounds the tokens for which a notBefore of 0 is proof.
	tokens authz.TokenLimit
}

// verdict is the answer for q.
func (r result) verdict(q *authz.Query) (authz.Verdict, error) {
	switch lifetime, limit := q.Lifetime(), r.tokens; {
	case (authz.Entry{NotBefore: r.notBefore}).Revokes(q.IssuedAt):
		return authz.Revoked, nil
	case limit.Covers(q):
		return authz.NotRevoked, nil
	case lifetime > limit.Max+authz.LifetimeSlack:
		return authz.Unknown, fmt.Errorf("%w: the token lives for %s, longer than the store's max_token_ttl (%s): its revocation could have expired (raise the limit with `jwt-bouncer migrate`)",
			ErrUnproven, lifetime, limit.Max)
	default:
		return authz.Unknown, fmt.Errorf("%w: the token lives for %s and was issued before the store's max_token_ttl was raised from %s to %s: its revocation could have expired before the raise",
			ErrUnproven, lifetime, limit.RaisedFrom, limit.Max)
	}
}
