package sidecar

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// minHeap is how far the heap may grow before it is collected, however little
// of it is live. The live heap of a sidecar is a few megabytes, and Go would
// collect whenever it doubles: dozens of times a second under load, a quarter
// of all processor time (docs/performance.md). From minHeap/2 of live heap on,
// nothing differs from Go's own pace.
const minHeap = 64 << 20

// pacer keeps the collector to minHeap by setting GOGC anew after each
// collection.
type pacer struct {
	mu      sync.Mutex
	percent int
	stopped bool
}

// paceCollector starts pacing, unless GOGC was set by the user. GOMEMLIMIT
// goes before: the runtime collects earlier when it is near. The function
// returned ends the pacing.
func paceCollector() (stop func()) {
	p := &pacer{percent: 100}
	if readMetric("/gc/gogc:percent") != 100 {
		return func() {}
	}
	p.adjust()
	p.arm()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stopped = true
		debug.SetGCPercent(100)
	}
}

// arm has adjust called after the next collection.
func (p *pacer) arm() {
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(new(sentinel), func(*sentinel) {
		if p.adjust() {
			p.arm()
		}
	})
}

func (p *pacer) adjust() (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	// Setting it stops the world for a moment: not for little.
	if want := pace(readMetric("/gc/heap/live:bytes")); want > p.percent+p.percent/8 || want < p.percent-p.percent/8 {
		p.percent = want
		debug.SetGCPercent(want)
	}
	return true
}

// pace returns the GOGC with which a heap with so many live bytes is collected
// at minHeap, or when it has doubled if that is later.
func pace(live uint64) int {
	// Go scales its own minimum, 4 MB, by GOGC, too.
	live = max(live, 4<<20)
	return max(100, int(minHeap*100/live)-100)
}

func readMetric(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}
