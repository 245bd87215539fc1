package envoy

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// check is one question from its bytes to its answer. It is used again for
// another one, unless its decision came too late.
//
// Its Authorizer runs on a goroutine of the check's own, so that the one of
// the gRPC stream can leave it behind. The goroutine lives as long as the
// check: starting one per question, with a stack that has to grow each time,
// costs more than the whole decision.
type check struct {
	server *Server
	dec    wire.Decoder
	req    *authz.Request  // as dec has decoded it
	ctx    context.Context //nolint:containedctx // of the current question
	out    authz.Decision
	asked  chan struct{} // one signal per question; closed: the goroutine ends
	done   chan struct{} // one signal per decision
	timer  *time.Timer
}

func newCheck(s *Server) *check {
	c := &check{server: s, asked: make(chan struct{}, 1), done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	go c.run()
	return c
}

// maxIdleChecks bounds the goroutines that wait for a question.
const maxIdleChecks = 256

// checkPool holds idle checks, the last used on top: its stack and its memory
// are the warmest.
type checkPool struct {
	mu     sync.Mutex
	idle   []*check
	closed bool
}

func (p *checkPool) get(s *Server) *check {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c
	}
	p.mu.Unlock()
	return newCheck(s)
}

func (p *checkPool) put(c *check) {
	p.mu.Lock()
	if !p.closed && len(p.idle) < maxIdleChecks {
		p.idle = append(p.idle, c)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	close(c.asked)
}

// close ends the idle goroutines, and the others when they come back.
func (p *checkPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		close(c.asked)
	}
	p.idle = nil
}

// answer returns the encoded CheckResponse to an encoded CheckRequest. It
// always returns one, at the latest checkTime from now.
func (s *Server) answer(parent context.Context, message []byte) (out []byte) {
	var (
		start = time.Now()
		d     authz.Decision
		grpc  bool
		c     *check // nil: not ours (any more)
	)
	defer func() {
		if p := recover(); p != nil {
			if c != nil {
				close(c.asked)
			}
			d = authz.Decision{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic: %T", p)}
			out = s.denials.answer(&d, grpc)
			s.metrics.count(d.Reason, time.Since(start))
		}
	}()
	c = s.checks.get(s)
	req, err := c.dec.Decode(message)
	if err != nil || req.Method == "" {
		// Without a method this is no HTTP request, and no route was written
		// with it in mind.
		s.metrics.undecodable.Inc()
		d = authz.Decision{Reason: authz.ReasonMalformedRequest, Detail: "not a CheckRequest of an HTTP request"}
		out = s.denials.answer(&d, false)
		s.finish(&authz.Request{}, &d, start)
		c.free()
		return out
	}
	grpc = isGRPC(req)
	ctx := &deadlineContext{parent: parent, deadline: deadline(parent, start)}
	span := s.startSpan(ctx, req)
	c.ctx, c.req = ctx, req
	decided := c.decide(ctx.deadline.Sub(start))
	if decided {
		d = c.out
		ctx.release()
	} else {
		c = nil
		d = authz.Decision{Reason: authz.ReasonOverloaded, Detail: "no decision within the time of a check"}
		s.metrics.late.Inc()
	}
	if d.Allowed() {
		out = s.allow(&d, req)
	}
	if out == nil {
		out = s.denials.answer(&d, grpc)
	}
	s.finish(req, &d, start)
	span.end(&d)
	if decided {
		c.free()
	}
	return out
}

// decide has the Authorizer decide, and waits for it no longer than limit:
// whatever hangs below, the caller is answered. What comes later is dropped,
// with the check.
func (c *check) decide(limit time.Duration) bool {
	c.timer.Reset(limit)
	c.asked <- struct{}{}
	select {
	case <-c.done:
		c.timer.Stop()
		return true
	case <-c.timer.C:
	}
	// When the whole process was kept from running, the decision may be there,
	// or only wait for its turn.
	runtime.Gosched()
	select {
	case <-c.done:
		return true
	default:
		close(c.asked)
		return false
	}
}

func (c *check) run() {
	for range c.asked {
		c.authorize()
		c.done <- struct{}{}
	}
}

func (c *check) authorize() {
	defer func() {
		if p := recover(); p != nil {
			c.out = authz.Decision{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic: %T", p)}
		}
	}()
	c.out = c.server.authorizer.Authorize(c.ctx, c.req)
}

func (c *check) free() {
	c.dec.Reset()
	c.ctx, c.req, c.out = nil, nil, authz.Decision{}
	c.server.checks.put(c)
}

// deadline leaves the caller, where it said how long it waits, time to hear
// the answer.
func deadline(parent context.Context, start time.Time) time.Time {
	limit := start.Add(checkTime)
	if theirs, ok := parent.Deadline(); ok {
		if theirs = theirs.Add(-theirs.Sub(start) / 10); theirs.Before(limit) {
			return theirs
		}
	}
	return limit
}

// allow returns the answer of an allow, or turns d into a denial and returns
// nil when a claim cannot be passed on.
func (s *Server) allow(d *authz.Decision, req *authz.Request) []byte {
	if d.Reason == authz.ReasonAllowed && d.Token == nil {
		*d = authz.Decision{Reason: authz.ReasonInternal, Detail: "allowed without a token"}
		return nil
	}
	token := d.Token
	if d.Reason == authz.ReasonAllowedAnonymous {
		token = nil
	}
	out, err := s.identity.answer(token, d.Credential, req)
	if err == nil {
		return out
	}
	*d = authz.Decision{Reason: authz.ReasonInternal, Token: d.Token, Route: d.Route, Detail: "answer: " + err.Error(), Credential: d.Credential}
	var unfit *errUnfit
	if errors.As(err, &unfit) {
		d.Reason, d.Detail = authz.ReasonBadClaim, unfit.why
	}
	return nil
}

func (s *Server) finish(req *authz.Request, d *authz.Decision, start time.Time) {
	took := time.Since(start)
	s.metrics.count(d.Reason, took)
	s.log.decision(req, d, took)
}

// isGRPC reports whether the caller speaks gRPC, as Envoy decides it.
func isGRPC(req *authz.Request) bool {
	v, _ := req.Header("content-type")
	rest, ok := strings.CutPrefix(v, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
