package docs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// retired are names that the product no longer uses, and the names that replace
// them.
var retired = []struct{ pattern, use string }{
	{`(?i)roll[ _-]?call([^}]|$)`, "freshness epoch"}, // {rollcall} is a part of Redis keys, which stay
	{`callRolls`, "runEpochs"},
	{`(?i)announcer`, "publisher"},
	{`newsItem`, "pendingEntry"},
	{`Speakers\b|setSpeakerKeys`, "RevocationAwareVerifier"},
	{`(?i)unprovable`, "revocation unknown, on_revocation_unknown"},
	{`(?i)turnstile`, "syncState"},
	{`stanzaFault|fieldError`, "the one validation error type"},
	{`notItsFault`, "errIgnored"},
	{`errHurried`, "callerDeadlineTooShort"},
	{`\bprolong\b`, "extendExpiry"},
	{`endOnlyIfWorn`, "revokeUnlessCreated"},
	{`couldNotFindOut`, "retryable"},
	{`goodLater`, "mayBecomeValid"},
	{`everWell`, "firstError"},
	{`\banothers\b`, "issuedToOtherClient"},
}

// TestRetiredNames: code, documentation and manifests use the current names.
func TestRetiredNames(t *testing.T) {
	t.Parallel()
	kinds := []string{".go", ".md", ".yaml", ".yml", ".json", ".sql", ".sh", ".txt", ".txtar", ".golden", ".html", ".js", ".mjs", ".c", ".tpl"}
	found := make([][]string, len(retired))
	files := 0
	for path, text := range texts(t, kinds...) {
		if filepath.Base(path) == "style_test.go" {
			continue
		}
		files++
		for i, r := range retired {
			for _, at := range regexp.MustCompile(r.pattern).FindAllStringIndex(text, -1) {
				found[i] = append(found[i], fmt.Sprintf("%s:%d", rel(path), 1+strings.Count(text[:at[0]], "\n")))
			}
		}
	}
	require.Greater(t, files, 200)
	for i, places := range found {
		slices.Sort(places)
		assert.Empty(t, places[:min(len(places), 10)], "%q occurs %d times; use %s", retired[i].pattern, len(places), retired[i].use)
	}
}

// TestNoSleeps: tests wait for signals or with harness.Eventually.
func TestNoSleeps(t *testing.T) {
	t.Parallel()
	sleep := "time." + "Sleep("
	for path, text := range texts(t, ".go") {
		name := filepath.ToSlash(rel(path))
		if strings.HasPrefix(name, "test/") || strings.HasPrefix(name, "k8s/") || strings.HasPrefix(name, "authz/authztest/") {
			assert.NotContains(t, text, sleep, "%s sleeps", name)
		}
	}
}

// texts returns the text of the repository's files of the given kinds, by path.
func texts(t *testing.T, kinds ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(harness.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			if path != harness.Root() && (strings.HasPrefix(name, ".") && name != ".github" || name == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && slices.Contains(kinds, filepath.Ext(path)) {
			b, err := os.ReadFile(path)
			if err != nil || bytes.IndexByte(b, 0) >= 0 {
				return err
			}
			all[path] = string(b)
		}
		return nil
	}))
	return all
}

const columns = 100

var linkTarget = regexp.MustCompile(`\]\([^)]*\)|\]: \S+`)

// TestDocsWrap: pages wrap at 100 columns. Tables, code blocks, headings, the
// targets of links, and words that are longer than a line do not count.
func TestDocsWrap(t *testing.T) {
	t.Parallel()
	checked := 0
	for path, text := range pages(t) {
		name := rel(path)
		if name != "README.md" && name != "CONTRIBUTING.md" && !strings.HasPrefix(name, "docs"+string(filepath.Separator)) {
			continue
		}
		checked++
		var long []int
		for n, line := range strings.Split(text, "\n") {
			if tooLong(line) && !inFence(text, n) {
				long = append(long, n+1)
			}
		}
		assert.Empty(t, long[:min(len(long), 10)], "%s: %d lines are longer than %d columns", name, len(long), columns)
	}
	require.Greater(t, checked, 10)
}

func tooLong(line string) bool {
	line = linkTarget.ReplaceAllString(line, "]")
	trimmed := strings.TrimLeft(line, " ->*0123456789.")
	switch {
	case utf8.RuneCountInString(line) <= columns:
	case strings.HasPrefix(trimmed, "|"), strings.HasPrefix(line, "#"), strings.HasPrefix(trimmed, "<"):
	case !strings.Contains(trimmed, " "):
	default:
		return true
	}
	return false
}

// inFence reports whether line n of the page, counted from 0, is in a code block.
func inFence(page string, n int) bool {
	in := false
	for i, line := range strings.Split(page, "\n") {
		if i == n {
			break
		}
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			in = !in
		}
	}
	return in
}

func TestTooLong(t *testing.T) {
	t.Parallel()
	words := strings.Repeat("word ", 20)
	for line, want := range map[string]bool{
		words:                                  false,
		words + "x":                            true,
		strings.Repeat("ä ", 50):               false,
		"| " + words + words + "|":             false,
		"# " + words + words:                   false,
		"  - " + words + words:                 true,
		strings.Repeat("x", 200):               false,
		"- `" + strings.Repeat("x", 200) + "`": false,
		"[link](https://example.com/" + strings.Repeat("x", 90) + ") and more": false,
		"[![badge](https://a/" + strings.Repeat("x", 90) + ")](https://b/c)":   false,
	} {
		assert.Equal(t, want, tooLong(line), "%q", line)
	}
}
