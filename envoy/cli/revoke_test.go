package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"jwtbouncer/authz"
	"testing"
	"time"
)

// fakeLedger remembers what was stored. It fails after failAt batches if err is set.
type fakeLedger struct {
	stored  []authz.Revocation
	batches int
	failAt  int
	err     error
}

func (l *fakeLedger) Revoke(_ context.Context, rs []authz.Revocation) (authz.Receipt, error) {
	l.batches++
	if l.err != nil && l.batches > l.failAt {
		return authz.Receipt{}, l.err
	}
	for i := range rs {
		rs[i].ID = fmt.Sprint(len(l.stored) + 1)
		l.stored = append(l.stored, rs[i])
	}
	return authz.Receipt{Revocations: append([]authz.Revocation(nil), rs...), EnforcedWithin: 30 * time.Second, Committed: time.Unix(1700000000, 0), Published: true}, nil
}

func (l *fakeLedger) List(_ context.Context, f authz.Filter) ([]authz.Revocation, string, error) {
	at := 0
	if f.After != "" {
		fmt.Sscan(f.After, &at)
	}
	end := min(at+min(f.Limit, 2), len(l.stored))
	next := ""
	if end < len(l.stored) {
		next = fmt.Sprint(end)
	}
	return l.stored[at:end], next, nil
}

func TestRevokeFailureIsNeverSuccess(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{authz.ErrUnavailable, authz.ErrOutcomeUnknown, authz.ErrInvalid} {
		out := &bytes.Buffer{}
		err := new(revokeCmd).revoke(t.Context(), &Process{Out: out, Err: io.Discard}, &fakeLedger{err: cause}, []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: "v"}})
		if !errors.Is(err, cause) || out.Len() != 0 {
			t.Errorf("%v: %v, printed %q", cause, err, out)
		}
	}
}
