package envoy

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"jwtbouncer/authz"
)

// checkSpan is the span of one check; the zero checkSpan records nothing.
type checkSpan struct{ span trace.Span }

// startSpan starts a span in the trace of Envoy's call or, if that has none, of the checked
// request. ctx carries it to the Authorizer.
func (r *responder) startSpan(ctx *deadlineContext, req *authz.Request, o ...trace.SpanStartOption) checkSpan {
	if r.tracer == nil {
		return checkSpan{}
	}
	headers := propagation.MapCarrier{}
	for _, name := range []string{"traceparent", "tracestate"} {
		if v, n := req.Header(name); n == 1 {
			headers[name] = v
		}
	}
	var carrier propagation.TextMapCarrier = headers
	if md, ok := metadata.FromIncomingContext(ctx.parent); ok && len(md["traceparent"]) == 1 {
		carrier = propagation.HeaderCarrier{"Traceparent": md["traceparent"], "Tracestate": md["tracestate"]}
	}
	parent := propagation.TraceContext{}.Extract(ctx.parent, carrier)
	parent, span := r.tracer.Start(parent, "jwt-bouncer check", append(o, trace.WithSpanKind(trace.SpanKindServer))...)
	ctx.parent = parent
	return checkSpan{span}
}

// end ends the span with the attributes of the decision.
func (c checkSpan) end(d *authz.Decision) {
	if c.span == nil {
		return
	}
	c.span.SetAttributes(attribute.String("jwt_bouncer.reason", d.Reason.String()), attribute.Bool("jwt_bouncer.allowed", d.Allowed()))
	if d.Route != "" {
		c.span.SetAttributes(attribute.String("jwt_bouncer.route", d.Route))
	}
	if replyTo(d.Reason).status == 503 {
		c.span.SetStatus(codes.Error, d.Reason.String())
	}
	c.span.End()
}
