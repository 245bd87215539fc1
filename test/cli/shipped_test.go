package cli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// The binary that is shipped contains nothing that is only for tests or the demo, nor
// the generated types of Envoy's API, which envoy/wire replaces.
func TestShippedBinaryHoldsNoTestCode(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", ".")
	list.Dir = harness.Root()
	out, err := list.Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	require.Containsf(t, packages, "jwtbouncer/envoy/cli", "go list -deps . does not list the product's own packages: %d packages", len(packages))
	for _, p := range packages {
		for _, banned := range []string{"testing", "jwtbouncer/authz/authztest", "jwtbouncer/test", "github.com/stretchr/testify", "github.com/envoyproxy/go-control-plane", "github.com/cncf/xds"} {
			assert.NotEqualf(t, banned, p, "the shipped binary contains %s", p)
			assert.Falsef(t, strings.HasPrefix(p, banned+"/"), "the shipped binary contains %s", p)
		}
	}
}
