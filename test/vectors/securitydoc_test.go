package vectors

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var link = regexp.MustCompile(`\[([^\]]+)\]\(([^)#]+)\)`)

// docs/security.md lists rules and the tests that check them. Every test must
// exist in the file that it links to, every linked file must exist, and every
// rule must name a test.
func TestSecurityDocument(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "docs")
	text, err := os.ReadFile(filepath.Join(dir, "security.md"))
	require.NoError(t, err)
	tests, rows := 0, 0
	for n, line := range strings.Split(string(text), "\n") {
		named := 0
		for _, l := range link.FindAllStringSubmatch(line, -1) {
			b, err := os.ReadFile(filepath.Join(dir, l[2]))
			if err != nil { // a directory
				_, err = os.Stat(filepath.Join(dir, l[2]))
			}
			require.NoError(t, err, "line %d", n+1)
			if strings.HasPrefix(l[1], "Test") || strings.HasPrefix(l[1], "Fuzz") {
				require.Contains(t, string(b), "func "+l[1]+"(", "line %d: %s is not in %s", n+1, l[1], l[2])
				named++
			}
		}
		tests += named
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| ---") && !strings.Contains(line, "| tests |") {
			rows++
			require.NotZero(t, named, "line %d names no test: %s", n+1, line)
		}
	}
	require.Greater(t, rows, 60)
	require.Greater(t, tests, 120)
}
