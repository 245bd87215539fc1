package httpapitest

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"jwtbouncer/authz"
)

// Ledger keeps revocations in memory and fails on demand.
type Ledger struct {
	mu     sync.Mutex
	stored []authz.Revocation
	fail   error
}

// SetFail makes every call fail with err; nil: none.
func (l *Ledger) SetFail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// All returns the stored revocations, oldest first.
func (l *Ledger) All() []authz.Revocation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.stored)
}

// Append implements authz.Ledger.
func (l *Ledger) Append(ctx context.Context, revocations []authz.Revocation) (authz.Appended, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return authz.Appended{}, ctx.Err()
	}
	if l.fail != nil {
		return authz.Appended{}, l.fail
	}
	out := make([]authz.Revocation, len(revocations))
	for i, r := range revocations {
		at := slices.IndexFunc(l.stored, func(s authz.Revocation) bool { return s.Key() == r.Key() && s.NotBefore.Equal(r.NotBefore) })
		if at < 0 {
			r.ID, r.RevokedAt = strconv.Itoa(len(l.stored)+1), time.Now()
			if r.ExpiresAt.IsZero() {
				r.ExpiresAt = time.Now().Add(24 * time.Hour)
			}
			l.stored = append(l.stored, r)
			at = len(l.stored) - 1
		}
		out[i] = l.stored[at]
	}
	return authz.Appended{Revocations: out, MaxStaleness: 30 * time.Second}, nil
}

// List implements authz.Lister.
func (l *Ledger) List(_ context.Context, filter authz.Filter) ([]authz.Revocation, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, "", l.fail
	}
	after := len(l.stored) + 1
	if filter.After != "" {
		n, err := strconv.Atoi(filter.After)
		if err != nil {
			return nil, "", authz.ErrInvalid
		}
		after = n
	}
	limit := filter.Limit
	if limit == 0 {
		limit = 100
	}
	var page []authz.Revocation
	for i := len(l.stored) - 1; i >= 0; i-- {
		r := l.stored[i]
		if id, _ := strconv.Atoi(r.ID); id >= after || filter.Kind != 0 && r.Kind != filter.Kind ||
			filter.Issuer != "" && r.Issuer != filter.Issuer || filter.Value != "" && r.Value != filter.Value ||
			!strings.HasPrefix(r.Value, filter.ValuePrefix) || !filter.IncludeExpired && !r.ExpiresAt.After(time.Now()) {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].ID, nil
		}
		page = append(page, r)
	}
	return page, "", nil
}

// noopPublisher publishes nothing and reports success.
type noopPublisher struct{}

func (noopPublisher) Publish(context.Context, []authz.Revocation) bool { return true }
