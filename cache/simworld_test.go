package cache

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// simWorld runs actors one at a time, in an order that depends only on its seed.
// Another actor may run at every call of the product into a clock, a connection
// or the replica's table, so that all interleavings that matter can occur and be
// replayed.
type simWorld struct {
	rng    *rand.Rand
	seed   uint64
	now    time.Duration // true time
	end    time.Duration // no actor begins anything new after this time
	actors []*simActor
	cur    *simActor
	trace  *strings.Builder // nil: no trace
	broken string           // the first violation
}

// simActor is a coroutine: it runs until it sleeps.
type simActor struct {
	name string
	node *simNode // nil: not part of a sidecar
	wake time.Duration
	next func() (struct{}, bool)
	rest func(struct{}) bool
}

func newSimWorld(seed uint64, length time.Duration) *simWorld {
	return &simWorld{rng: rand.New(rand.NewPCG(seed, 0x5eed)), seed: seed, end: length}
}

func (w *simWorld) spawn(name string, n *simNode, at time.Duration, body func()) *simActor {
	a := &simActor{name: name, node: n, wake: at}
	a.next, _ = iter.Pull(func(yield func(struct{}) bool) {
		a.rest = yield
		body()
	})
	w.actors = append(w.actors, a)
	return a
}

// run runs the actors until all have ended.
func (w *simWorld) run() {
	for len(w.actors) > 0 {
		first, at := 0, time.Duration(1<<62)
		for i, a := range w.actors {
			wake := a.wake
			if a.node != nil {
				wake = max(wake, a.node.asleep)
			}
			if wake < at || wake == at && w.rng.IntN(2) == 0 {
				first, at = i, wake
			}
		}
		w.now = max(w.now, at)
		w.cur = w.actors[first]
		if _, alive := w.cur.next(); !alive {
			w.actors = append(w.actors[:first], w.actors[first+1:]...)
		}
	}
}

func (w *simWorld) over() bool { return w.now >= w.end }

func (w *simWorld) sleep(d time.Duration) {
	w.cur.wake = w.now + d
	w.cur.rest(struct{}{})
}

// hurry wakes a in d at the latest.
func (w *simWorld) hurry(a *simActor, d time.Duration) { a.wake = min(a.wake, w.now+d) }

// point is a place where the running actor may lose the processor: usually not,
// often for a moment, rarely for long.
func (w *simWorld) point() {
	switch r := w.rng.IntN(1000); {
	case r < 800:
	case r < 996:
		w.sleep(w.upTo(2 * time.Millisecond))
	default:
		w.sleep(w.upTo(2 * simStaleness))
	}
}

// travel is the time that a message takes.
func (w *simWorld) travel() {
	switch r := w.rng.IntN(100); {
	case r < 90:
		w.sleep(w.upTo(3 * time.Millisecond))
	case r < 99:
		w.sleep(w.upTo(300 * time.Millisecond))
	default:
		w.sleep(w.upTo(2 * simStaleness))
	}
}

func (w *simWorld) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d) + 1))
}

func (w *simWorld) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *simWorld) logf(format string, args ...any) {
	if w.trace == nil {
		return
	}
	who := "world"
	if w.cur != nil {
		who = w.cur.name
	}
	fmt.Fprintf(w.trace, "%10.3fs %-12s %s\n", w.now.Seconds(), who, fmt.Sprintf(format, args...))
}

func (w *simWorld) violate(format string, args ...any) {
	w.logf("VIOLATION: "+format, args...)
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

// simClock is a machine's clock. The wall clock is wrong by skew. The boot-time
// clock goes on while the machine is suspended.
type simClock struct {
	w    *simWorld
	node *simNode
	base time.Duration
	// stops makes the boot-time clock stand still while the machine is suspended, as
	// Go's monotonic clock does. It is one of the wrong schemes.
	stops bool
}

var simEpoch = time.Unix(now32, 0)

func (c *simClock) Now() time.Time {
	skew := time.Duration(0)
	if c.node != nil {
		skew = c.node.skew
	}
	return simEpoch.Add(c.w.now + skew)
}

func (c *simClock) Boot() time.Duration {
	c.w.point()
	t := c.w.now + c.base
	if c.stops {
		t -= c.node.slept
	}
	c.w.point()
	return t
}

var _ authz.Clock = (*simClock)(nil)
