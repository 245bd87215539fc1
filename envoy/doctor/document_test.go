package doctor

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestDocumentListsEveryCheck: docs/doctor.md has a row for each check. With
// UPDATE=1 the test writes them.
func TestDocumentListsEveryCheck(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- checks -->\n", "<!-- end: checks -->\n"
	path := filepath.Join(harness.Root(), "docs", "doctor.md")
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(page), begin)
	require.True(t, ok)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	var b strings.Builder
	title := ""
	titles := map[string]string{"config": "Configuration and files", "files": "Configuration and files", "issuers": "Issuers", "streams": "Event streams", "store": "Store", "redis": "Redis", "clocks": "Clocks", "envoy": "Envoy"}
	for _, section := range []string{"config", "files", "issuers", "streams", "store", "redis", "clocks", "envoy"} {
		if titles[section] != title {
			title = titles[section]
			fmt.Fprintf(&b, "\n### %s\n\n| check | finding | without it | what to do |\n| --- | --- | --- | --- |\n", title)
		}
		for _, id := range slices.Sorted(maps.Keys(catalog)) {
			if c := catalog[id]; strings.HasPrefix(id, section+".") {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", id, c.Level, c.Why, c.Do)
			}
		}
	}
	want := before + begin + b.String() + "\n" + end + after
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	assert.Equal(t, want, string(page), "run it with UPDATE=1 and review the difference")
}
