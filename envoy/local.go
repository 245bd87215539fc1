package envoy

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"jwtbouncer/authz"
)

// ImmediateAuthorizer is an Authorizer that can also refuse to wait.
type ImmediateAuthorizer interface {
	Authorizer
	// AuthorizeNow returns the decision that Authorize would return. decided is false if Authorize
	// might wait; the call has had no effect then. It does not block.
	AuthorizeNow(req *authz.Request) (d authz.Decision, decided bool)
	StreamAuthorizer
}

var _ ImmediateAuthorizer = (*authz.Authorizer)(nil)

// Local answers checks for a filter in Envoy's own process: with the same decisions, replies, metrics
// and log as Server, but as plans (see PlanAllow) and without gRPC.
//
// The filter calls AnswerNow on Envoy's worker thread. If that would have to wait, the filter pauses
// the request and calls AnswerLater.
type Local struct {
	*responder
	streams    *streams
	authorizer ImmediateAuthorizer
	maxPending int64
	pending    atomic.Int64 // decisions of AnswerLater that the Authorizer has not returned yet
	background authz.Background
}

// maxPending is the maximum number of decisions that wait at the same time. Server has the same limit
// per connection by default (listen.grpc_max_streams).
const maxPending = 4096

// NewLocal returns a Local. It returns an error if the configuration, of which Listen is ignored, is
// invalid, or if a metric is already registered. revoked receives when revocations have become known,
// so that open streams end at once; nil: they end within two seconds. The caller calls Close in the
// end.
func NewLocal(a ImmediateAuthorizer, cfg Config, o Options, revoked <-chan struct{}) (*Local, error) {
	cfg.Listen = DefaultConfig().Listen
	cfg = cfg.withDefaults()
	if err := authz.ValidationErrors("", cfg.Validate); err != nil {
		return nil, err
	}
	r, err := newResponder(cfg, o, encodePlan)
	if err != nil {
		return nil, err
	}
	return &Local{responder: r, streams: newStreams(a, r, revoked), authorizer: a, maxPending: maxPending}, nil
}

// UnavailablePlan returns a plan that replies 503 and needs no Local: for a filter that has none, or
// that has itself failed.
func UnavailablePlan() []byte {
	return encodePlan(&answer{status: http.StatusServiceUnavailable})
}

// AnswerNow returns the plan for req if nothing has to be waited for. Otherwise ok is false and the
// call has had no effect. If watch is not nil, the filter must call it before it lets the request
// pass. AnswerNow keeps neither req nor any part of it. It never panics.
func (l *Local) AnswerNow(req *authz.Request) (plan []byte, watch Watch, ok bool) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			plan, watch, ok = l.panicked(p, isGRPC(req), start), nil, true
		}
	}()
	if req.Method == "" {
		return l.malformed("not an HTTP request", start), nil, true
	}
	d, decided := l.authorizer.AuthorizeNow(req)
	if !decided {
		return nil, nil, false
	}
	grpc := isGRPC(req)
	plan = l.respond(req, &d, grpc, start)
	if l.tracer != nil {
		// The request is traced only now, because a span must not begin for a check that has to wait.
		span := l.startSpan(&deadlineContext{parent: context.Background()}, req, trace.WithTimestamp(start))
		span.end(&d)
	}
	return plan, l.streams.watch(req, &d, grpc), true
}

// AnswerLater decides about req in the background and passes what AnswerNow returns to finish: exactly
// once, from another goroutine, and within AnswerTime. It returns nil then. If too many decisions are
// pending, it returns the plan of a denial, and finish is never called.
//
// The request, and the memory that its strings refer to, belong to Local for good: a decision that
// comes too late may still read them. The end of ctx ends the wait early; finish is called all the
// same.
func (l *Local) AnswerLater(ctx context.Context, req *authz.Request, finish func(plan []byte, watch Watch)) (plan []byte) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			plan = l.panicked(p, isGRPC(req), start)
		}
	}()
	if req.Method == "" {
		return l.malformed("not an HTTP request", start)
	}
	if l.pending.Add(1) > l.maxPending {
		l.pending.Add(-1)
		return l.overloaded(req, start)
	}
	p := &pendingAnswer{local: l, req: req, finish: finish, grpc: isGRPC(req), start: start}
	p.ctx = deadlineContext{parent: ctx, deadline: checkDeadline(ctx, start)}
	if !l.background.Start(p.decide) {
		l.pending.Add(-1)
		return l.overloaded(req, start)
	}
	return nil
}

func (l *Local) overloaded(req *authz.Request, start time.Time) []byte {
	d := authz.Decision{Reason: authz.ReasonOverloaded, Detail: "too many decisions are pending"}
	return l.respond(req, &d, isGRPC(req), start)
}

// Close waits for the pending decisions and writes the decision log. No other method may be called
// any more.
func (l *Local) Close() {
	l.background.Close()
	l.streams.close()
	l.log.stop()
}

// pendingAnswer is one call of AnswerLater.
type pendingAnswer struct {
	local  *Local
	ctx    deadlineContext
	req    *authz.Request
	finish func(plan []byte, watch Watch)
	grpc   bool
	start  time.Time
	span   checkSpan

	mu       sync.Mutex
	answered bool
}

// decide answers with the decision, or at the deadline without it.
func (p *pendingAnswer) decide() {
	defer p.local.pending.Add(-1)
	defer p.ctx.release()
	defer func() {
		if v := recover(); v != nil {
			p.answer(func() authz.Decision { return panicDecision(v) })
		}
	}()
	p.span = p.local.startSpan(&p.ctx, p.req)
	late := time.AfterFunc(time.Until(p.ctx.deadline), func() { p.answer(p.local.late) })
	defer late.Stop()
	d := p.local.authorizer.Authorize(&p.ctx, p.req)
	p.answer(func() authz.Decision { return d })
}

// answer passes the answer to a decision on unless another one was passed on before. It returns when
// the one answer has been passed on. A panic of finish ends there: it must not end Envoy.
func (p *pendingAnswer) answer(decision func() authz.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { _ = recover() }()
	if p.answered {
		return
	}
	p.answered = true
	p.finish(p.encode(decision()))
}

func (p *pendingAnswer) encode(d authz.Decision) (plan []byte, watch Watch) {
	defer func() {
		if v := recover(); v != nil {
			plan, watch = p.local.panicked(v, p.grpc, p.start), nil
		}
	}()
	plan = p.local.respond(p.req, &d, p.grpc, p.start)
	p.span.end(&d)
	return plan, p.local.streams.watch(p.req, &d, p.grpc)
}
