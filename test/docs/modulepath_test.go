package docs

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestModulePath: scripts/module-path.sh moves a copy of the repository to another
// module path, and the copy builds. A second run changes nothing.
func TestModulePath(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds every package again")
	}
	root := t.TempDir()
	copyTree(t, root)
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	script := filepath.Join(root, "scripts", "module-path.sh")
	out, err := run(script, "not a path")
	require.Errorf(t, err, "%s", out)

	const path = "git.example/team/jwt-bouncer"
	old := module(t, root)
	out, err = run(script, path)
	require.NoErrorf(t, err, "%s", out)
	assert.Equal(t, path, module(t, root))
	first := snapshot(t, root)
	out, err = run(script, path)
	require.NoErrorf(t, err, "%s", out)
	assert.Equal(t, first, snapshot(t, root), "a second run has changed something")

	stale := regexp.MustCompile(`(^|[^\w/.-])` + regexp.QuoteMeta(old) + `(/|"|\\n|$)`)
	for name, text := range first {
		for n, line := range strings.Split(text, "\n") {
			assert.Falsef(t, stale.MatchString(line), "%s:%d still has the old path: %s", name, n+1, line)
		}
	}
	// Every package but the programs is compiled; linking those would show no more.
	out, err = run("go", "list", "-f", `{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}`, "./...")
	require.NoErrorf(t, err, "%s", out)
	out, err = run("go", append([]string{"build"}, strings.Fields(out)...)...)
	require.NoErrorf(t, err, "%s", out)
	out, err = run("go", "vet", ".")
	require.NoErrorf(t, err, "%s", out)
	for _, dir := range []string{".", "test/browser"} {
		out, err = run("go", "-C", dir, "list", "-test", "-deps", "./...")
		require.NoErrorf(t, err, "%s", out)
		assert.NotContains(t, "\n"+out, "\n"+old+"/", "a package of the old path is imported in %s", dir)
		assert.Contains(t, "\n"+out, "\n"+path+"/", "no package of the new path is imported in %s", dir)
	}
}

// module returns the path of the module at root.
func module(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimPrefix(first, "module ")
}

// copyTree copies the repository, without what a clone does not have.
func copyTree(t *testing.T, to string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(harness.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel(path))
		switch name := d.Name(); {
		case name == ".git" || name == ".tools" || name == "node_modules" || rel(path) == "bin" || rel(path) == "dist":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, info.Mode())
	}))
}

// snapshot returns the files that name packages, by path.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name := d.Name(); strings.HasSuffix(name, ".go") || name == "go.mod" || name == ".golangci.yml" {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[strings.TrimPrefix(path, root+string(filepath.Separator))] = string(b)
		}
		return nil
	}))
	return all
}
