package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// files returns the repository's files whose path matches, relative to its root.
func files(t *testing.T, match func(path string) bool) (out []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(harness.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && path != harness.Root() && (strings.HasPrefix(name, ".") && name != ".github" || name == "node_modules") {
			return fs.SkipDir
		}
		if name := filepath.ToSlash(rel(path)); !d.IsDir() && match(name) {
			out = append(out, name)
		}
		return nil
	}))
	return out
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), name))
	require.NoError(t, err)
	return string(b)
}

var (
	required = regexp.MustCompile(`(?m)^(?:require )?\t?([\w.-]+\.[\w.-]+/\S+|[\w.-]+/\S+) v\S+$`) // without "// indirect"
	listed   = regexp.MustCompile(`(?m)^\| ([\w.-]+(?:/[\w.-]+)+) \|`)
)

// TestDependencies: docs/dependencies.md lists exactly the modules that each go.mod
// requires directly.
func TestDependencies(t *testing.T) {
	t.Parallel()
	sections := map[string]string{}
	for _, s := range strings.Split(read(t, "docs/dependencies.md"), "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		sections[title] = text
	}
	modules := files(t, func(path string) bool { return filepath.Base(path) == "go.mod" })
	require.GreaterOrEqual(t, len(modules), 3)
	for _, file := range modules {
		if strings.HasPrefix(file, liveTools) {
			continue
		}
		text := strings.ReplaceAll(read(t, file), "jwtbouncer v0.0.0", "") // the product itself
		var want, got []string
		for _, m := range required.FindAllStringSubmatch(text, -1) {
			want = append(want, m[1])
		}
		require.NotEmptyf(t, want, "%s", file)
		for _, m := range listed.FindAllStringSubmatch(sections[file], -1) {
			got = append(got, m[1])
		}
		slices.Sort(want)
		slices.Sort(got)
		assert.Equalf(t, want, got, "direct requirements of %s (expected) and the rows of docs/dependencies.md (actual)", file)
	}
}

// liveTools holds the modules that pin the programs of `make test-live`. They
// contain no code, so they require nothing directly.
const liveTools = "test/live/tools/"

// TestLiveTools: docs/dependencies.md lists exactly the modules whose programs
// `make live-tools` builds.
func TestLiveTools(t *testing.T) {
	t.Parallel()
	_, section, _ := strings.Cut(read(t, "docs/dependencies.md"), "\n## test/live/tools\n")
	section, _, _ = strings.Cut(section, "\n## ")
	want, got := map[string]bool{}, map[string]bool{}
	for _, file := range files(t, func(path string) bool { return strings.HasPrefix(path, liveTools) && filepath.Base(path) == "go.mod" }) {
		for _, m := range toolLine.FindAllStringSubmatch(read(t, file), -1) {
			want[m[1]] = true
		}
	}
	for _, m := range listed.FindAllStringSubmatch(section, -1) {
		got[m[1]] = true
	}
	require.Greater(t, len(want), 4)
	assert.Equal(t, want, got, "the tools (expected) and the rows of docs/dependencies.md (actual)")
}

// toolLine is a tool of a go.mod; its package follows the module's path.
var toolLine = regexp.MustCompile(`(?m)^(?:tool |\t)([\w.-]+\.[\w./-]+?)(?:/(?:pilot/)?cmd/[\w-]+)?$`)

// TestDependabot: each file that names dependencies is in .github/dependabot.yml, and
// `make tidy` checks each go.mod.
func TestDependabot(t *testing.T) {
	t.Parallel()
	var config struct {
		Updates []struct {
			Ecosystem   string   `yaml:"package-ecosystem"`
			Directory   string   `yaml:"directory"`
			Directories []string `yaml:"directories"`
		} `yaml:"updates"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, ".github/dependabot.yml")), &config))
	got := map[string]bool{}
	for _, u := range config.Updates {
		for _, dir := range append(u.Directories, u.Directory) {
			if dir != "" {
				got[u.Ecosystem+" "+dir] = true
			}
		}
	}
	want := map[string]bool{"github-actions /": true}
	for _, file := range files(t, func(string) bool { return true }) {
		dir, name := "/"+strings.TrimPrefix(filepath.ToSlash(filepath.Dir(file)), "."), filepath.Base(file)
		switch {
		case name == "go.mod":
			want["gomod "+dir] = true
			// go mod tidy would fetch what the tests of all of Kubernetes need.
			if dir != "/" && dir != "/k8s" && !strings.HasPrefix(file, liveTools) {
				assert.Regexpf(t, `(?m)^ALL_MODULES := \$\(MODULES\)(.*)? `+dir[1:]+`( |$)`, read(t, "Makefile"), "make tidy must check %s", file)
			}
		case name == "package.json":
			want["npm "+dir] = true
		case strings.HasPrefix(name, "Dockerfile"):
			want["docker "+dir] = true
		case name == "docker-compose.yml":
			want["docker-compose "+dir] = true
		case strings.HasSuffix(name, ".txt") && strings.Contains(read(t, file), "--hash=sha256:"):
			want["pip "+dir] = true
		}
	}
	assert.Equal(t, want, got, "the repository (expected) and .github/dependabot.yml (actual)")
}

// TestWorkflowsAreHardened: actions are pinned by commit, the token's permissions are
// named by each job, no credential stays in the clone, and no text of an event
// becomes part of a command. actionlint checks the rest, in k8s.
func TestWorkflowsAreHardened(t *testing.T) {
	t.Parallel()
	type job struct {
		Permissions map[string]string `yaml:"permissions"`
		Timeout     int               `yaml:"timeout-minutes"`
		Steps       []struct {
			Uses string         `yaml:"uses"`
			Run  string         `yaml:"run"`
			With map[string]any `yaml:"with"`
		} `yaml:"steps"`
	}
	workflows := files(t, func(path string) bool { return strings.HasPrefix(path, ".github/workflows/") })
	require.GreaterOrEqual(t, len(workflows), 3)
	pinned := regexp.MustCompile(`(?m)^\s+- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	versions := map[string]string{}
	for _, file := range workflows {
		text := read(t, file)
		var w struct {
			On          any               `yaml:"on"`
			Permissions map[string]string `yaml:"permissions"`
			Jobs        map[string]job    `yaml:"jobs"`
		}
		require.NoErrorf(t, yaml.Unmarshal([]byte(text), &w), "%s", file)
		assert.Containsf(t, text, "\npermissions: {}\n", "%s gives its jobs permissions that they do not name", file)
		assert.NotContainsf(t, text, "pull_request_target", "%s runs a stranger's code with the repository's token", file)
		assert.Lenf(t, pinned.FindAllString(text, -1), strings.Count(text, "uses: "), "%s: an action is not pinned by commit, with its version as a comment", file)
		for _, m := range regexp.MustCompile(`uses: (\S+)@(\S+)`).FindAllStringSubmatch(text, -1) {
			if other, ok := versions[m[1]]; ok {
				assert.Equalf(t, other, m[2], "%s is used at two commits", m[1])
			}
			versions[m[1]] = m[2]
		}
		require.NotEmptyf(t, w.Jobs, "%s", file)
		for name, j := range w.Jobs {
			at := file + ", job " + name
			assert.NotZerof(t, j.Timeout, "%s has no timeout-minutes", at)
			assert.NotEmptyf(t, j.Permissions, "%s names no permissions", at)
			for scope, access := range j.Permissions {
				allowed := map[string]bool{
					".github/workflows/release.yml, job release": true,
					".github/workflows/docs.yml, job publish":    scope != "contents",
				}
				assert.Truef(t, access == "read" || allowed[at] || file == ".github/workflows/scorecard.yml" && scope != "contents", "%s may write %s", at, scope)
			}
			for _, s := range j.Steps {
				assert.NotContainsf(t, s.Run, "${{", "%s: a command contains an expression, whose text could be a command: use env", at)
				if strings.HasPrefix(s.Uses, "actions/checkout@") {
					assert.Equalf(t, false, s.With["persist-credentials"], "%s keeps the token in the clone", at)
				}
			}
		}
	}
}

// TestCommunityFiles: the files that GitHub shows to contributors exist and say what
// they are for.
func TestCommunityFiles(t *testing.T) {
	t.Parallel()
	for file, want := range map[string][]string{
		".github/SECURITY.md":              {"Report a vulnerability", "Supported versions", "Please open no issue"},
		".github/CODE_OF_CONDUCT.md":       {"contributor-covenant.org/version/2/1", "in private"},
		".github/PULL_REQUEST_TEMPLATE.md": {"make check", "CHANGELOG.md"},
		".github/GOVERNANCE.md":            {"\n1. ", "\n5. "},
	} {
		text := read(t, file)
		for _, part := range want {
			assert.Containsf(t, text, part, "%s", file)
		}
		assert.NotContainsf(t, text, "@", "%s names a mail address", file)
	}
	forms := files(t, func(path string) bool { return strings.HasPrefix(path, ".github/ISSUE_TEMPLATE/") })
	require.Len(t, forms, 3)
	for _, file := range forms {
		if filepath.Base(file) == "config.yml" {
			continue
		}
		var form struct {
			Name, Description string
			Body              []struct {
				Type, ID   string
				Attributes map[string]any
			}
		}
		require.NoErrorf(t, yaml.UnmarshalWithOptions([]byte(read(t, file)), &form), "%s", file)
		assert.NotEmptyf(t, form.Name, "%s", file)
		assert.NotEmptyf(t, form.Description, "%s", file)
		ids := map[string]bool{}
		for _, b := range form.Body {
			assert.Containsf(t, []string{"markdown", "input", "textarea", "checkboxes", "dropdown"}, b.Type, "%s", file)
			if b.Type != "markdown" {
				assert.NotEmptyf(t, b.Attributes["label"], "%s: %s has no label", file, b.ID)
				assert.Falsef(t, ids[b.ID] || b.ID == "", "%s: id %q is missing or not unique", file, b.ID)
			}
			ids[b.ID] = true
		}
	}
}
