package httpapi

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// ParseOrders reads one order or an array of them as POST /v1/revocations
// takes them, for the other doors through which people order revocations.
// The error names the place of what is wrong
// and never repeats a token.
func ParseOrders(body []byte, issuers Issuers, now time.Time) ([]authz.Revocation, error) {
	orders, list, p := parseOrders(body)
	if p == nil {
		var out []authz.Revocation
		if out, p = (&api{issuers: issuers, clock: fixedClock{now: now}}).compile(orders); p == nil {
			return out, nil
		}
	}
	if len(p.Errors) == 0 {
		return nil, errors.New(p.Detail)
	}
	lines := make([]string, len(p.Errors))
	for i, e := range p.Errors {
		if list {
			lines[i] = fmt.Sprintf("[%d] ", e.Index)
		}
		if e.Field != "" {
			lines[i] += e.Field + ": "
		}
		lines[i] += e.Detail
	}
	return nil, errors.New(strings.Join(lines, "\n"))
}

// OrderExpired reports whether body is one good order of a revocation whose
// expires_at has passed: nothing is left to revoke.
func OrderExpired(body []byte, now time.Time) bool {
	orders, _, p := parseOrders(body)
	return p == nil && len(orders) == 1 && !orders[0].ExpiresAt.IsZero() && !orders[0].ExpiresAt.After(now)
}

// fixedClock is the wall clock of one parse.
type fixedClock struct {
	authz.SystemClock
	now time.Time
}

// Now implements authz.Clock.
func (c fixedClock) Now() time.Time { return c.now }
