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

// Answerer decides in the background; see envoy.Local.
type Answerer interface {
	AnswerLater(ctx context.Context, req *authz.Request, finish func(plan []byte)) (plan []byte)
}

// Pending is the decision that a stream waits for.
type Pending struct {
	ctx    context.Context // of the decision; it ends with the stream
	cancel context.CancelFunc

	mu        sync.Mutex
	scheduler Scheduler // nil: the stream has ended
	plan      []byte    // nil: undecided, or taken
}

// NewPending returns a Pending that owns the stream's scheduler. The caller calls Close
// when the stream ends.
func NewPending(s Scheduler) *Pending {
	p := &Pending{scheduler: s}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Start starts the decision, which will be committed as event. It returns the plan if
// there is one at once; then nothing will be committed. The request belongs to the
// Answerer for good.
func (p *Pending) Start(a Answerer, req *authz.Request, event uint64) (plan []byte) {
	return a.AnswerLater(p.ctx, req, func(plan []byte) { p.finish(plan, event) })
}

// finish stores the plan and commits it, unless the stream has ended. It holds the lock
// that Close takes, so that the scheduler is not used after the stream.
func (p *Pending) finish(plan []byte, event uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scheduler == nil {
		return
	}
	p.plan = plan
	p.scheduler.Commit(event)
}

// Take returns the plan once, and nil before it is known and after it was taken.
func (p *Pending) Take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	plan := p.plan
	p.plan = nil
	return plan
}

// Close ends the wait. When it returns, the scheduler is freed and will not be used.
func (p *Pending) Close() {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scheduler != nil {
		p.scheduler.Delete()
		p.scheduler = nil
	}
}
