package envoy

import (
	"context"
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
			response = s.panicked(p, grpc, start)
		}
	}()
	w = s.workers.get(s)
	req, err := w.decoder.Decode(message)
	if err != nil || req.Method == "" {
		response = s.malformed("not a CheckRequest of an HTTP request", start)
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
		d = s.late()
	}
	response = s.respond(req, &d, grpc, start)
	span.end(&d)
	if w != nil {
		w.release()
	}
	return response
}
