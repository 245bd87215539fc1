package sidecar

import (
	"runtime"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{
		0: 1500, minHeap / 16: 1500, minHeap / 8: 700, minHeap / 4: 300, minHeap / 2: 100, minHeap: 100, 100 * minHeap: 100,
	} {
		if got := pace(live); got != want {
			t.Errorf("%d bytes live: GOGC %d, want %d", live, got, want)
		}
	}
}

// Pacing follows the live heap from collection to collection, and leaves Go's
// own pace behind. It changes the whole process: not parallel.
func TestPaceCollector(t *testing.T) {
	stop := paceCollector()
	gogc := func() uint64 { return readMetric("/gc/gogc:percent") }
	until := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d", what, gogc())
			}
			runtime.GC()
			time.Sleep(time.Millisecond) // finalizers run on their own time
		}
	}
	until("small heap", func() bool { return gogc() > 150 })
	big := make([]byte, 2*minHeap)
	until("big heap", func() bool { return gogc() == 100 })
	runtime.KeepAlive(big)
	until("small again", func() bool { return gogc() > 150 })
	stop()
	if got := gogc(); got != 100 {
		t.Errorf("GOGC is %d afterwards", got)
	}
	stop = paceCollector()
	stop()
	until("stays", func() bool { return gogc() == 100 })
}
