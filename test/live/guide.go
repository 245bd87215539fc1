package live

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/docs/fence"
	"jwtbouncer/test/harness"
)

// Guide is a page of docs whose blocks a test runs.
type Guide struct {
	name   string
	blocks []fence.Block
	used   []bool
}

// ReadGuide reads a page of docs. The test fails at its end if it has left a block
// out that is not one of the exceptions (see test/docs).
func ReadGuide(t testing.TB, name string) *Guide {
	t.Helper()
	return newGuide(t, name, fence.Blocks(page(t, name)))
}

// ReadSection is ReadGuide for the section of a page that has this heading, such as
// "### Istio".
func ReadSection(t testing.TB, name, heading string) *Guide {
	t.Helper()
	text := page(t, name)
	start := strings.Index(text, "\n"+heading+"\n")
	require.GreaterOrEqualf(t, start, 0, "docs/%s has no %q", name, heading)
	start += 1 + len(heading)
	level := strings.Index(heading, " ")
	end := len(text)
	if next := regexp.MustCompile(fmt.Sprintf(`(?m)^#{1,%d} `, level)).FindStringIndex(text[start:]); next != nil {
		end = start + next[0]
	}
	blocks := fence.Blocks(text[start:end])
	for i := range blocks {
		blocks[i].Line += strings.Count(text[:start], "\n")
	}
	return newGuide(t, name, blocks)
}

func page(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", name))
	require.NoError(t, err)
	return string(text)
}

func newGuide(t testing.TB, name string, blocks []fence.Block) *Guide {
	t.Helper()
	g := &Guide{name: name, blocks: blocks}
	g.used = make([]bool, len(g.blocks))
	t.Cleanup(func() {
		for i, b := range g.blocks {
			if !g.used[i] && !t.Failed() && !strings.HasPrefix(b.Text, "# The tests do not run this: ") {
				t.Errorf("docs/%s:%d: the test did not run this block:\n%s", name, b.Line, b.Text)
			}
		}
	})
	return g
}

// Block returns the only block that matches the regular expression, and marks it as
// run.
func (g *Guide) Block(t testing.TB, pattern string) string {
	t.Helper()
	found := -1
	for i, b := range g.blocks {
		if regexp.MustCompile(pattern).MatchString(b.Text) {
			require.Negativef(t, found, "docs/%s has two blocks that match %q", g.name, pattern)
			found = i
		}
	}
	require.GreaterOrEqualf(t, found, 0, "docs/%s has no block that matches %q", g.name, pattern)
	g.used[found] = true
	return g.blocks[found].Text
}

// Patch replaces old by new in text, and fails the test unless old occurs exactly
// once: what a test changes in a guide or a manifest is visible in the test.
func Patch(t testing.TB, text, old, new string) string {
	t.Helper()
	require.Equalf(t, 1, strings.Count(text, old), "occurrences of %q in\n%s", old, text)
	return strings.Replace(text, old, new, 1)
}
