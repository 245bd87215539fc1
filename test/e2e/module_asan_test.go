package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestModuleSanitizer: a fault of memory in the module ends the Envoy of `make
// test-module-asan` with a report. Without this, its other tests would show nothing.
func TestModuleSanitizer(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	if !harness.ModuleSanitized() {
		t.Skip("run make test-module-asan")
	}
	r := harness.NewRig(t, harness.RigOptions{Module: true})
	_, err := r.Front.Do(t.Context(), http.MethodGet, "/", "X-Harm", "use-after-free")
	require.Error(t, err, "Envoy has answered")
	code, err := r.Front.ExitCode(30 * time.Second)
	require.NoError(t, err)
	assert.Equal(t, 1, code)
	log := r.Front.Log()
	assert.Contains(t, log, "AddressSanitizer: heap-use-after-free")
	assert.Contains(t, log, "use_after_free", "the report names the function")
}
