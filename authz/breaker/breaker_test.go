package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	errRefused = errors.New("connection refused")
	errIgnored = errors.New("out of a resource of this process")
)

// dependency is one that can be made to fail, hang and panic.
type dependency struct {
	err           atomic.Pointer[error]
	calls, probes atomic.Int32
	running       atomic.Int32
	state         gauge
	pending       gauge
}

type gauge struct{ v atomic.Int64 }

func (g *gauge) Set(v float64) { g.v.Store(int64(v)) }

func (d *dependency) fail(err error) { d.err.Store(&err) }

func (d *dependency) answer() error {
	if err := d.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *dependency) call(context.Context) (int, error) {
	d.calls.Add(1)
	return 42, d.answer()
}

// hang does not look at its context.
func (d *dependency) hang(release <-chan struct{}) func(context.Context) (int, error) {
	return func(context.Context) (int, error) {
		d.running.Add(1)
		defer d.running.Add(-1)
		<-release
		return 0, nil
	}
}

func (d *dependency) breaker(change func(*Options)) *Breaker {
	o := Options{Dependency: "dep", Timeout: time.Second, Concurrent: 2, Waiting: 3, Ignore: errIgnored, State: &d.state, Pending: &d.pending, Probe: func(context.Context) error {
		d.probes.Add(1)
		return d.answer()
	}}
	if change != nil {
		change(&o)
	}
	return New(o)
}

// inBubble runs f with a breaker whose time is synthetic.
func inBubble(t *testing.T, change func(*Options), f func(t *testing.T, d *dependency, b *Breaker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &dependency{}
		b := d.breaker(change)
		defer b.Close()
		f(t, d, b)
	})
}

func (d *dependency) trip(t *testing.T, b *Breaker) {
	t.Helper()
	d.fail(errRefused)
	for range tripConsecutive {
		require.True(t, b.Ready())
		_, err := Do(t.Context(), b, d.call)
		require.ErrorIs(t, err, errRefused)
	}
	require.False(t, b.Ready())
}

func TestCallsReachAHealthyDependency(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		for range 100 {
			v, err := Do(t.Context(), b, d.call)
			require.NoError(t, err)
			require.Equal(t, 42, v)
		}
		require.Zero(t, d.probes.Load())
		require.Zero(t, d.pending.v.Load())
	})
}

// While the breaker is not closed only probes reach the dependency, at most a
// few per second, and they close it without a call.
func TestOnlyProbesReachAFailingDependency(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		d.trip(t, b)
		require.EqualValues(t, Open, d.state.v.Load())
		calls := d.calls.Load()
		for range 60 {
			_, err := Do(t.Context(), b, d.call)
			require.ErrorIs(t, err, ErrOpen)
			time.Sleep(time.Second)
		}
		require.InDelta(t, 60, d.probes.Load(), 20)
		d.fail(nil)
		for b.mu.Lock(); b.state == Open; b.mu.Lock() {
			b.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		b.mu.Unlock()
		require.EqualValues(t, HalfOpen, d.state.v.Load())
		_, err := Do(t.Context(), b, d.call)
		require.ErrorIs(t, err, ErrOpen, "half-open lets no call through")
		time.Sleep(2 * time.Second)
		require.EqualValues(t, Closed, d.state.v.Load())
		require.Equal(t, calls, d.calls.Load())
		probes := d.probes.Load()
		_, err = Do(t.Context(), b, d.call)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Equal(t, probes, d.probes.Load(), "a closed breaker does not probe")
	})
}

// A dependency that fails again right after its recovery is probed again.
func TestBreakerOpensAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		for range 10 {
			d.trip(t, b)
			d.fail(nil)
			time.Sleep(3 * time.Second)
			require.True(t, b.Ready())
			_, err := Do(t.Context(), b, d.call)
			require.NoError(t, err)
		}
	})
}

// One success does not close it: the dependency may be flapping.
func TestFlappingDependencyStaysOut(t *testing.T) {
	t.Parallel()
	probes := 0
	inBubble(t, func(o *Options) {
		o.Probe = func(context.Context) error {
			if probes++; probes%2 == 0 {
				return nil
			}
			return errRefused
		}
	}, func(t *testing.T, d *dependency, b *Breaker) {
		d.trip(t, b)
		for range 120 {
			require.False(t, b.Ready())
			time.Sleep(time.Second)
		}
	})
}

func TestFailureRateOpensTheBreaker(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		ask := func(i int) {
			d.fail(map[bool]error{false: nil, true: errRefused}[i%2 == 1])
			_, _ = Do(t.Context(), b, d.call)
		}
		for i := range tripCalls - 1 {
			ask(i)
		}
		require.True(t, b.Ready())
		time.Sleep(tripWindow) // forgotten
		for i := range tripCalls {
			require.True(t, b.Ready())
			ask(i)
		}
		require.False(t, b.Ready())
	})
}

// Errors that say nothing about the dependency do not open the breaker, and
// those that do are not excused by a short deadline.
func TestWhatCountsAgainstTheDependency(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	refuse := func(context.Context) (int, error) { return 0, errRefused }
	after := func(d time.Duration) func() (context.Context, context.CancelFunc) {
		return func() (context.Context, context.CancelFunc) { return context.WithTimeout(context.Background(), d) }
	}
	for name, c := range map[string]struct {
		ctx   func() (context.Context, context.CancelFunc)
		call  func(context.Context) (int, error)
		opens bool
	}{
		"hangs for the whole timeout":             {after(time.Minute), hang, true},
		"hangs until a deadline that is ample":    {after(400 * time.Millisecond), hang, true},
		"hangs until a deadline that is short":    {after(300 * time.Millisecond), hang, false},
		"refuses before a deadline that is short": {after(300 * time.Millisecond), refuse, true},
		"the caller goes away": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(500*time.Millisecond, cancel)
			return ctx, cancel
		}, hang, false},
		"ignored": {after(time.Minute), func(context.Context) (int, error) { return 0, fmt.Errorf("x: %w", errIgnored) }, false},
		"panics":  {after(time.Minute), func(context.Context) (int, error) { panic("boom") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
				d.fail(errRefused)
				for range tripConsecutive {
					ctx, cancel := c.ctx()
					_, err := Do(ctx, b, c.call)
					cancel()
					require.Error(t, err)
					synctest.Wait()
				}
				require.Equal(t, c.opens, !b.Ready())
			})
		})
	}
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, _ *dependency, b *Breaker) {
		_, err := Do(t.Context(), b, func(context.Context) (int, error) { panic("text of the dependency") })
		require.ErrorIs(t, err, ErrPanicked)
		require.NotContains(t, err.Error(), "text")
		_, err = Do(t.Context(), b, func(context.Context) (int, error) { return []int{}[b.pending], nil })
		require.ErrorContains(t, err, "index out of range")
	})
	inBubble(t, func(o *Options) { o.Probe = func(context.Context) error { panic("probe") } }, func(t *testing.T, d *dependency, b *Breaker) {
		d.trip(t, b)
		time.Sleep(time.Minute)
		require.False(t, b.Ready())
	})
}

// A call that hangs returns by its caller's deadline, and calls that were left
// behind are bounded: they hold their slots until they end.
func TestCallsLeftBehindAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		release := make(chan struct{})
		var wg sync.WaitGroup
		var busy, late atomic.Int32
		start := time.Now()
		for range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				_, err := Do(ctx, b, d.hang(release))
				switch {
				case errors.Is(err, ErrBusy):
					busy.Add(1)
					require.Zero(t, time.Since(start))
				case errors.Is(err, context.DeadlineExceeded):
					late.Add(1)
					require.Equal(t, 500*time.Millisecond, time.Since(start))
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 15, busy.Load())
		require.EqualValues(t, 5, late.Load(), "two ran, three waited")
		require.EqualValues(t, 2, d.running.Load(), "the two that hang are still there")
		require.EqualValues(t, 2, d.pending.v.Load())
		_, err := Do(t.Context(), b, d.call)
		require.ErrorIs(t, err, context.DeadlineExceeded, "no slot within Timeout")
		close(release)
		synctest.Wait()
		_, err = Do(t.Context(), b, d.call)
		require.NoError(t, err)
		require.True(t, b.Ready())
	})
}

// A call that waited for its turn while the breaker opened is refused.
func TestWaitingCallsAreRefusedOnceOpen(t *testing.T) {
	t.Parallel()
	inBubble(t, func(o *Options) { o.Concurrent, o.Waiting = 1, tripConsecutive }, func(t *testing.T, d *dependency, b *Breaker) {
		d.fail(errRefused)
		var wg sync.WaitGroup
		var refused atomic.Int32
		for range tripConsecutive + 1 {
			wg.Go(func() {
				_, err := Do(t.Context(), b, func(ctx context.Context) (int, error) {
					time.Sleep(10 * time.Millisecond)
					return d.call(ctx)
				})
				if errors.Is(err, ErrOpen) {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, refused.Load())
		require.EqualValues(t, tripConsecutive, d.calls.Load())
	})
}

// A failure of before the last trip says nothing about the time after it.
func TestLateResultsDoNotCount(t *testing.T) {
	t.Parallel()
	inBubble(t, func(o *Options) { o.Concurrent, o.Timeout = 100, time.Minute }, func(t *testing.T, d *dependency, b *Breaker) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, _ = Do(t.Context(), b, func(context.Context) (int, error) {
					time.Sleep(20 * time.Second)
					return 0, errRefused
				})
			})
		}
		synctest.Wait()
		d.trip(t, b)
		d.fail(nil)
		time.Sleep(10 * time.Second)
		require.True(t, b.Ready())
		wg.Wait()
		require.True(t, b.Ready())
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		d.trip(t, b) // its probes end, too
		b.Close()
		b.Close()
		_, err := Do(t.Context(), b, d.call)
		require.ErrorIs(t, err, ErrClosed)
		require.False(t, b.Ready())
	})
	inBubble(t, nil, func(t *testing.T, d *dependency, b *Breaker) {
		release := make(chan struct{})
		go func() { _, _ = Do(context.Background(), b, d.hang(release)) }()
		synctest.Wait()
		time.AfterFunc(time.Hour, func() { close(release) })
		start := time.Now()
		b.Close()
		require.Equal(t, time.Hour, time.Since(start), "Close waits for the call that was left behind")
	})
}

// With Half, a call has half of its caller's time.
func TestHalfOfTheTime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(o *Options) { o.Half = true }, func(t *testing.T, d *dependency, b *Breaker) {
		for left, want := range map[time.Duration]time.Duration{time.Second: 500 * time.Millisecond, time.Minute: time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			defer cancel()
			release := make(chan struct{})
			start := time.Now()
			_, err := Do(ctx, b, d.hang(release))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, want, time.Since(start))
			close(release)
		}
	})
}

// With Inline, a call runs on its caller's goroutine within the same bounds, and
// its result at the deadline is returned.
func TestInline(t *testing.T) {
	t.Parallel()
	inBubble(t, func(o *Options) { o.Inline, o.Concurrent, o.Waiting = true, 1, 0 }, func(t *testing.T, d *dependency, b *Breaker) {
		v, err := Do(t.Context(), b, func(ctx context.Context) (int, error) {
			_, err := Do(t.Context(), b, d.call)
			require.ErrorIs(t, err, ErrBusy)
			<-ctx.Done()
			return 7, nil
		})
		require.NoError(t, err)
		require.Equal(t, 7, v)
		for range tripConsecutive {
			_, err = Do(t.Context(), b, func(context.Context) (int, error) { panic("boom") })
			require.ErrorIs(t, err, ErrPanicked)
		}
		_, err = Do(t.Context(), b, d.call)
		require.ErrorIs(t, err, ErrOpen)
	})
}

func BenchmarkDo(b *testing.B) {
	d := &dependency{}
	br := d.breaker(nil)
	defer br.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Do(context.Background(), br, d.call); err != nil {
			b.Fatal(err)
		}
	}
}
