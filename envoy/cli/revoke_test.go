package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
)

// fakeLedger remembers what was stored. It fails after failAt batches if err is set.
type fakeLedger struct {
	stored  []authz.Revocation
	batches int
	failAt  int
	err     error
}

// Append implements authz.Ledger.
func (l *fakeLedger) Append(_ context.Context, rs []authz.Revocation) (authz.Appended, error) {
	l.batches++
	if l.err != nil && l.batches > l.failAt {
		return authz.Appended{}, l.err
	}
	for i := range rs {
		rs[i].ID = fmt.Sprint(len(l.stored) + 1)
		l.stored = append(l.stored, rs[i])
	}
	return authz.Appended{Revocations: slices.Clone(rs), MaxStaleness: 30 * time.Second}, nil
}

// revoker returns the write path to l.
func (l *fakeLedger) revoker() *authz.Revoker {
	return authz.NewRevoker(l, nil, authztest.BubbleClock{})
}

// List implements authz.Lister.
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
		err := new(revokeCmd).revoke(t.Context(), &Process{Out: out, Err: io.Discard}, (&fakeLedger{err: cause}).revoker(), []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: "v"}})
		assert.ErrorIsf(t, err, cause, "printed %q", out)
		assert.Zerof(t, out.Len(), "%v: %v, printed %q", cause, err, out)
	}
}
