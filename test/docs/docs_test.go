// Package docs checks the documentation against the repository: links lead to
// existing pages, and the names it mentions exist.
package docs

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// pages returns the text of every Markdown file in the repository, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(harness.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != harness.Root() && (strings.HasPrefix(name, ".") && name != ".github" || name == "testdata" || name == "node_modules") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, ".md") {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[path] = string(b)
		}
		return nil
	})
	require.NoError(t, err)
	require.GreaterOrEqualf(t, len(all), 5, "%d pages found, want at least 5", len(all))
	return all
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fences  = regexp.MustCompile("(?ms)^```.*?^```")
	notWord = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func TestLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
			target := m[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link to %s, which does not exist", rel(path), target)
				continue
			}
			if page, ok := all[to]; ok && anchor != "" && !slices.Contains(anchors(page), anchor) {
				t.Errorf("%s: link to %s, which has no such heading", rel(path), target)
			}
		}
	}
}

// anchors returns the anchors that GitHub makes of a page's headings.
func anchors(page string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(fences.ReplaceAllString(page, ""), -1) {
		s := notWord.ReplaceAllString(strings.ToLower(strings.ReplaceAll(m[1], "`", "")), "")
		out = append(out, strings.ReplaceAll(strings.TrimSpace(s), " ", "-"))
	}
	return out
}

var (
	target  = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
	makes   = regexp.MustCompile("(?m)^[`$ ]*make ([a-z][a-z0-9-]*)")
	span    = regexp.MustCompile("`[^`\n]+`")
	fenced  = regexp.MustCompile("(?ms)^```(?:sh|console|text)?\n(.*?)^```")
	testRef = regexp.MustCompile(`\b(Test[A-Z][A-Za-z0-9]+)\b`)
	testDef = regexp.MustCompile(`(?m)^func (Test[A-Z][A-Za-z0-9]+)\(`)
)

func TestMakeTargets(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "Makefile"))
	require.NoError(t, err)
	var have []string
	for _, m := range target.FindAllStringSubmatch(string(b), -1) {
		have = append(have, m[1])
	}
	named := 0
	for path, text := range pages(t) {
		code := strings.Join(span.FindAllString(text, -1), "\n")
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			code += "\n" + m[1]
		}
		for _, m := range makes.FindAllStringSubmatch(code, -1) {
			if named++; !slices.Contains(have, m[1]) {
				t.Errorf("%s: `make %s` is not a target", rel(path), m[1])
			}
		}
	}
	assert.NotZero(t, named, "no page names a make target")
	out, err := exec.CommandContext(t.Context(), "make", "-C", harness.Root(), "-s").CombinedOutput()
	if assert.NoErrorf(t, err, "make alone does not print its list\n%s", out) {
		assert.Containsf(t, string(out), "this list", "make alone does not print its list: %v\n%s", err, out)
	}
}

// TestNamedTests: every test that operations.md names exists.
func TestNamedTests(t *testing.T) {
	t.Parallel()
	have := map[string]bool{}
	err := filepath.WalkDir(harness.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range testDef.FindAllStringSubmatch(string(b), -1) {
			have[m[1]] = true
		}
		return err
	})
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "operations.md"))
	require.NoError(t, err)
	found := testRef.FindAllString(string(b), -1)
	assert.NotEmpty(t, found, "operations.md names no test")
	for _, name := range found {
		assert.Truef(t, have[name], "operations.md names %s, which does not exist", name)
	}
}

// TestOperationsMetrics: every metric and alert that operations.md names exists,
// and the page says what to do about each alert.
func TestOperationsMetrics(t *testing.T) {
	t.Parallel()
	read := func(parts ...string) string {
		b, err := os.ReadFile(filepath.Join(append([]string{harness.Root()}, parts...)...))
		require.NoError(t, err)
		return string(b)
	}
	page, metrics, alerts := read("docs", "operations.md"), read("docs", "metrics.md"), read("k8s", "components", "monitoring", "alerts.yaml")
	for _, name := range regexp.MustCompile(`\b(?:jwt_bouncer|auth)_[a-z_]+`).FindAllString(page, -1) {
		assert.Containsf(t, metrics, "`"+name+"`", "operations.md names the metric %s, which does not exist", name)
	}
	for _, name := range regexp.MustCompile(`\bJWTBouncer[A-Za-z]+`).FindAllString(page, -1) {
		assert.Containsf(t, alerts, "alert: "+name+"\n", "operations.md names the alert %s, which does not exist", name)
	}
	rules := regexp.MustCompile(`alert: (\S+)`).FindAllStringSubmatch(alerts, -1)
	assert.NotEmpty(t, rules, "there are no alerts")
	for _, m := range rules {
		if !strings.Contains(page, "\n### "+m[1]+"\n") {
			t.Errorf("operations.md does not say what to do about %s", m[1])
		}
	}
}

// TestPlatform: on a platform that the fetched servers do not support, the script
// fails with that reason before it does anything else. README and CONTRIBUTING
// name the supported platform.
func TestPlatform(t *testing.T) {
	t.Parallel()
	for _, platform := range []string{"Darwin arm64", "Linux aarch64", "Linux x86_64"} {
		root, bin := t.TempDir(), t.TempDir()
		script, err := os.ReadFile(filepath.Join(harness.Root(), "scripts", "servers.sh"))
		require.NoError(t, err)
		write := func(path, text string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			require.NoError(t, os.WriteFile(path, []byte(text), 0o700))
		}
		write(filepath.Join(root, "scripts", "servers.sh"), string(script))
		write(filepath.Join(root, "test", "servers.txt"), "")
		write(filepath.Join(bin, "uname"), "#!/bin/sh\necho "+platform+"\n")
		write(filepath.Join(bin, "python3"), "#!/bin/sh\necho the script goes on\nexit 1\n")
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, "scripts", "servers.sh"))
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		_, made := os.Stat(filepath.Join(root, ".tools"))
		right := platform == "Linux x86_64"
		if assert.Errorf(t, err, "on %s\n%s", platform, out) {
			if assert.Equalf(t, right, made == nil, "on %s: %v\n%s", platform, err, out) {
				assert.NotEqualf(t, right, strings.Contains(string(out), "this is "+platform), "on %s: %v\n%s", platform, err, out)
			}
		}
	}
	for path, text := range pages(t) {
		name := rel(path)
		assert.Falsef(t, (name == "README.md" || name == "CONTRIBUTING.md") && !strings.Contains(text, "Linux on x86-64"), "%s does not name the platform of the tests", name)
	}
}

func rel(path string) string {
	r, err := filepath.Rel(harness.Root(), path)
	if err != nil {
		return path
	}
	return r
}
