package filter

import (
	"context"
	"sync"

	"jwtbouncer/authz"
	"jwtbouncer/envoy"
)

// Scheduler lets a worker thread of Envoy continue with a stream. It is valid from the
// stream's wait to the stream's end: after that, the thread that it posts to may be gone.
type Scheduler interface {
	// Commit has the thread call the scheduled hook of the stream with event.
	Commit(event uint64)
	// Delete frees the scheduler.
	Delete()
}

// Answerer decides in the background and watches open streams; see envoy.Local.
type Answerer interface {
	AnswerLater(ctx context.Context, req *authz.Request, finish func(envoy.LocalAnswer)) (plan []byte)
	Watch(a envoy.LocalAnswer, end func(plan []byte)) *envoy.Watch
}

// Stream is a stream of Envoy that waits for its decision, or for the end of its token.
type Stream struct {
	answerer Answerer
	ctx      context.Context // of the decision; it ends with the stream
	cancel   context.CancelFunc

	mu        sync.Mutex
	scheduler Scheduler // nil: the stream has ended
	answer    envoy.LocalAnswer
	watch     *envoy.Watch // nil: not watched
}

// NewStream returns a Stream that owns the scheduler. The caller calls Close when the
// stream ends.
func NewStream(a Answerer, s Scheduler) *Stream {
	p := &Stream{answerer: a, scheduler: s}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Decide starts the decision, which will be committed as event. It returns the plan of a
// denial if there is one at once; then nothing will be committed. The request belongs
// to the Answerer for good.
func (s *Stream) Decide(req *authz.Request, event uint64) (plan []byte) {
	return s.answerer.AnswerLater(s.ctx, req, func(a envoy.LocalAnswer) { s.commit(a, event) })
}

// Watch has the plan that ends the stream committed as event once the token of the
// answer is no longer good, if the answer is Watched. It may be called once.
func (s *Stream) Watch(a envoy.LocalAnswer, event uint64) {
	if !a.Watched() {
		return
	}
	w := s.answerer.Watch(a, func(plan []byte) { s.commit(envoy.LocalAnswer{Plan: plan}, event) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = w
}

// commit stores the answer and commits it, unless the stream has ended. It holds the
// lock that Close takes, so that the scheduler is not used after the stream.
func (s *Stream) commit(a envoy.LocalAnswer, event uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scheduler == nil {
		return
	}
	s.answer = a
	s.scheduler.Commit(event)
}

// Take returns the answer once; ok is false before it is known and after it was taken.
func (s *Stream) Take() (a envoy.LocalAnswer, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, s.answer = s.answer, envoy.LocalAnswer{}
	return a, a.Plan != nil
}

// Close ends the wait. When it returns, the scheduler is freed and will not be used.
func (s *Stream) Close() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watch != nil {
		s.watch.Close()
	}
	if s.scheduler != nil {
		s.scheduler.Delete()
		s.scheduler = nil
	}
}
