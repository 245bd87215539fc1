package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

var testLink = regexp.MustCompile(`\[((?:Test|Fuzz)\w+)\]\(([^)#]+)\)`)

// TestProofs: every row of these pages names a test, and each of them is in the
// file that it links to. (TestSecurityDocument does the same for security.md.)
func TestProofs(t *testing.T) {
	t.Parallel()
	for page, rows := range map[string]int{"how-it-fails.md": 30, "threat-model.md": 20} {
		dir := filepath.Join(harness.Root(), "docs")
		text, err := os.ReadFile(filepath.Join(dir, page))
		require.NoError(t, err)
		found := 0
		for n, line := range tableRows(string(text)) {
			found++
			links := testLink.FindAllStringSubmatch(line, -1)
			assert.NotEmpty(t, links, "%s:%d names no test: %s", page, n, line)
			for _, l := range links {
				source, err := os.ReadFile(filepath.Join(dir, l[2]))
				require.NoError(t, err, "%s:%d", page, n)
				assert.Contains(t, string(source), "func "+l[1]+"(", "%s:%d: %s is not in %s", page, n, l[1], l[2])
			}
		}
		assert.GreaterOrEqual(t, found, rows, "%s: rows", page)
	}
}

// TestFaultMetrics: every metric and alert that how-it-fails.md names exists, and
// its alerts are explained in operations.md.
func TestFaultMetrics(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", name))
		require.NoError(t, err)
		return string(text)
	}
	page, metrics, operations := read("how-it-fails.md"), read("metrics.md"), read("operations.md")
	named := regexp.MustCompile(`\b(?:jwt_bouncer|auth)_[a-z_]+`).FindAllString(page, -1)
	alerts := regexp.MustCompile(`\bJWTBouncer[A-Za-z]+`).FindAllString(page, -1)
	assert.Greater(t, len(named), 20)
	assert.Greater(t, len(alerts), 10)
	for _, name := range named {
		assert.Contains(t, metrics, "| `"+name+"` |", "how-it-fails.md names the metric %s, which does not exist", name)
	}
	for _, name := range alerts {
		assert.Contains(t, operations, "\n### "+name+"\n", "how-it-fails.md names the alert %s, which operations.md does not explain", name)
	}
}

// tableRows returns the rows of the page's tables by line number, without the
// heads.
func tableRows(text string) map[int]string {
	rows := map[int]string{}
	lines := strings.Split(text, "\n")
	for n, line := range lines {
		head := n+1 < len(lines) && strings.HasPrefix(lines[n+1], "| ---")
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| ---") && !head {
			rows[n+1] = line
		}
	}
	return rows
}
