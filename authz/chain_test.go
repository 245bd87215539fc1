package authz_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// fakeTier answers every lookup alike. It counts the lookups.
type fakeTier struct {
	name    string
	verdict authz.Verdict
	err     error
	then    func() // called during each lookup; nil: nothing
	lookups int
	query   authz.Query // of the last lookup
	waits   bool        // LookupNow proves nothing
}

var _ authz.Tier = (*fakeTier)(nil)

func (f *fakeTier) Name() string { return f.name }

func (f *fakeTier) Lookup(_ context.Context, q *authz.Query) (authz.Verdict, error) {
	f.lookups++
	f.query = *q
	if f.then != nil {
		f.then()
	}
	return f.verdict, f.err
}

func (f *fakeTier) LookupNow(*authz.Query) (authz.Verdict, bool) {
	if f.waits || f.err != nil || f.verdict == authz.Unknown {
		return authz.Unknown, false
	}
	return f.verdict, true
}

// fakeFiller is a fakeTier that records its fills.
type fakeFiller struct {
	fakeTier
	refuse bool // Begin returns false
	mark   time.Duration
	begun  int
	fills  []fakeFill
}

type fakeFill struct {
	query   authz.Query
	verdict authz.Verdict
	mark    time.Duration
}

var _ authz.Filler = (*fakeFiller)(nil)

func (f *fakeFiller) Begin(context.Context, *authz.Query) (time.Duration, bool) {
	f.begun++
	return f.mark, !f.refuse
}

func (f *fakeFiller) Fill(q authz.Query, v authz.Verdict, mark time.Duration) {
	f.fills = append(f.fills, fakeFill{q, v, mark})
}

var (
	errFirst  = errors.New("the first tier is broken")
	errSecond = errors.New("the second tier is broken")
)

// The first proof decides. Revoked decides even with an error, because denying
// is safe; NotRevoked with an error proves nothing.
func TestChainLookup(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tiers []*fakeTier
		want  authz.Verdict
		errs  []error // all of them are joined; empty: no error
		asked []int   // lookups per tier
	}{
		"an empty chain": {want: authz.Unknown},
		"the first tier proves it is not revoked": {
			tiers: []*fakeTier{{verdict: authz.NotRevoked}, {verdict: authz.Revoked}},
			want:  authz.NotRevoked, asked: []int{1, 0},
		},
		"the first tier proves it is revoked": {
			tiers: []*fakeTier{{verdict: authz.Revoked}, {verdict: authz.NotRevoked}},
			want:  authz.Revoked, asked: []int{1, 0},
		},
		"a miss, then a proof": {
			tiers: []*fakeTier{{}, {verdict: authz.Revoked}},
			want:  authz.Revoked, asked: []int{1, 1},
		},
		"only misses": {
			tiers: []*fakeTier{{}, {}},
			want:  authz.Unknown, asked: []int{1, 1},
		},
		"a failure, then not revoked": {
			tiers: []*fakeTier{{err: errFirst}, {verdict: authz.NotRevoked}},
			want:  authz.NotRevoked, asked: []int{1, 1},
		},
		"a failure, then a miss": {
			tiers: []*fakeTier{{err: errFirst}, {}},
			want:  authz.Unknown, errs: []error{errFirst}, asked: []int{1, 1},
		},
		"only failures": {
			tiers: []*fakeTier{{err: errFirst}, {err: errSecond}},
			want:  authz.Unknown, errs: []error{errFirst, errSecond}, asked: []int{1, 1},
		},
		"revoked with an error": {
			tiers: []*fakeTier{{verdict: authz.Revoked, err: errFirst}},
			want:  authz.Revoked, asked: []int{1},
		},
		"revoked with an error, then not revoked": {
			tiers: []*fakeTier{{verdict: authz.Revoked, err: errFirst}, {verdict: authz.NotRevoked}},
			want:  authz.Revoked, asked: []int{1, 0},
		},
		"a miss, then revoked with an error": {
			tiers: []*fakeTier{{}, {verdict: authz.Revoked, err: errFirst}},
			want:  authz.Revoked, asked: []int{1, 1},
		},
		"not revoked with an error": {
			tiers: []*fakeTier{{verdict: authz.NotRevoked, err: errFirst}},
			want:  authz.Unknown, errs: []error{errFirst}, asked: []int{1},
		},
		"not revoked with an error, then revoked": {
			tiers: []*fakeTier{{verdict: authz.NotRevoked, err: errFirst}, {verdict: authz.Revoked}},
			want:  authz.Revoked, asked: []int{1, 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tiers := make([]authz.Tier, 0, len(tt.tiers))
			for _, f := range tt.tiers {
				tiers = append(tiers, f)
			}
			v, err := authz.NewChain(nil, tiers...).Lookup(t.Context(), &authz.Query{})
			require.Equal(t, tt.want, v)
			if len(tt.errs) == 0 {
				require.NoError(t, err)
			}
			for _, e := range tt.errs {
				require.ErrorIs(t, err, e)
			}
			for i, f := range tt.tiers {
				assert.Equal(t, tt.asked[i], f.lookups, "lookups of tier %d", i)
			}
		})
	}
}

// In a conjunction, Revoked decides whatever comes with it and before it.
func TestAllRevokedWithError(t *testing.T) {
	t.Parallel()
	for name, tiers := range map[string][]authz.Tier{
		"alone":                {&fakeTier{verdict: authz.Revoked, err: errFirst}},
		"before a proof":       {&fakeTier{verdict: authz.Revoked, err: errFirst}, &fakeTier{verdict: authz.NotRevoked}},
		"after a proof":        {&fakeTier{verdict: authz.NotRevoked}, &fakeTier{verdict: authz.Revoked, err: errFirst}},
		"after a failure":      {&fakeTier{err: errFirst}, &fakeTier{verdict: authz.Revoked, err: errSecond}},
		"in a chain inside it": {authz.NewChain(nil, &fakeTier{}, &fakeTier{verdict: authz.Revoked, err: errFirst})},
	} {
		v, err := authz.All(tiers...).Lookup(t.Context(), &authz.Query{})
		assert.NoError(t, err, name)
		assert.Equal(t, authz.Revoked, v, name)
	}
}

// No tier is asked after the context has ended, and the chain says why it
// knows nothing.
func TestChainContextOver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	first, last := &fakeFiller{fakeTier: fakeTier{then: cancel}}, &fakeTier{verdict: authz.NotRevoked}
	v, err := authz.NewChain(nil, first, last).Lookup(ctx, &authz.Query{})
	require.Equal(t, authz.Unknown, v)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, first.lookups)
	require.Zero(t, last.lookups)
	require.Empty(t, first.fills)
}

// A tier that missed is filled with what a later tier proved, with the mark it set
// before the later tier was asked.
func TestChainFill(t *testing.T) {
	t.Parallel()
	mark := time.Minute
	query := authz.Query{Keys: []authz.Key{{1}}, TokenKey: authz.Key{1}, ID: "jti-1"}
	for name, tt := range map[string]struct {
		filler fakeFiller
		later  fakeTier
		alone  bool // the filler is the last tier
		begun  int
		fills  []fakeFill
	}{
		"a later tier proves it is revoked": {
			later: fakeTier{verdict: authz.Revoked},
			begun: 1, fills: []fakeFill{{query, authz.Revoked, mark}},
		},
		"a later tier proves it is not revoked": {
			later: fakeTier{verdict: authz.NotRevoked},
			begun: 1, fills: []fakeFill{{query, authz.NotRevoked, mark}},
		},
		"the filler itself has the proof": {filler: fakeFiller{fakeTier: fakeTier{verdict: authz.NotRevoked}}},
		"the filler has failed":           {filler: fakeFiller{fakeTier: fakeTier{err: errFirst}}, later: fakeTier{verdict: authz.NotRevoked}},
		"the filler cannot be filled now": {filler: fakeFiller{refuse: true}, later: fakeTier{verdict: authz.NotRevoked}, begun: 1},
		"the filler is the last tier":     {alone: true},
		"the later tier misses":           {begun: 1},
		"the later tier fails":            {later: fakeTier{err: errSecond}, begun: 1},
		"the later tier's verdict comes with an error": {
			later: fakeTier{verdict: authz.NotRevoked, err: errSecond}, begun: 1,
		},
		"the later tier says revoked with an error": {
			later: fakeTier{verdict: authz.Revoked, err: errSecond}, begun: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			filler, later := tt.filler, tt.later
			filler.mark = mark
			later.then = func() { assert.Equal(t, tt.begun, filler.begun, "Begin comes before the later tier's lookup") }
			tiers := []authz.Tier{&filler, &later}
			if tt.alone {
				tiers = tiers[:1]
			}
			_, _ = authz.NewChain(nil, tiers...).Lookup(t.Context(), &query)
			require.Equal(t, tt.begun, filler.begun)
			require.Equal(t, tt.fills, filler.fills)
		})
	}
}

// Every Filler that missed is filled; other tiers between them are skipped.
func TestChainFillsSeveral(t *testing.T) {
	t.Parallel()
	near, far := &fakeFiller{mark: time.Second}, &fakeFiller{mark: 2 * time.Second}
	v, err := authz.NewChain(nil, near, &fakeTier{}, far, &fakeTier{verdict: authz.Revoked}).Lookup(t.Context(), &authz.Query{})
	require.NoError(t, err)
	require.Equal(t, authz.Revoked, v)
	require.Equal(t, []fakeFill{{verdict: authz.Revoked, mark: near.mark}}, near.fills)
	require.Equal(t, []fakeFill{{verdict: authz.Revoked, mark: far.mark}}, far.fills)
}

// The observer is told of every lookup, in order, with the tier's own answer.
func TestChainObserver(t *testing.T) {
	t.Parallel()
	type lookup struct {
		tier    string
		verdict authz.Verdict
		err     error
	}
	var seen []lookup
	observe := func(tier string, v authz.Verdict, err error, took time.Duration) {
		assert.GreaterOrEqual(t, took, time.Duration(0))
		seen = append(seen, lookup{tier, v, err})
	}
	chain := authz.NewChain(observe, &fakeTier{name: "a"}, &fakeTier{name: "b", err: errFirst}, &fakeTier{name: "c", verdict: authz.Revoked}, &fakeTier{name: "d"})
	v, err := chain.Lookup(t.Context(), &authz.Query{})
	require.NoError(t, err)
	require.Equal(t, authz.Revoked, v)
	require.Equal(t, []lookup{{"a", authz.Unknown, nil}, {"b", authz.Unknown, errFirst}, {"c", authz.Revoked, nil}}, seen)
	require.Equal(t, "chain", chain.Name())
}
