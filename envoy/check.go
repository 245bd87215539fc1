package envoy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// check returns the encoded CheckResponse to an encoded CheckRequest. It always returns one,
// within checkTime and the time that encoding takes.
func (s *Server) check(parent context.Context, message []byte) (response []byte) {
	var (
		start = time.Now()
		d     authz.Decision
		grpc  bool
		w     *worker // nil before it is taken and after it was abandoned
	)
	defer func() {
		if p := recover(); p != nil {
			if w != nil {
				w.abandon()
			}
			d = authz.Decision{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic: %T", p)}
			response = s.denials.response(&d, grpc)
			s.metrics.count(&d, time.Since(start))
		}
	}()
	w = s.workers.get(s)
	req, err := w.decoder.Decode(message)
	if err != nil || req.Method == "" {
		// Without a method this is not an HTTP request, and no route was written for it.
		s.metrics.undecodable.Inc()
		d = authz.Decision{Reason: authz.ReasonMalformedRequest, Detail: "not a CheckRequest of an HTTP request"}
		response = s.denials.response(&d, false)
		s.finish(&authz.Request{}, &d, start)
		w.release()
		return response
	}
	grpc = isGRPC(req)
	ctx := &deadlineContext{parent: parent, deadline: checkDeadline(parent, start)}
	span := s.startSpan(ctx, req)
	if w.decide(ctx, req, ctx.deadline.Sub(start)) {
		d = w.decision
		ctx.release()
	} else {
		w = nil
		d = authz.Decision{Reason: authz.ReasonOverloaded, Detail: "no decision before the deadline of the check"}
		s.metrics.late.Inc()
	}
	if d.Allowed() {
		response = s.allow(&d, req)
	}
	if response == nil {
		response = s.denials.response(&d, grpc)
	}
	s.finish(req, &d, start)
	span.end(&d)
	if w != nil {
		w.release()
	}
	return response
}

// allow returns the response to an allowed request. If a claim cannot be passed on, it changes d
// to a denial and returns nil.
func (s *Server) allow(d *authz.Decision, req *authz.Request) []byte {
	if d.Reason == authz.ReasonAllowed && d.Token == nil {
		*d = authz.Decision{Reason: authz.ReasonInternal, Detail: "allowed without a token"}
		return nil
	}
	token := d.Token
	if d.Reason == authz.ReasonAllowedAnonymous {
		token = nil
	}
	response, err := s.headers.response(token, d.Credential, req)
	if err == nil {
		return response
	}
	*d = authz.Decision{Reason: authz.ReasonInternal, Token: d.Token, Route: d.Route, Detail: "response: " + err.Error(), Credential: d.Credential}
	var unfit *unfitClaimError
	if errors.As(err, &unfit) {
		d.Reason, d.Detail = authz.ReasonBadClaim, unfit.detail
	}
	return nil
}

// finish records the answered check in metrics and log.
func (s *Server) finish(req *authz.Request, d *authz.Decision, start time.Time) {
	took := time.Since(start)
	s.metrics.count(d, took)
	s.log.decision(req, d, took)
}

// isGRPC reports whether the caller speaks gRPC, by the same rule as Envoy.
func isGRPC(req *authz.Request) bool {
	v, _ := req.Header("content-type")
	rest, ok := strings.CutPrefix(v, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
