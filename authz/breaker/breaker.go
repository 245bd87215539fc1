// Package breaker bounds the calls to one dependency: the store, Redis or an
// introspection endpoint. Few calls run, few wait, and none keeps its caller beyond
// the caller's deadline. While the dependency keeps failing, every call is refused
// at once, and only probes in the background reach it.
package breaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

const (
	tripConsecutive = 5                // failures in a row that open the breaker
	tripWindow      = 10 * time.Second // over which the failure rate is taken
	tripCalls       = 20               // calls in the window from which on half of them failing opens it
	probeFirst      = 250 * time.Millisecond
	probeLast       = time.Second // ± 25 %, between two probes; the wait doubles up to it
	probesNeeded    = 2           // successful probes in a row that close it
)

// Errors of calls that did not reach the dependency, and of one that panicked.
var (
	ErrOpen     = errors.New("circuit breaker is open: the dependency failed repeatedly and is being probed")
	ErrBusy     = errors.New("too many calls at once")
	ErrClosed   = errors.New("closed")
	ErrPanicked = errors.New("panic")
)

// Values of Options.State.
const (
	Closed   = iota // calls reach the dependency
	HalfOpen        // calls are refused; the last probe succeeded
	Open            // calls are refused
)

// Gauge is the part of prometheus.Gauge that a Breaker needs.
type Gauge interface{ Set(value float64) }

// Options configure a Breaker.
type Options struct {
	Dependency string        // its name begins every error that is not f's own
	Timeout    time.Duration // of one call, waiting for its turn included; required
	Half       bool          // a call gets at most half of its caller's time: the next tier needs the rest
	// Inline runs calls on their caller's goroutine. They must keep to their
	// context. Without it, a call that does not end in time is left behind.
	Inline     bool
	Concurrent int   // calls that run at the same time; at least 1
	Waiting    int   // calls that may wait for a running one to end; 0: none
	Ignore     error // errors that wrap it do not count against the dependency; nil: all errors count
	// Probe calls the dependency as a request does, because a dependency that
	// answers a ping may still be unable to serve. Required.
	Probe        func(context.Context) error
	ProbeTimeout time.Duration // of one probe; 0: Timeout
	Logger       *slog.Logger  // logs when the breaker opens and closes; nil: no log
	State        Gauge         // nil: not reported
	Pending      Gauge         // calls running or waiting; nil: not reported
}

// Breaker guards one dependency. Its zero value is not usable; see New.
type Breaker struct {
	o       Options
	slots   chan struct{}
	stop    context.Context //nolint:containedctx // ends with Close; the probes outlive the call that started them
	cancel  context.CancelFunc
	running sync.WaitGroup // calls and the probing goroutine

	mu          sync.Mutex
	state       int
	trips       int // results of calls that began before the last trip do not count
	consecutive int // failures in a row
	window      time.Time
	calls       int // in the window
	failures    int // in the window
	pending     int // calls running or waiting
}

// New returns a closed Breaker. The caller ends it with Close.
func New(o Options) *Breaker {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, o.Timeout)
	b := &Breaker{o: o, slots: make(chan struct{}, max(o.Concurrent, 1))}
	b.stop, b.cancel = context.WithCancel(context.Background())
	return b
}

// Close refuses further calls, ends the probes and waits for the running calls.
// It may be called more than once.
func (b *Breaker) Close() {
	b.mu.Lock()
	b.cancel()
	b.mu.Unlock()
	b.running.Wait()
}

// Ready reports whether calls reach the dependency.
func (b *Breaker) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusal() == nil
}

// Do calls f with a context that ends after Options.Timeout or ctx's deadline
// (see Options.Half). Unless the Breaker is Inline, Do returns by then whether f
// does or not, and f must keep nothing that its caller reuses. A panic in f is
// an error that wraps ErrPanicked.
func Do[T any](ctx context.Context, b *Breaker, f func(context.Context) (T, error)) (value T, err error) {
	limit := b.o.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if b.o.Half {
			left /= 2
		}
		limit = min(limit, left)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	trips, err := b.enter(ctx)
	if err != nil {
		return value, fmt.Errorf("%s: %w", b.o.Dependency, err)
	}
	type result struct {
		value T
		err   error
	}
	call := func() (r result) {
		defer b.leave()
		deadline, _ := ctx.Deadline()
		callerDeadlineTooShort := time.Until(deadline) < b.o.Timeout/3
		r.err = b.guard(func() (err error) { r.value, err = f(ctx); return err })
		switch {
		case r.err != nil && errors.Is(ctx.Err(), context.Canceled): // the caller went away
		case r.err != nil && callerDeadlineTooShort && !time.Now().Before(deadline):
		case r.err != nil && errors.Is(r.err, b.o.Ignore):
		default:
			b.count(trips, r.err)
		}
		return r
	}
	if b.o.Inline {
		r := call()
		return r.value, r.err
	}
	done := make(chan result, 1)
	go func() { done <- call() }()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select { // when the whole process was kept from running, both are there
		case r = <-done:
		default:
			r.err = fmt.Errorf("%s: no answer: %w", b.o.Dependency, ctx.Err())
		}
	}
	return r.value, r.err
}

// enter waits for a call's turn and returns the number of trips before it. If
// it succeeds, the caller must call leave.
func (b *Breaker) enter(ctx context.Context) (trips int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refusal(); err != nil {
		return 0, err
	}
	if b.pending == cap(b.slots)+b.o.Waiting {
		return 0, ErrBusy
	}
	b.running.Add(1) // under mu: never while Close waits
	b.addPending(1)
	b.mu.Unlock()
	select {
	case b.slots <- struct{}{}:
		b.mu.Lock()
		if err = b.refusal(); err != nil { // it may have opened meanwhile
			<-b.slots
		}
	case <-ctx.Done():
		b.mu.Lock()
		err = fmt.Errorf("%w while waiting for other calls", ctx.Err())
	}
	if err != nil {
		b.addPending(-1)
		b.running.Done()
	}
	return b.trips, err
}

func (b *Breaker) refusal() error {
	switch {
	case b.stop.Err() != nil:
		return ErrClosed
	case b.state != Closed:
		return ErrOpen
	}
	return nil
}

func (b *Breaker) leave() {
	<-b.slots
	b.mu.Lock()
	b.addPending(-1)
	b.mu.Unlock()
	b.running.Done()
}

func (b *Breaker) addPending(n int) {
	b.pending += n
	if b.o.Pending != nil {
		b.o.Pending.Set(float64(b.pending))
	}
}

// count records the result of a call that began after the given number of trips.
func (b *Breaker) count(trips int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != Closed || b.trips != trips {
		return
	}
	if now := time.Now(); now.Sub(b.window) >= tripWindow {
		b.window, b.calls, b.failures = now, 0, 0
	}
	b.calls++
	if err == nil {
		b.consecutive = 0
		return
	}
	b.failures++
	b.consecutive++
	if b.stop.Err() != nil || b.consecutive < tripConsecutive && (b.calls < tripCalls || 2*b.failures < b.calls) {
		return
	}
	b.trips++
	b.consecutive, b.window = 0, time.Time{} // for the time after the recovery
	b.set(Open)
	b.o.Logger.Warn("circuit breaker opened", "dependency", b.o.Dependency, "error", err)
	b.running.Go(b.probe)
}

func (b *Breaker) set(state int) {
	b.state = state
	if b.o.State != nil {
		b.o.State.Set(float64(state))
	}
}

// probe tries the dependency until it closes the breaker.
func (b *Breaker) probe() {
	states := [probesNeeded + 1]int{Open, HalfOpen, Closed} // by successful probes in a row
	wait, successes := probeFirst, 0
	for successes < probesNeeded {
		// Sidecars whose breakers opened together must not probe together.
		select {
		case <-b.stop.Done():
			return
		case <-time.After(Jitter(wait, 0.25)):
		}
		ctx, cancel := context.WithTimeout(b.stop, b.o.ProbeTimeout)
		err := b.guard(func() error { return b.o.Probe(ctx) })
		cancel()
		if err == nil {
			successes, wait = successes+1, probeFirst
		} else {
			successes, wait = 0, min(2*wait, probeLast)
			b.o.Logger.Debug("probe failed", "dependency", b.o.Dependency, "error", err)
		}
		b.mu.Lock()
		b.set(states[successes])
		b.mu.Unlock()
	}
	b.o.Logger.Warn("circuit breaker closed", "dependency", b.o.Dependency)
}

func (b *Breaker) guard(f func() error) (err error) {
	defer Recover(b.o.Dependency, &err)
	return f()
}

// Recover is to be deferred. It turns a panic into an error that wraps ErrPanicked. The
// error omits the panic's text, which may repeat an answer of the dependency.
func Recover(dependency string, err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = fmt.Errorf("%s: %w: %w", dependency, ErrPanicked, p)
	default:
		*err = fmt.Errorf("%s: %w: %T", dependency, ErrPanicked, p)
	}
}
