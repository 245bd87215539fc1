package e2e

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/test/harness"
)

// Go may run on more threads than Envoy has workers, so that no worker waits for another.
func TestModuleWorkers(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	workers := runtime.NumCPU() + 1
	r := harness.NewRig(t, harness.RigOptions{Module: true, Front: harness.FrontOptions{Workers: workers}})
	assert.Equal(t, 200, r.Front.Bearer(t, r.Token(nil)).Status)
	assert.Contains(t, r.Bouncer.Metrics(t), fmt.Sprintf("\ngo_sched_gomaxprocs_threads %d\n", workers+1))
}
