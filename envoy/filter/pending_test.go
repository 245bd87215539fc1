package filter_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/filter"
)

// fakeScheduler fails the test if it is used after Delete, as Envoy would crash.
type fakeScheduler struct {
	t       *testing.T
	deleted bool
	events  []uint64
}

var _ filter.Scheduler = (*fakeScheduler)(nil)

func (s *fakeScheduler) Commit(event uint64) {
	assert.False(s.t, s.deleted, "committed after the end of the stream")
	s.events = append(s.events, event)
}

func (s *fakeScheduler) Delete() {
	assert.False(s.t, s.deleted, "deleted twice")
	s.deleted = true
}

// fakeAnswerer keeps what it has to finish.
type fakeAnswerer struct {
	now    []byte
	ctx    context.Context
	finish func([]byte)
}

var _ filter.Answerer = (*fakeAnswerer)(nil)

func (a *fakeAnswerer) AnswerLater(ctx context.Context, _ *authz.Request, finish func([]byte)) []byte {
	a.ctx, a.finish = ctx, finish
	return a.now
}

func TestPending(t *testing.T) {
	t.Parallel()
	s, a := &fakeScheduler{t: t}, &fakeAnswerer{}
	p := filter.NewPending(s)
	assert.Nil(t, p.Start(a, &authz.Request{}, 7))
	assert.Nil(t, p.Take(), "it is undecided")
	a.finish([]byte("plan"))
	assert.Equal(t, []uint64{7}, s.events)
	assert.Equal(t, "plan", string(p.Take()))
	assert.Nil(t, p.Take(), "it was taken")
	p.Close()
	assert.True(t, s.deleted)
	p.Close()
}

func TestPendingAtOnce(t *testing.T) {
	t.Parallel()
	s := &fakeScheduler{t: t}
	p := filter.NewPending(s)
	assert.Equal(t, "plan", string(p.Start(&fakeAnswerer{now: []byte("plan")}, &authz.Request{}, 7)))
	assert.Empty(t, s.events)
	p.Close()
}

// A stream that ends while its decision is made: nothing is committed afterwards, and
// the decision learns of it.
func TestPendingStreamEnds(t *testing.T) {
	t.Parallel()
	for range 200 {
		s, a := &fakeScheduler{t: t}, &fakeAnswerer{}
		p := filter.NewPending(s)
		p.Start(a, &authz.Request{}, 7)
		var wg sync.WaitGroup
		wg.Go(func() { a.finish([]byte("plan")) })
		p.Close()
		wg.Wait()
		assert.True(t, s.deleted)
		assert.Error(t, a.ctx.Err(), "the decision still waits")
	}
}
