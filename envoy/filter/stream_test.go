package filter_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/envoy"
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
	finish func([]byte, filter.Watch)
}

var _ filter.Answerer = (*fakeAnswerer)(nil)

func (a *fakeAnswerer) AnswerLater(ctx context.Context, _ *authz.Request, finish func([]byte, filter.Watch)) []byte {
	a.ctx, a.finish = ctx, finish
	return a.now
}

func TestStream(t *testing.T) {
	t.Parallel()
	s, a := &fakeScheduler{t: t}, &fakeAnswerer{}
	stream := filter.NewStream(s)
	assert.Nil(t, stream.Decide(a, &authz.Request{}, 7))
	plan, _ := stream.Take()
	assert.Nil(t, plan, "it is undecided")
	a.finish([]byte("plan"), nil)
	assert.Equal(t, []uint64{7}, s.events)
	plan, _ = stream.Take()
	assert.Equal(t, "plan", string(plan))
	plan, _ = stream.Take()
	assert.Nil(t, plan, "it was taken")
	stream.Close()
	assert.True(t, s.deleted)
	stream.Close()
}

func TestStreamDecidedAtOnce(t *testing.T) {
	t.Parallel()
	s := &fakeScheduler{t: t}
	stream := filter.NewStream(s)
	assert.Equal(t, "plan", string(stream.Decide(&fakeAnswerer{now: []byte("plan")}, &authz.Request{}, 7)))
	assert.Empty(t, s.events)
	stream.Close()
}

// A stream that ends while its decision is made: nothing is committed afterwards, and
// the decision learns of it.
func TestStreamEndsEarly(t *testing.T) {
	t.Parallel()
	for range 200 {
		s, a := &fakeScheduler{t: t}, &fakeAnswerer{}
		stream := filter.NewStream(s)
		stream.Decide(a, &authz.Request{}, 7)
		var wg sync.WaitGroup
		wg.Go(func() { a.finish([]byte("plan"), nil) })
		stream.Close()
		wg.Wait()
		assert.True(t, s.deleted)
		assert.Error(t, a.ctx.Err(), "the decision still waits")
	}
}

// openEnded allows every request, and every stream until it is revoked.
type openEnded struct{ revoked atomic.Bool }

func (o *openEnded) Authorize(context.Context, *authz.Request) authz.Decision {
	token := &authz.Token{Raw: "t", Issuer: "https://issuer.example"}
	token.SetKeys()
	return authz.Decision{Reason: authz.ReasonAllowed, Token: token, Grant: new(authz.Grant)}
}

func (o *openEnded) AuthorizeNow(req *authz.Request) (authz.Decision, bool) {
	return o.Authorize(context.Background(), req), true
}

func (o *openEnded) RecheckNow(g *authz.Grant) (authz.Decision, bool) {
	if o.revoked.Load() {
		return authz.Decision{Reason: authz.ReasonRevoked}, true
	}
	return authz.Decision{Reason: authz.ReasonAllowed, Grant: g}, true
}

func (o *openEnded) Recheck(context.Context, *authz.Grant) authz.Decision { panic("memory decides") }

// The end of the token is committed while the stream is open, and never after it: neither
// when both end at once, nor when the token ends before it is watched.
func TestStreamOutlivesToken(t *testing.T) {
	t.Parallel()
	ends := map[string]int{}
	for i := range 300 {
		o, revoked := &openEnded{}, make(chan struct{}, 1)
		local, err := envoy.NewLocal(o, envoy.DefaultConfig(), envoy.Options{}, revoked)
		require.NoError(t, err)
		_, watch, ok := local.AnswerNow(&authz.Request{Method: "GET", Path: "/", Host: "a"})
		require.True(t, ok && watch != nil)
		s := &fakeScheduler{t: t}
		stream := filter.NewStream(s)
		if i%3 == 0 {
			o.revoked.Store(true)
		}
		stream.Watch(watch, 7)
		if i%3 > 0 {
			o.revoked.Store(true)
			revoked <- struct{}{}
		}
		if i%3 < 2 {
			require.Eventually(t, func() bool {
				end, _ := stream.Take()
				return end != nil && end[0] == envoy.PlanEndStream
			}, time.Minute, time.Millisecond)
			ends["open"]++
		}
		stream.Close()
		local.Close()
		assert.LessOrEqual(t, len(s.events), 1)
	}
	assert.Equal(t, 200, ends["open"])
}

// A stream that is not to be watched is left alone.
func TestStreamWithoutWatch(t *testing.T) {
	t.Parallel()
	stream := filter.NewStream(&fakeScheduler{t: t})
	stream.Watch(nil, 7)
	stream.Close()
}
