package e2e

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// JWT_BOUNCER_DOOR=module runs this package with the dynamic module in place of ext_authz
// and a sidecar: every Rig with an Envoy has the product in it.

// onlyExtAuthz are the tests that the dynamic module cannot run, and why.
var onlyExtAuthz = map[string]string{
	"TestEnvoyBehaviour":              "is about Envoy's ext_authz filter, without the product",
	"TestContextExtensions":           "context_extensions are a setting of ext_authz",
	"TestDoctorExaminesEnvoy":         "is about the configuration of ext_authz",
	"TestDoctorKnowsWhoTakesTheToken": "is about the configuration of ext_authz",
	"TestDynamicForwardProxy":         "is about the configuration of ext_authz",
	"TestDenialsThroughSampleConfig":  "is about the configuration of ext_authz; TestDoors has the replies",
	"TestQuickStart":                  "follows docker-compose.yml, which has a sidecar",
	"TestReflection":                  "is about the gRPC API",
	"TestLoadScenario":                "loads the gRPC API; test/load compares the doors",
	"TestFanOut":                      "loads the gRPC API",
	"TestStatementsPerCheck":          "counts what the common core asks the store, over gRPC",
	"TestStatementsPerRevocation":     "counts what the common core asks the store",
	"TestLoadsDoNotStarveRevoking":    "is about the store, without a door",
}

// skipOnlyExtAuthz has the run skip the tests of onlyExtAuthz, and says so.
func skipOnlyExtAuthz() error {
	for _, name := range slices.Sorted(maps.Keys(onlyExtAuthz)) {
		fmt.Fprintf(os.Stderr, "not through the module: %s %s\n", name, onlyExtAuthz[name])
	}
	skip := "^(" + strings.Join(slices.Collect(maps.Keys(onlyExtAuthz)), "|") + ")$"
	if f := flag.Lookup("test.skip"); f.Value.String() != "" {
		skip = f.Value.String() + "|" + skip
	}
	return flag.Set("test.skip", skip)
}

// The list names tests that exist.
func TestOnlyExtAuthz(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	have := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			have[string(m[1])] = true
		}
	}
	for name := range onlyExtAuthz {
		assert.True(t, have[name], name)
	}
}

// throughDoors runs the same requests through ext_authz and a sidecar, and through the
// dynamic module; in a run through the module only through that.
func throughDoors(t *testing.T, test func(t *testing.T, module bool)) {
	t.Helper()
	if !harness.ThroughModule() {
		t.Run("ext_authz", func(t *testing.T) {
			t.Parallel()
			test(t, false)
		})
	}
	t.Run("module", func(t *testing.T) {
		t.Parallel()
		harness.NeedsCompiler(t)
		test(t, true)
	})
}
