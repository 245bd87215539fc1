package sidecar

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// minHeap is the heap size in bytes below which the garbage collector does not run. The live heap
// of a sidecar is a few megabytes, and Go would collect whenever it doubles: dozens of times a
// second under load. From a live heap of minHeap/2 on, the pace is Go's own.
const minHeap = 64 << 20

// pacer keeps the collector at minHeap by setting GOGC anew after each collection.
//
// A fixed setting cannot replace it. GOGC=400 collects a small heap too often, and lets a large one
// grow to five times the live heap. A memory limit that suits a small heap makes a large one collect
// all the time. docs/design.md has the measurements.
type pacer struct {
	mu      sync.Mutex
	percent int
	stopped bool
}

// PaceCollector starts pacing and returns a function that ends it. If the user has set GOGC, it does
// nothing. GOMEMLIMIT takes precedence: close to the limit, the runtime collects earlier. Serve calls
// it; so do the equally tuned baselines of test/load.
func PaceCollector() (stop func()) {
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

// arm calls adjust after the next collection, by way of an object that it frees.
func (p *pacer) arm() {
	type sentinel struct{ _ [16]byte } // too large for the tiny allocator, which groups objects
	runtime.AddCleanup(new(sentinel), func(p *pacer) {
		if p.adjust() {
			p.arm()
		}
	}, p)
}

// adjust sets GOGC for the live heap of the last collection. It returns false if pacing has ended.
func (p *pacer) adjust() (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	// SetGCPercent stops the world for a moment, so small changes are ignored.
	if want := pace(readMetric("/gc/heap/live:bytes")); want > p.percent+p.percent/8 || want < p.percent-p.percent/8 {
		p.percent = want
		debug.SetGCPercent(want)
	}
	return true
}

// pace returns the GOGC that makes a heap of live bytes collected at minHeap, or when it has doubled
// if that is later.
func pace(live uint64) int {
	// The runtime scales its own minimum of 4 MB by GOGC, too.
	live = max(live, 4<<20)
	return max(100, int(minHeap*100/live)-100)
}

// readMetric returns a metric of the runtime; 0 if it does not exist.
func readMetric(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}
