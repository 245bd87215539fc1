package filter

import (
	"context"
	"sync"

	"jwtbouncer/authz"
)

// Scheduler lets a worker thread of Envoy continue with a stream. It is valid from the
// stream's wait to the stream's end: after that, the thread that it posts to may be gone.
type Scheduler interface {
	// Commit has the thread call the scheduled hook of the stream with event.
	Commit(event uint64)
	// Delete frees the scheduler.
	Delete()
}

// Watch watches an open stream; see envoy.Watch.
type Watch = func(end func(plan []byte)) (stop func())

// Answerer decides in the background; see envoy.Local.
type Answerer interface {
	AnswerLater(ctx context.Context, req *authz.Request, finish func(plan []byte, watch Watch)) (plan []byte)
}

// Stream is a stream of Envoy that waits for its decision, or for the end of its token.
type Stream struct {
	ctx    context.Context // of the decision; it ends with the stream
	cancel context.CancelFunc

	mu        sync.Mutex
	scheduler Scheduler // nil: the stream has ended
	plan      []byte    // nil: none, or taken
	watch     Watch     // comes with the plan; nil: not to be watched
	stop      func()    // of the watch; nil: not watched
}

// NewStream returns a Stream that owns the scheduler. The caller calls Close when the
// stream ends.
func NewStream(s Scheduler) *Stream {
	p := &Stream{scheduler: s}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Decide starts the decision, which will be committed as event. It returns the plan of a
// denial if there is one at once; then nothing will be committed. The request belongs
// to the Answerer for good.
func (s *Stream) Decide(a Answerer, req *authz.Request, event uint64) (plan []byte) {
	return a.AnswerLater(s.ctx, req, func(plan []byte, watch Watch) { s.commit(plan, watch, event) })
}

// Watch has the plan that ends the stream committed as event once its token is no longer
// good. It may be called once. nil: it does nothing.
func (s *Stream) Watch(watch Watch, event uint64) {
	if watch == nil {
		return
	}
	stop := watch(func(plan []byte) { s.commit(plan, nil, event) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = stop
}

// commit stores the plan and commits it, unless the stream has ended. It holds the lock
// that Close takes, so that the scheduler is not used after the stream.
func (s *Stream) commit(plan []byte, watch Watch, event uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scheduler == nil {
		return
	}
	s.plan, s.watch = plan, watch
	s.scheduler.Commit(event)
}

// Take returns the plan and its Watch once, and nil before the plan is known and after it
// was taken.
func (s *Stream) Take() (plan []byte, watch Watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	plan, watch = s.plan, s.watch
	s.plan, s.watch = nil, nil
	return plan, watch
}

// Close ends the wait. When it returns, the scheduler is freed and will not be used.
func (s *Stream) Close() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	if s.scheduler != nil {
		s.scheduler.Delete()
		s.scheduler = nil
	}
}
