package envoy

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// decisionLog writes decisions to the log, away from the checks: a check only
// hands a record over, and drops it when there are too many.
type decisionLog struct {
	level   string
	logger  *slog.Logger
	dropped prometheus.Counter

	mu     sync.Mutex
	second int64 // of the current budget
	left   int
	per    int

	records chan decisionRecord
	done    chan struct{}
	closed  sync.Once
}

// decisionRecord holds copies: the request's memory is gone when it is written.
type decisionRecord struct {
	at                                 time.Time
	took                               time.Duration
	reason                             authz.Reason
	allowed, unprovable                bool
	route, detail, id, trace           string
	method, host, path, source, issuer string
}

func newDecisionLog(c DecisionLogConfig, logger *slog.Logger, dropped prometheus.Counter) *decisionLog {
	l := &decisionLog{level: c.Decisions, logger: logger, dropped: dropped, per: c.PerSecond}
	if c.Decisions == logNone || !logger.Enabled(context.Background(), slog.LevelInfo) {
		l.level = logNone
		return l
	}
	l.records = make(chan decisionRecord, 256)
	l.done = make(chan struct{})
	go l.write()
	return l
}

// decision takes d for the log. It does not block.
func (l *decisionLog) decision(req *authz.Request, d *authz.Decision, took time.Duration) {
	if l.level == logNone || (l.level == logDenied && d.Allowed() && !d.Unprovable) {
		return
	}
	now := time.Now()
	if !l.take(now.Unix()) {
		l.dropped.Inc()
		return
	}
	r := decisionRecord{
		at: now, took: took, reason: d.Reason, allowed: d.Allowed(), unprovable: d.Unprovable,
		detail: clip(d.Detail, 256), id: clip(req.ID, 64), trace: traceID(req),
		method: clip(req.Method, 16), host: clip(req.Host, 128), source: clip(req.Source.Address, 64),
	}
	// A query may carry a credential (RFC 6750, section 2.3).
	path, _, _ := strings.Cut(req.Path, "?")
	r.path = clip(path, 256)
	if d.Route != nil {
		r.route = d.Route.Name
	}
	if d.Token != nil {
		r.issuer = clip(d.Token.Issuer, 128)
	}
	select {
	case l.records <- r:
	default:
		l.dropped.Inc()
	}
}

// take spends one of this second's records.
func (l *decisionLog) take(second int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if second != l.second {
		l.second, l.left = second, l.per
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
			slog.Duration("took", r.took),
		}
		if r.issuer != "" {
			attrs = append(attrs, slog.String("issuer", r.issuer))
		}
		if r.detail != "" {
			attrs = append(attrs, slog.String("detail", r.detail))
		}
		if r.unprovable {
			attrs = append(attrs, slog.Bool("unprovable", true))
		}
		l.logger.LogAttrs(context.Background(), slog.LevelInfo, "decision", attrs...)
	}
}

// close writes what was taken and ends. No decision may come after it.
func (l *decisionLog) close() {
	if l.records == nil {
		return
	}
	l.closed.Do(func() { close(l.records) })
	<-l.done
}

// clip returns a copy of at most n bytes of s, whole characters only. In place
// of what has the form of a JWT it says [token]: clients put tokens where none
// belongs, in the path or the request id.
func clip(s string, n int) string {
	var b strings.Builder
	for b.Len() < n {
		at, end := findJWT(s, n-b.Len())
		b.WriteString(s[:at])
		if at == end {
			break
		}
		b.WriteString("[token]")
		s = s[end:]
	}
	text := b.String()
	return strings.ToValidUTF8(text[:min(n, len(text))], "\uFFFD")
}

const (
	minJWTHeader = 16 // bytes; {"alg":"none"} takes 19
	minJWTRest   = 16 // bytes, with its dots
)

// findJWT returns where the first text with the form of a JWT begins within the
// first limit bytes of s, and its end beyond them. Where there is none, both
// are limit or the end of s. It looks at each byte a bounded number of times.
func findJWT(s string, limit int) (at, end int) {
	limit = min(limit, len(s))
	for at < limit {
		e := strings.IndexAny(s[at:limit], "eICD")
		if e < 0 {
			break
		}
		at += e
		if !beginsObject(s[at:]) {
			at++
			continue
		}
		end = at
		for end < len(s) && isBase64URL(s[end]) {
			end++
		}
		header := end - at
		for end < len(s) && header >= minJWTHeader {
			n := dotLen(s[end:])
			if n == 0 && end-at > header && (isBase64URL(s[end]) || s[end] == '~') { // ~: disclosures of an SD-JWT
				n = 1
			}
			if n == 0 {
				break
			}
			end += n
		}
		if end-at-header >= minJWTRest {
			return at, end
		}
		at += header // whatever else begins in these bytes goes on as this did
	}
	return limit, limit
}

// maxLeadingSpace is how much white space before a JSON object is looked
// through, in characters of base64url.
const maxLeadingSpace = 64

// beginsObject reports whether s begins as a JSON object does in base64url:
// with { and a quote or white space, behind white space or none. Its first
// character is e, I, C or D then.
func beginsObject(s string) bool {
	var b [3]byte
	open := false
	for s = s[:min(len(s), maxLeadingSpace)]; len(s) >= 4; s = s[4:] {
		if _, err := base64.RawURLEncoding.Decode(b[:], []byte(s[:4])); err != nil {
			return false
		}
		for _, c := range b {
			space := c == ' ' || c == '\t' || c == '\r' || c == '\n'
			switch {
			case open:
				return c == '"' || space
			case c == '{':
				open = true
			case !space:
				return false
			}
		}
	}
	return false
}

func isBase64URL(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// dotLen returns the length of a dot at the beginning of s, percent-encoded any
// number of times; 0: there is none.
func dotLen(s string) int {
	if s[0] == '.' {
		return 1
	}
	rest, ok := strings.CutPrefix(s, "%")
	for ok && strings.HasPrefix(rest, "25") {
		rest = rest[2:]
	}
	if !ok || !strings.HasPrefix(rest, "2E") && !strings.HasPrefix(rest, "2e") {
		return 0
	}
	return len(s) - len(rest) + 2
}

// traceID returns the trace id of the request's traceparent (W3C Trace
// Context, section 3.2), empty when there is none.
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
