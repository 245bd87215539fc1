package envoy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// check is one question from its bytes to its answer. It is used again for
// another one, unless its decision came too late.
type check struct {
	server *Server
	dec    requestDecoder
	ctx    context.Context //nolint:containedctx // of the current question
	out    authz.Decision
	done   chan struct{} // one signal per decision
	timer  *time.Timer
}

func newCheck(s *Server) *check {
	c := &check{server: s, done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	return c
}

// answer returns the encoded CheckResponse to an encoded CheckRequest. It
// always returns one, at the latest checkTime from now.
func (s *Server) answer(parent context.Context, wire []byte) (out []byte) {
	var (
		start = time.Now()
		d     authz.Decision
		grpc  bool
	)
	defer func() {
		if p := recover(); p != nil {
			d = authz.Decision{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic: %T", p)}
			out = s.denials.answer(&d, grpc)
			s.metrics.count(d.Reason, time.Since(start))
		}
	}()
	c, _ := s.checks.Get().(*check)
	if err := c.dec.decode(wire); err != nil || c.dec.req.Method == "" {
		// Without a method this is no HTTP request, and no route was written
		// with it in mind.
		s.metrics.undecodable.Inc()
		d = authz.Decision{Reason: authz.ReasonMalformedRequest, Detail: "not a CheckRequest of an HTTP request"}
		out = s.denials.answer(&d, false)
		s.finish(&authz.Request{}, &d, start)
		c.free()
		return out
	}
	grpc = isGRPC(&c.dec.req)
	ctx := &deadlineContext{parent: parent, deadline: deadline(parent, start)}
	span := s.startSpan(ctx, &c.dec.req)
	c.ctx = ctx
	decided := c.decide(ctx.deadline.Sub(start))
	if decided {
		d = c.out
		ctx.release()
	} else {
		d = authz.Decision{Reason: authz.ReasonOverloaded, Detail: "no decision within the time of a check"}
		s.metrics.late.Inc()
	}
	req := &c.dec.req
	if d.Allowed() {
		if out = s.allow(&d, req); out == nil {
			out = s.denials.answer(&d, grpc)
		}
	} else {
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
// with the check's memory.
func (c *check) decide(limit time.Duration) bool {
	c.timer.Reset(limit)
	go c.run()
	select {
	case <-c.done:
		c.timer.Stop()
		return true
	case <-c.timer.C:
		return false
	}
}

func (c *check) run() {
	defer func() {
		if p := recover(); p != nil {
			c.out = authz.Decision{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic: %T", p)}
		}
		c.done <- struct{}{}
	}()
	c.out = c.server.authorizer.Authorize(c.ctx, &c.dec.req)
}

func (c *check) free() {
	c.dec.reset()
	c.ctx, c.out = nil, authz.Decision{}
	c.server.checks.Put(c)
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
