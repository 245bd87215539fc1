package cli

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"jwtbouncer/test/harness"
)

// The binary that is shipped contains nothing that is only for tests or the demo.
func TestShippedBinaryHoldsNoTestCode(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", ".")
	list.Dir = harness.Root()
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if !slices.Contains(packages, "jwtbouncer/envoy/cli") {
		t.Fatalf("go list -deps . does not list the product's own packages: %d packages", len(packages))
	}
	for _, p := range packages {
		for _, banned := range []string{"testing", "jwtbouncer/authz/authztest", "jwtbouncer/test", "github.com/stretchr/testify"} {
			if p == banned || strings.HasPrefix(p, banned+"/") {
				t.Errorf("the shipped binary contains %s", p)
			}
		}
	}
}
