package envoy

import (
	"context"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// decisionLog logs decisions on a goroutine of its own. A check only queues a record, and drops
// it if there are too many.
type decisionLog struct {
	level     string // logNone, logDenied or logAll
	perSecond int    // records per second
	logger    *slog.Logger
	dropped   prometheus.Counter

	mu     sync.Mutex
	second int64 // Unix time that left is about
	left   int   // records that may still be logged in that second

	records  chan decisionRecord
	stopOnce sync.Once
	done     chan struct{} // closed once all records are written
}

// decisionRecord holds copies, because the memory of the request is reused before the record is
// written.
type decisionRecord struct {
	at                                 time.Time
	took                               time.Duration
	reason                             authz.Reason
	allowed, revocationUnknown         bool
	route, detail, id, trace           string
	method, host, path, source, issuer string
}

func newDecisionLog(c DecisionLogConfig, logger *slog.Logger, dropped prometheus.Counter) *decisionLog {
	l := &decisionLog{level: c.Decisions, logger: logger, dropped: dropped, perSecond: c.PerSecond}
	if c.Decisions == logNone || !logger.Enabled(context.Background(), slog.LevelInfo) {
		l.level = logNone
		return l
	}
	l.records = make(chan decisionRecord, 256)
	l.done = make(chan struct{})
	go l.write()
	return l
}

// decision queues d for the log. It never blocks.
func (l *decisionLog) decision(req *authz.Request, d *authz.Decision, took time.Duration) {
	if l.level == logNone || (l.level == logDenied && d.Allowed() && !d.RevocationUnknown) {
		return
	}
	now := time.Now()
	if !l.take(now.Unix()) {
		l.dropped.Inc()
		return
	}
	r := decisionRecord{
		at: now, took: took, reason: d.Reason, allowed: d.Allowed(), revocationUnknown: d.RevocationUnknown,
		route: d.Route, detail: authz.RedactMiddle(d.Detail, 256), id: authz.Redact(requestID(req), 64), trace: traceID(req),
		method: authz.Redact(req.Method, 16), host: authz.Redact(req.Host, 128), source: authz.Redact(req.Source.Address, 64),
	}
	// A query may carry a credential (RFC 6750, section 2.3).
	path, _, _ := strings.Cut(req.Path, "?")
	r.path = authz.Redact(path, 256)
	if d.Token != nil {
		r.issuer = authz.Redact(d.Token.Issuer, 128)
	}
	select {
	case l.records <- r:
	default:
		l.dropped.Inc()
	}
}

// ended queues the record of an open stream that d has ended after the time open.
func (l *decisionLog) ended(requestID string, d *authz.Decision, open time.Duration) {
	ended := *d
	ended.Detail = "open stream ended: " + d.Detail
	l.decision(&authz.Request{Headers: []authz.Header{{Name: "x-request-id", Value: requestID}}}, &ended, open)
}

// take reports whether one more record may be logged in this second.
func (l *decisionLog) take(second int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if second != l.second {
		l.second, l.left = second, l.perSecond
	}
	if l.left == 0 {
		return false
	}
	l.left--
	return true
}

func (l *decisionLog) write() {
	defer close(l.done)
	for r := range l.records {
		attrs := []slog.Attr{
			slog.String("reason", r.reason.String()),
			slog.Bool("allowed", r.allowed),
			slog.String("route", r.route),
			slog.String("request_id", r.id),
			slog.String("trace_id", r.trace),
			slog.String("method", r.method),
			slog.String("host", r.host),
			slog.String("path", r.path),
			slog.String("source", r.source),
			slog.Time("at", r.at),
			slog.Float64("took_ms", float64(r.took.Microseconds())/1e3),
		}
		if r.issuer != "" {
			attrs = append(attrs, slog.String("issuer", r.issuer))
		}
		if r.detail != "" {
			attrs = append(attrs, slog.String("detail", r.detail))
		}
		if r.revocationUnknown {
			attrs = append(attrs, slog.Bool("revocation_unknown", true))
		}
		l.logger.LogAttrs(context.Background(), slog.LevelInfo, "decision", attrs...)
	}
}

// stop returns after all queued records are written. decision must not be called any more.
func (l *decisionLog) stop() {
	if l.records == nil {
		return
	}
	l.stopOnce.Do(func() { close(l.records) })
	<-l.done
}

// requestID returns the x-request-id header of req, by which Envoy's access log
// (%REQ(X-REQUEST-ID)%) and the upstream name the request; empty if there is none.
// The id in the message is the number of Envoy's stream, which they do not know.
func requestID(req *authz.Request) string {
	id, n := req.Header("x-request-id")
	if n != 1 {
		return ""
	}
	return id
}

// traceID returns the trace-id in the traceparent header of req (W3C Trace Context, section
// 3.2); empty if there is none.
func traceID(req *authz.Request) string {
	v, n := req.Header("traceparent")
	if n != 1 || len(v) < 55 || v[2] != '-' || v[35] != '-' {
		return ""
	}
	if _, err := hex.DecodeString(v[3:35]); err != nil {
		return ""
	}
	return strings.Clone(v[3:35])
}
