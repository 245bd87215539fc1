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
// issuers are the configured ones. The error names the place of what is wrong
// and never repeats a token.
func ParseOrders(body []byte, issuers []string, now time.Time) ([]authz.Revocation, error) {
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

// fixedClock is the wall clock of one parse.
type fixedClock struct {
	authz.SystemClock
	now time.Time
}

// Now implements authz.Clock.
func (c fixedClock) Now() time.Time { return c.now }
