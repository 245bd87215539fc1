package sidecar

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPace(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{
		0: 1500, minHeap / 16: 1500, minHeap / 8: 700, minHeap / 4: 300, minHeap / 2: 100, minHeap: 100, 100 * minHeap: 100,
	} {
		assert.Equalf(t, want, pace(live), "%d bytes live: GOGC", live)
	}
}

// Pacing follows the live heap from collection to collection, and ends with Go's own pace. The test
// is not parallel, because GOGC belongs to the whole process.
func TestPaceCollector(t *testing.T) {
	stop := PaceCollector()
	gogc := func() uint64 { return readMetric("/gc/gogc:percent") }
	until := func(state string, ok func() bool) {
		t.Helper()
		for range 1000 {
			if ok() {
				return
			}
			// The cleanup of this collection, or of the next one, follows that of the pacer.
			collected := make(chan struct{})
			runtime.AddCleanup(new([16]byte), func(done chan struct{}) { close(done) }, collected)
			runtime.GC()
			<-collected
		}
		t.Fatalf("%s: GOGC is %d", state, gogc())
	}
	until("small heap", func() bool { return gogc() > 150 })
	big := make([]byte, 2*minHeap)
	until("large heap", func() bool { return gogc() == 100 })
	runtime.KeepAlive(big)
	until("small again", func() bool { return gogc() > 150 })
	stop()
	assert.Equal(t, uint64(100), gogc(), "GOGC afterwards")
	stop = PaceCollector()
	stop()
	until("stopped", func() bool { return gogc() == 100 })
}
