package httpapi

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Strangers can cause log lines: each refused message is one. Of one message, at
// most maxRepeated lines are written in repeatedWithin; then one line tells how many
// were left out.
const (
	maxRepeated    = 10
	repeatedWithin = 10 * time.Second
	maxMessages    = 100 // that have windows of their own; further ones share one
)

// logLimiter is a slog.Handler that limits the lines with the same message.
type logLimiter struct {
	slog.Handler
	shared *logWindows
}

type logWindows struct {
	mu      sync.Mutex
	windows map[string]*logWindow // by message
}

// logWindow counts the lines with one message since from.
type logWindow struct {
	from       time.Time
	lines      int
	suppressed int // beyond maxRepeated
}

func newLogLimiter(h slog.Handler) slog.Handler {
	return logLimiter{h, &logWindows{windows: map[string]*logWindow{}}}
}

// Handle implements slog.Handler.
func (l logLimiter) Handle(ctx context.Context, r slog.Record) error {
	if l.shared.suppress(r.Message, func(n int) {
		more := slog.NewRecord(time.Now(), r.Level, "log lines were left out because they repeat", 0)
		more.AddAttrs(slog.String("line", r.Message), slog.Int("suppressed", n))
		_ = l.Handler.Handle(context.WithoutCancel(ctx), more) // there is nobody to tell
	}) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// suppress reports whether a line is to be left out. When the window of the first
// such line ends, report gets their number.
func (s *logWindows) suppress(message string, report func(n int)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	w := s.windows[message]
	if w == nil && len(s.windows) >= maxMessages { // some libraries put what varies into the message
		message = ""
		w = s.windows[message]
	}
	if w == nil || now.Sub(w.from) >= repeatedWithin {
		w = &logWindow{from: now} // a previous one reports by itself
		s.windows[message] = w
	}
	w.lines++
	if w.lines <= maxRepeated {
		return false
	}
	if w.suppressed++; w.suppressed == 1 {
		time.AfterFunc(repeatedWithin-now.Sub(w.from), func() {
			s.mu.Lock()
			n := w.suppressed
			w.lines, w.suppressed, w.from = 0, 0, time.Now() // lines from now on are of the next window
			s.mu.Unlock()
			report(n)
		})
	}
	return true
}

// WithAttrs implements slog.Handler.
func (l logLimiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logLimiter{l.Handler.WithAttrs(attrs), l.shared}
}

// WithGroup implements slog.Handler.
func (l logLimiter) WithGroup(name string) slog.Handler {
	return logLimiter{l.Handler.WithGroup(name), l.shared}
}
