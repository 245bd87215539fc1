package authz_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
)

// book is a Ledger that stores, or fails with err.
type book struct {
	err    error
	bound  time.Duration
	stored []authz.Revocation
}

func (b *book) Append(_ context.Context, rs []authz.Revocation) (authz.Appended, error) {
	if b.err != nil {
		return authz.Appended{}, b.err
	}
	b.stored = append(b.stored, rs...)
	return authz.Appended{Revocations: rs, MaxStaleness: b.bound}, nil
}

// slowPublisher is a Publisher that takes its time.
type slowPublisher struct {
	takes time.Duration
	done  bool
	said  int
}

func (p *slowPublisher) Publish(_ context.Context, rs []authz.Revocation) bool {
	time.Sleep(p.takes)
	p.said += len(rs)
	return p.done
}

func request() []authz.Revocation {
	return []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: "v"}}
}

func TestRevokeWaits(t *testing.T) {
	t.Parallel()
	const bound = 30 * time.Second
	for name, c := range map[string]struct {
		wait  bool
		takes time.Duration // to publish
		want  time.Duration
	}{
		"committed":                             {false, 0, 0},
		"enforced":                              {true, 0, bound},
		"enforced, the time to publish counted": {true, 7 * time.Second, bound},
		"enforced, published after it":          {true, 40 * time.Second, 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := &slowPublisher{takes: c.takes, done: true}
				r := authz.NewRevoker(&book{bound: bound}, h, authztest.BubbleClock{Start: time.Now()})
				start := time.Now()
				rec, err := r.Revoke(t.Context(), request())
				require.NoError(t, err)
				if c.wait {
					require.NoError(t, rec.Wait(t.Context()))
				}
				require.Equal(t, c.want, time.Since(start))
				require.Equal(t, bound, rec.EnforcedWithin)
				require.True(t, rec.Published)
				require.Equal(t, 1, h.said)
			})
		})
	}
}

// A caller that stops waiting is told that the revocation is stored all the same.
func TestRevokeWaitInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := authz.NewRevoker(&book{bound: time.Minute}, nil, authztest.BubbleClock{Start: time.Now()})
		rec, err := r.Revoke(t.Context(), request())
		require.NoError(t, err)
		require.Len(t, rec.Revocations, 1)
		require.False(t, rec.Published)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = rec.Wait(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "stored and durable")
	})
}

// What the ledger has not committed is not published, and never a success.
func TestRevokeFailure(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{authz.ErrUnavailable, authz.ErrOutcomeUnknown, authz.ErrInvalid, errors.New("odd")} {
		h := &slowPublisher{}
		rec, err := authz.NewRevoker(&book{err: cause}, h, authz.SystemClock{}).Revoke(t.Context(), request())
		require.ErrorIs(t, err, cause)
		require.Empty(t, rec)
		require.Zero(t, h.said)
	}
	ledger, publisher := &authztest.Memory{}, &slowPublisher{}
	_, err := authz.NewRevoker(ledger, publisher, authz.SystemClock{}).Revoke(t.Context(), append(request(), authz.Revocation{Kind: authz.KindSub, Issuer: "i"}))
	require.ErrorIs(t, err, authz.ErrInvalid)
	require.ErrorContains(t, err, "revocation 2")
	stored, _, err := ledger.List(t.Context(), authz.Filter{})
	require.NoError(t, err)
	require.Empty(t, stored, "all or none")
	require.Zero(t, publisher.said)
}

// A receipt speaks for every sidecar: it promises the bound of its own commit,
// whatever was in force for an earlier one.
func TestRevokePromisesTheLedgersBound(t *testing.T) {
	t.Parallel()
	b := &book{}
	r := authz.NewRevoker(b, nil, authz.SystemClock{})
	for _, bound := range []time.Duration{30 * time.Second, 5 * time.Minute} {
		b.bound = bound
		rec, err := r.Revoke(t.Context(), request())
		require.NoError(t, err)
		require.Equal(t, bound, rec.EnforcedWithin)
	}
}

// stage is a Filler with a fixed verdict that records its fills.
type stage struct {
	authz.AlwaysWaits

	name   string
	v      authz.Verdict
	err    error
	asked  int
	begun  int
	filled []authz.Verdict
}

func (s *stage) Name() string { return s.name }
func (s *stage) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	s.asked++
	return s.v, s.err
}
func (s *stage) Begin(context.Context, *authz.Query) (time.Duration, bool) {
	s.begun++
	return time.Duration(s.begun), true
}
func (s *stage) Fill(_ authz.Query, v authz.Verdict, _ time.Duration) {
	s.filled = append(s.filled, v)
}

func TestChain(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	for name, c := range map[string]struct {
		first, second *stage
		want          authz.Verdict
		fails         bool
		asked, filled int // of the second; of the first
	}{
		"the first proof decides":               {&stage{v: authz.NotRevoked}, &stage{v: authz.Revoked}, authz.NotRevoked, false, 0, 0},
		"revoked is a proof":                    {&stage{v: authz.Revoked}, &stage{v: authz.NotRevoked}, authz.Revoked, false, 0, 0},
		"a miss is passed on and filled":        {&stage{}, &stage{v: authz.NotRevoked}, authz.NotRevoked, false, 1, 1},
		"a revocation is filled too":            {&stage{}, &stage{v: authz.Revoked}, authz.Revoked, false, 1, 1},
		"a failure is passed on, not filled":    {&stage{err: away}, &stage{v: authz.NotRevoked}, authz.NotRevoked, false, 1, 0},
		"not revoked with an error is no proof": {&stage{v: authz.NotRevoked, err: away}, &stage{err: away}, authz.Unknown, true, 1, 0},
		"all miss":                              {&stage{}, &stage{}, authz.Unknown, false, 1, 0},
		"all fail":                              {&stage{err: away}, &stage{err: away}, authz.Unknown, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := 0
			v, err := authz.NewChain(func(string, authz.Verdict, error, time.Duration) { seen++ }, c.first, c.second).Lookup(t.Context(), &authz.Query{})
			require.Equal(t, c.want, v)
			require.Equal(t, c.fails, err != nil, "%v", err)
			require.Equal(t, c.asked, c.second.asked)
			require.Len(t, c.first.filled, c.filled)
			require.Empty(t, c.second.filled, "the last tier is never filled")
			require.Equal(t, 1+c.asked, seen)
		})
	}
	v, err := authz.NewChain(nil).Lookup(t.Context(), &authz.Query{})
	require.Equal(t, authz.Unknown, v)
	require.NoError(t, err)
}
