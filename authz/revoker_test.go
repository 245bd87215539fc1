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
	stored []authz.Revocation
}

func (b *book) Append(_ context.Context, rs []authz.Revocation) ([]authz.Revocation, error) {
	if b.err != nil {
		return nil, b.err
	}
	b.stored = append(b.stored, rs...)
	return rs, nil
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

func order() []authz.Revocation {
	return []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: "v"}}
}

func TestRevokeWaits(t *testing.T) {
	t.Parallel()
	const bound = 30 * time.Second
	for name, c := range map[string]struct {
		wait  authz.Wait
		takes time.Duration // to publish
		want  time.Duration
	}{
		"committed":                             {authz.WaitCommitted, 0, 0},
		"enforced":                              {authz.WaitEnforced, 0, bound},
		"enforced, the time to publish counted": {authz.WaitEnforced, 7 * time.Second, bound},
		"enforced, published after it":          {authz.WaitEnforced, 40 * time.Second, 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := &slowPublisher{takes: c.takes, done: true}
				r := authz.NewRevoker(&book{}, h, bound, authztest.BubbleClock{Start: time.Now()})
				start := time.Now()
				rec, err := r.Revoke(t.Context(), order(), c.wait)
				require.NoError(t, err)
				require.Equal(t, c.want, time.Since(start))
				require.Equal(t, bound, rec.EnforcedWithin)
				require.True(t, rec.Published)
				require.Equal(t, 1, h.said)
			})
		})
	}
}

// Who stops waiting is told that the order is stored all the same.
func TestRevokeWaitInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := authz.NewRevoker(&book{}, nil, time.Minute, authztest.BubbleClock{Start: time.Now()})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		rec, err := r.Revoke(ctx, order(), authz.WaitEnforced)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "stored and durable")
		require.Len(t, rec.Revocations, 1)
		require.False(t, rec.Published)
	})
}

// What the ledger has not committed is not published, and never a success.
func TestRevokeFailure(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{authz.ErrUnavailable, authz.ErrOutcomeUnknown, authz.ErrInvalid, errors.New("odd")} {
		h := &slowPublisher{}
		rec, err := authz.NewRevoker(&book{err: cause}, h, time.Minute, authz.SystemClock{}).Revoke(t.Context(), order(), authz.WaitCommitted)
		require.ErrorIs(t, err, cause)
		require.Empty(t, rec)
		require.Zero(t, h.said)
	}
	b := &book{}
	_, err := authz.NewRevoker(b, nil, time.Minute, authz.SystemClock{}).Revoke(t.Context(), append(order(), authz.Revocation{Kind: authz.KindSub, Issuer: "i"}), authz.WaitCommitted)
	require.ErrorIs(t, err, authz.ErrInvalid)
	require.ErrorContains(t, err, "revocation 2")
	require.Empty(t, b.stored, "all or none")
}

// fleetBook is a ledger that knows what the fleet keeps to.
type fleetBook struct {
	book
	bound time.Duration
	err   error
	gone  bool // it cannot be asked after a commit
}

func (b *fleetBook) FleetStaleness(context.Context) (time.Duration, error) {
	if b.gone && len(b.stored) > 0 {
		return 0, authz.ErrUnavailable
	}
	return b.bound, b.err
}

// A receipt speaks for every sidecar: the caller's own bound is no promise, and
// what cannot be asked any more is not promised shorter than before.
func TestRevokePromisesTheFleetsBound(t *testing.T) {
	t.Parallel()
	b := &fleetBook{bound: 30 * time.Second, gone: true} // as in a command line, whose first order is its last
	rec, err := authz.NewRevoker(b, nil, 4*time.Second, authz.SystemClock{}).Revoke(t.Context(), order(), authz.WaitCommitted)
	require.NoError(t, err)
	require.Equal(t, 30*time.Second, rec.EnforcedWithin)
	b = &fleetBook{bound: 30 * time.Second}
	r := authz.NewRevoker(b, nil, 4*time.Second, authz.SystemClock{})
	for _, c := range []struct {
		bound time.Duration
		err   error
		want  time.Duration
	}{
		{30 * time.Second, nil, 30 * time.Second},
		{0, authz.ErrUnavailable, 30 * time.Second},
		{2 * time.Second, nil, 2 * time.Second},
		{0, authz.ErrUnavailable, 4 * time.Second},
	} {
		b.bound, b.err = c.bound, c.err
		rec, err := r.Revoke(t.Context(), order(), authz.WaitCommitted)
		require.NoError(t, err)
		require.Equal(t, c.want, rec.EnforcedWithin)
	}
}

// Another sidecar raised the fleet's bound since it was asked last, and the store
// goes away with the commit: the receipt promises what is in force.
func TestRevokePromisesWhatTheBoundWasRaisedTo(t *testing.T) {
	t.Parallel()
	b := &fleetBook{bound: 30 * time.Second}
	r := authz.NewRevoker(b, nil, 30*time.Second, authz.SystemClock{})
	_, err := r.Revoke(t.Context(), order(), authz.WaitCommitted)
	require.NoError(t, err)
	b.bound, b.gone, b.stored = 5*time.Minute, true, nil
	rec, err := r.Revoke(t.Context(), order(), authz.WaitCommitted)
	require.NoError(t, err)
	require.Equal(t, 5*time.Minute, rec.EnforcedWithin)
}

// Lowered between the two questions: what was in force at the commit counts.
func TestRevokePromisesTheLargerAnswer(t *testing.T) {
	t.Parallel()
	b := &loweredBook{fleetBook{bound: time.Minute}}
	rec, err := authz.NewRevoker(b, nil, time.Second, authz.SystemClock{}).Revoke(t.Context(), order(), authz.WaitCommitted)
	require.NoError(t, err)
	require.Equal(t, time.Minute, rec.EnforcedWithin)
}

type loweredBook struct{ fleetBook }

func (b *loweredBook) Append(ctx context.Context, rs []authz.Revocation) ([]authz.Revocation, error) {
	defer func() { b.bound = time.Second }()
	return b.book.Append(ctx, rs)
}

// A store that does not say what the fleet keeps to holds no order up for long.
func TestRevokeDoesNotWaitForTheBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &silentBook{}
		r := authz.NewRevoker(b, nil, time.Minute, authztest.BubbleClock{Start: time.Now()})
		_, err := r.Revoke(t.Context(), order(), authz.WaitCommitted)
		require.NoError(t, err)
		b.silent = true
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = r.Revoke(ctx, order(), authz.WaitCommitted)
		require.NoError(t, err)
		require.Less(t, b.at.Sub(start), 2*time.Second)
	})
}

// silentBook says when it was told to store.
type silentBook struct {
	book
	silent bool
	at     time.Time
}

func (b *silentBook) FleetStaleness(ctx context.Context) (time.Duration, error) {
	if b.silent {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return time.Minute, nil
}

func (b *silentBook) Append(ctx context.Context, rs []authz.Revocation) ([]authz.Revocation, error) {
	b.at = time.Now()
	return b.book.Append(ctx, rs)
}

// stage is a Tier with a fixed answer that notes what it is taught.
type stage struct {
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
func (s *stage) Begin(context.Context, *authz.Query) (time.Time, bool) {
	s.begun++
	return time.Unix(int64(s.begun), 0), true
}
func (s *stage) Fill(_ authz.Query, v authz.Verdict, _ time.Time) {
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
		"the first proof decides":           {&stage{v: authz.NotRevoked}, &stage{v: authz.Revoked}, authz.NotRevoked, false, 0, 0},
		"revoked is a proof":                {&stage{v: authz.Revoked}, &stage{v: authz.NotRevoked}, authz.Revoked, false, 0, 0},
		"a miss is passed on and taught":    {&stage{}, &stage{v: authz.NotRevoked}, authz.NotRevoked, false, 1, 1},
		"a revocation is taught too":        {&stage{}, &stage{v: authz.Revoked}, authz.Revoked, false, 1, 1},
		"a failure is passed on, untaught":  {&stage{err: away}, &stage{v: authz.NotRevoked}, authz.NotRevoked, false, 1, 0},
		"a verdict with an error is no one": {&stage{v: authz.NotRevoked, err: away}, &stage{err: away}, authz.Unknown, true, 1, 0},
		"nobody knows":                      {&stage{}, &stage{}, authz.Unknown, false, 1, 0},
		"nobody answers":                    {&stage{err: away}, &stage{err: away}, authz.Unknown, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := 0
			v, err := authz.NewChain(func(string, authz.Verdict, error, time.Duration) { seen++ }, c.first, c.second).Lookup(t.Context(), &authz.Query{})
			require.Equal(t, c.want, v)
			require.Equal(t, c.fails, err != nil, "%v", err)
			require.Equal(t, c.asked, c.second.asked)
			require.Len(t, c.first.filled, c.filled)
			require.Empty(t, c.second.filled, "the last tier learns from nobody")
			require.Equal(t, 1+c.asked, seen)
		})
	}
	v, err := authz.NewChain(nil).Lookup(t.Context(), &authz.Query{})
	require.Equal(t, authz.Unknown, v)
	require.NoError(t, err)
}
