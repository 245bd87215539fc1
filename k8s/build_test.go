package k8s

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// object is one manifest, as kubectl would apply it.
type object struct {
	kind, version, namespace, name string
	text                           []byte // YAML
	tree                           map[string]any
}

func (o object) String() string { return o.kind + "/" + o.name }

// edit is a change to a file before the build.
type edit struct{ file, old, new string }

// tree returns a copy of this directory in memory with edits applied, so that
// tests can change it in parallel.
func tree(t testing.TB, edits ...edit) filesys.FileSystem {
	t.Helper()
	mem := filesys.MakeFsInMemory()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return mem.WriteFile("/k8s/"+path, b)
	})
	require.NoError(t, err)
	for _, e := range edits {
		b, err := mem.ReadFile("/k8s/" + e.file)
		require.NoError(t, err)
		require.Containsf(t, string(b), e.old, "%s does not contain %q", e.file, e.old)
		require.NoError(t, mem.WriteFile("/k8s/"+e.file, []byte(strings.Replace(string(b), e.old, e.new, 1))))
	}
	return mem
}

// build runs kustomize on a directory.
func build(t testing.TB, dir string, edits ...edit) ([]object, error) {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(tree(t, edits...), "/k8s/"+dir)
	if err != nil {
		return nil, err
	}
	text, err := resources.AsYaml()
	if err != nil {
		return nil, err
	}
	return split(text)
}

// monitored returns the edit that adds the monitoring component to an overlay.
func monitored(dir string) edit {
	file := dir + "/kustomization.yaml"
	return edit{file, "\ncomponents:\n", "\ncomponents:\n  - ../../components/monitoring\n"}
}

// pooled returns the edit that adds the pgbouncer component to an overlay.
func pooled(dir string) edit {
	file := dir + "/kustomization.yaml"
	return edit{file, "\ncomponents:\n", "\nsecretGenerator: [{name: pgbouncer-users, literals: [userlist.txt=a], options: {disableNameSuffixHash: true}}]\ncomponents:\n  - ../../components/pgbouncer\n"}
}

// split reads a stream of manifests.
func split(stream []byte) ([]object, error) {
	var out []object
	for _, doc := range strings.Split("\n"+string(stream), "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		o := object{text: []byte(doc)}
		if err := yaml.UnmarshalStrict(o.text, &o.tree); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		if o.tree == nil { // comments only
			continue
		}
		meta, _ := o.tree["metadata"].(map[string]any)
		o.kind, _ = o.tree["kind"].(string)
		o.version, _ = o.tree["apiVersion"].(string)
		o.name, _ = meta["name"].(string)
		o.namespace, _ = meta["namespace"].(string)
		out = append(out, o)
	}
	return out, nil
}

// overlays returns the directories of all overlays.
func overlays(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob("overlays/*")
	require.NoErrorf(t, err, "overlays: %v", dirs)
	require.GreaterOrEqualf(t, len(dirs), 5, "overlays: %v, %v", dirs, err)
	return dirs
}

// product builds the binary once and returns its path.
var product = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "jwt-bouncer-k8s-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "jwt-bouncer")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := product(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// configCheck runs the product's `config check` on a configuration.
func configCheck(text string) error {
	bin, err := product()
	if err != nil {
		return err
	}
	return onFile(text, func(path string) *exec.Cmd { return exec.Command(bin, "config", "check", path) })
}

// envoyValidate has Envoy validate a bootstrap configuration.
func envoyValidate(text string) error {
	bin, err := filepath.Abs("../.tools/envoy/_bin/envoy")
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("%w: run `make tools` first", err)
	}
	err = onFile(text, func(path string) *exec.Cmd {
		return exec.Command(bin, "--mode", "validate", "--log-level", "error", "-c", path)
	})
	if err != nil {
		return err
	}
	// docs/how-it-fails.md promises how Envoy answers when the sidecar is down.
	filters := strings.Count(text, "ext_authz.v3.ExtAuthz")
	for _, setting := range []string{"failure_mode_allow: false", "status_on_error: {code: ServiceUnavailable}"} {
		if n := strings.Count(text, setting); n != filters {
			return fmt.Errorf("%d external authorizations and %d times %q", filters, n, setting)
		}
	}
	return nil
}

func onFile(text string, command func(string) *exec.Cmd) error {
	f, err := os.CreateTemp("", "jwt-bouncer-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	cmd := command(f.Name())
	cmd.Env = []string{} // the machine's environment must not affect the result
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}
