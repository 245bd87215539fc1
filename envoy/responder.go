package envoy

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"jwtbouncer/authz"
)

// responder turns decisions into encoded answers and records them. It is what Server and Local have
// in common: both give the same answer to the same decision.
type responder struct {
	headers *upstreamHeaders
	denials *denials
	metrics *metrics
	log     *decisionLog
	tracer  trace.Tracer // nil: no tracing
}

// newResponder returns a responder for a valid configuration with defaults. It returns an error if a
// metric is already registered.
func newResponder(cfg Config, o Options, encode encoder) (*responder, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	m, err := newMetrics(o.Registerer, o.Issuers)
	if err != nil {
		return nil, err
	}
	r := &responder{
		headers: newUpstreamHeaders(cfg.Headers, encode, func(string, string, ...any) {}), // it is valid
		denials: newDenials(cfg.Replies, encode),
		metrics: m,
		log:     newDecisionLog(cfg.DecisionLog, o.Logger, m.logDropped),
	}
	if o.TracerProvider != nil {
		r.tracer = o.TracerProvider.Tracer("jwtbouncer/envoy")
	}
	return r, nil
}

// respond returns the encoded answer to a decided request and records the check, which began at
// start. It changes d if a claim cannot be passed on. The answer may be shared, so it must not be
// modified. grpc tells whether the caller speaks gRPC.
func (r *responder) respond(req *authz.Request, d *authz.Decision, grpc bool, start time.Time) []byte {
	var response []byte
	if d.Allowed() {
		response = r.allow(d, req)
	}
	if response == nil {
		response = r.denials.response(d, grpc)
	}
	r.finish(req, d, start)
	return response
}

// malformed is respond for what is not a request: no route was written for it.
func (r *responder) malformed(detail string, start time.Time) []byte {
	r.metrics.undecodable.Inc()
	return r.respond(&authz.Request{}, &authz.Decision{Reason: authz.ReasonMalformedRequest, Detail: detail}, false, start)
}

// panicked is respond for a check that ended with a panic, of which nothing can be used. It does not
// log, because the request may be what broke it.
func (r *responder) panicked(value any, grpc bool, start time.Time) []byte {
	d := panicDecision(value)
	response := r.denials.response(&d, grpc)
	r.metrics.count(&d, time.Since(start))
	return response
}

func panicDecision(value any) authz.Decision {
	return authz.Decision{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic: %T", value)}
}

// late is the decision about a check that was not decided by its deadline. It is counted.
func (r *responder) late() authz.Decision {
	r.metrics.late.Inc()
	return authz.Decision{Reason: authz.ReasonOverloaded, Detail: "no decision before the deadline of the check"}
}

// allow returns the answer to an allowed request. If a claim cannot be passed on, it changes d to a
// denial and returns nil.
func (r *responder) allow(d *authz.Decision, req *authz.Request) []byte {
	if d.Reason == authz.ReasonAllowed && d.Token == nil {
		*d = authz.Decision{Reason: authz.ReasonInternal, Detail: "allowed without a token"}
		return nil
	}
	token := d.Token
	if d.Reason == authz.ReasonAllowedAnonymous {
		token = nil
	}
	response, err := r.headers.response(token, d.Credential, req)
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
func (r *responder) finish(req *authz.Request, d *authz.Decision, start time.Time) {
	took := time.Since(start)
	r.metrics.count(d, took)
	r.log.decision(req, d, took)
}

// isGRPC reports whether the caller speaks gRPC, by the same rule as Envoy.
func isGRPC(req *authz.Request) bool {
	v, _ := req.Header("content-type")
	rest, ok := strings.CutPrefix(v, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
