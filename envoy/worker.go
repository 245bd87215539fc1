package envoy

import (
	"context"
	"runtime"
	"sync"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// worker runs the Authorizer for one check at a time.
//
// A check must be answered by its deadline even if the Authorizer hangs and ignores its context.
// So the Authorizer runs on the worker's goroutine, and the goroutine of the gRPC stream waits
// for it until the deadline and then abandons the worker: the late decision is dropped, the
// goroutine ends when the Authorizer returns, and the worker, whose memory the Authorizer still
// uses, is never used again.
//
// Workers are pooled, because to start a goroutine per check, whose stack has to grow each time,
// costs more than the whole decision.
type worker struct {
	server   *Server
	decoder  wire.Decoder
	ctx      context.Context // of the current check
	request  *authz.Request  // of the current check; decoder owns it
	decision authz.Decision  // on request, once decided has signalled
	start    chan struct{}   // one signal per check; closed: the goroutine ends
	decided  chan struct{}   // one signal per decision
	timer    *time.Timer
}

func newWorker(s *Server) *worker {
	w := &worker{server: s, start: make(chan struct{}, 1), decided: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	w.timer.Stop()
	go w.run()
	return w
}

func (w *worker) run() {
	for range w.start {
		w.authorize()
		w.decided <- struct{}{}
	}
}

func (w *worker) authorize() {
	defer func() {
		if p := recover(); p != nil {
			w.decision = panicDecision(p)
		}
	}()
	w.decision = w.server.authorizer.Authorize(w.ctx, w.request)
}

// decide waits up to limit for the decision on request. If it returns false, the worker is
// abandoned and must not be used again; the request may still be read.
func (w *worker) decide(ctx context.Context, request *authz.Request, limit time.Duration) (decided bool) {
	w.ctx, w.request = ctx, request
	w.timer.Reset(limit)
	w.start <- struct{}{}
	select {
	case <-w.decided:
		w.timer.Stop()
		return true
	case <-w.timer.C:
	}
	// If the whole process was kept from running, the decision may have been made, or the
	// goroutine may only have to be scheduled.
	runtime.Gosched()
	select {
	case <-w.decided:
		return true
	default:
		w.abandon()
		return false
	}
}

// abandon ends the goroutine as soon as the Authorizer returns.
func (w *worker) abandon() { close(w.start) }

// release returns the worker to the pool. The request must not be used any more.
func (w *worker) release() {
	w.decoder.Reset()
	w.ctx, w.request, w.decision = nil, nil, authz.Decision{}
	w.server.workers.put(w)
}

// maxIdleWorkers limits the number of goroutines that wait for a check.
const maxIdleWorkers = 256

// workerPool holds the idle workers, the last used on top: its stack and its memory are the
// warmest.
type workerPool struct {
	mu     sync.Mutex
	idle   []*worker
	closed bool
}

func (p *workerPool) get(s *Server) *worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return newWorker(s)
	}
	w := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return w
}

func (p *workerPool) put(w *worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdleWorkers {
		w.abandon()
		return
	}
	p.idle = append(p.idle, w)
}

// close ends the goroutines of the idle workers now, and those of busy workers when they are
// released.
func (p *workerPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, w := range p.idle {
		w.abandon()
	}
	p.idle = nil
}
