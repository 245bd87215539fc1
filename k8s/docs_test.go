package k8s

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rhysd/actionlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/yaml"
)

// fenced returns the code blocks of a page in one language.
func fenced(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^( *)```"+language+"\n(.*?)^ *```$").FindAllStringSubmatch(string(text), -1) {
		out = append(out, strings.ReplaceAll("\n"+m[2], "\n"+m[1], "\n"))
	}
	return out
}

// block returns the code block of docs/kubernetes.md that starts with the line
// first.
func block(t *testing.T, language, first string) string {
	t.Helper()
	for _, text := range fenced(t, "../docs/kubernetes.md", language) {
		if strings.HasPrefix(strings.TrimLeft(text, "\n"), first+"\n") {
			return text
		}
	}
	t.Fatalf("docs/kubernetes.md has no code block that starts with %q", first)
	return ""
}

// own builds a user's overlay from the guide's code blocks.
func own(t *testing.T, kustomization string, files map[string]string) ([]object, error) {
	t.Helper()
	mem := tree(t)
	for _, f := range [][2]string{{"jwt-bouncer.yaml", "base/auth-config.yaml"}, {"secrets.env", "components/common/secrets.env"}, {"api-token", "components/common/api-token"}} {
		b, err := os.ReadFile(f[1])
		require.NoError(t, err)
		require.NoError(t, mem.WriteFile("/my/"+f[0], b))
	}
	for name, text := range files {
		require.NoError(t, mem.WriteFile("/my/"+name, []byte(text)))
	}
	require.NoError(t, mem.WriteFile("/my/kustomization.yaml", []byte(kustomization)))
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(mem, "/my")
	if err != nil {
		return nil, err
	}
	text, err := resources.AsYaml()
	if err != nil {
		return nil, err
	}
	return split(text)
}

// find returns one of the objects.
func find(t *testing.T, objects []object, name string) object {
	t.Helper()
	for _, o := range objects {
		if o.String() == name {
			return o
		}
	}
	t.Fatalf("there is no %s", name)
	return object{}
}

// The user's overlay in the guide builds and is valid.
func TestOwnOverlay(t *testing.T) {
	t.Parallel()
	objects, err := own(t, block(t, "yaml", "# my/kustomization.yaml")+block(t, "yaml", "# also added to my/kustomization.yaml"), nil)
	require.NoError(t, err)
	assert.NoError(t, check(objects))
	find(t, objects, "PodMonitor/jwt-bouncer")
	assert.Contains(t, string(find(t, objects, "Deployment/jwt-bouncer").text), "registry.example/jwt-bouncer:0.1.0", "the image was not replaced")
}

// The user's overlay builds on top of every overlay and moves no object to
// another namespace: a policy outside the gateway's namespace has no effect, and
// no error reports that.
func TestOwnOverlayOfEach(t *testing.T) {
	t.Parallel()
	places := func(objects []object) map[string]bool {
		out := map[string]bool{}
		for _, o := range objects {
			out[o.String()+"@"+o.namespace] = true
			assert.Falsef(t, o.namespace == "" && o.kind != "Namespace" && o.kind != "GatewayClass", "%s has no namespace", o)
		}
		return out
	}
	mine := block(t, "yaml", "# my/kustomization.yaml") + block(t, "yaml", "# also added to my/kustomization.yaml")
	for _, dir := range overlays(t) {
		objects, err := own(t, strings.Replace(mine, "overlays/shared", dir, 1), nil)
		require.NoError(t, err)
		plain, err := build(t, dir)
		require.NoError(t, err)
		had, have := places(plain), places(objects)
		for name := range had {
			assert.Truef(t, have[name], "%s: %s has been removed or moved", dir, name)
		}
		// monitoring adds three objects
		assert.Lenf(t, have, len(had)+3, "%s: %d objects became %d", dir, len(had), len(have))
	}
}

// The Secret contains the guide's file of several API tokens, used to rotate one,
// unchanged and beside the other keys.
func TestRotatedTokens(t *testing.T) {
	t.Parallel()
	text := fenced(t, "../docs/kubernetes.md", "text")
	require.Lenf(t, text, 1, "the guide shows %d files of tokens, want 1", len(text))
	tokens := strings.TrimPrefix(text[0], "\n")
	objects, err := own(t, block(t, "yaml", "# my/kustomization.yaml"), map[string]string{"api-token": tokens})
	require.NoError(t, err)
	v, err := schema(find(t, objects, "Secret/jwt-bouncer-secrets"))
	require.NoError(t, err)
	data := v.(*corev1.Secret).Data
	assert.Equal(t, []string{"api-token", "redis-password", "store-owner-password", "store-password"}, slices.Sorted(maps.Keys(data)), "keys")
	assert.Equalf(t, tokens, string(data["api-token"]), "%q became %q", tokens, data["api-token"])
	assert.Truef(t, regexp.MustCompile(`^(\S+ +\S{16,}\n){3,}$`).MatchString(tokens), "%q became %q", tokens, data["api-token"])
}

// With the guide's blocks for the user's own servers, no example server is left,
// and the migration uses the user's database.
func TestOwnServers(t *testing.T) {
	t.Parallel()
	objects, err := own(t, block(t, "yaml", "# my/kustomization.yaml")+block(t, "yaml", "# for your own servers, added to my/kustomization.yaml"), nil)
	require.NoError(t, err)
	assert.NoError(t, check(objects))
	for _, o := range objects {
		assert.NotContainsf(t, o.name, "redis", "the example %s is still deployed", o)
		assert.NotContainsf(t, o.name, "postgres", "the example %s is still deployed", o)
	}
	job := string(find(t, objects, "Job/jwt-bouncer-migrate").text)
	assert.Contains(t, job, "@db.internal:5432/", "the migration uses another database")
	assert.NotContains(t, job, "@postgres:", "the migration uses another database")
}

// The guide's blocks can all be used together, and what they add is in the namespace
// of the sidecars: pgbouncer anywhere else could not be found under its name.
func TestOwnFleet(t *testing.T) {
	t.Parallel()
	mine := map[string]any{}
	for _, first := range []string{"# my/kustomization.yaml", "# also added to my/kustomization.yaml", "# for your own servers, added to my/kustomization.yaml",
		"# for a fleet, added to my/kustomization.yaml", "# added to my/kustomization.yaml"} {
		var part map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(block(t, "yaml", first)), &part))
		for key, value := range part {
			if list, ok := value.([]any); ok {
				old, _ := mine[key].([]any)
				value = append(old, list...)
			}
			mine[key] = value
		}
	}
	text, err := yaml.Marshal(mine)
	require.NoError(t, err)
	objects, err := own(t, string(text), map[string]string{"userlist.txt": "\"jwt_bouncer\" \"the password\"\n"})
	require.NoError(t, err)
	assert.NoError(t, check(objects))
	for _, name := range []string{"Deployment/pgbouncer", "Service/pgbouncer", "Secret/pgbouncer-users", "PodMonitor/jwt-bouncer", "Deployment/jwt-bouncer"} {
		assert.Equal(t, "jwt-bouncer", find(t, objects, name).namespace, name)
	}
}

// The guide's egress rules for a managed PostgreSQL are the same with kustomize
// and with Helm, and keep the existing rules.
func TestExtraEgress(t *testing.T) {
	t.Parallel()
	egress := func(objects []object, err error) []any {
		t.Helper()
		require.NoError(t, err)
		policy := find(t, objects, "NetworkPolicy/jwt-bouncer")
		_, err = schema(policy)
		assert.NoError(t, err)
		spec, _ := policy.tree["spec"].(map[string]any)
		rules, _ := spec["egress"].([]any)
		return rules
	}
	var values map[string]any
	require.NoError(t, yaml.UnmarshalStrict([]byte(block(t, "yaml", "# my-values.yaml")), &values))
	before := egress(build(t, "overlays/shared"))
	after := egress(own(t, block(t, "yaml", "# my/kustomization.yaml")+block(t, "yaml", "# added to my/kustomization.yaml"), nil))
	assert.Empty(t, cmp.Diff(after, egress(render(t, values), nil)), "kustomize (-) and chart (+) differ")
	assert.Lenf(t, after, len(before)+2, "%d rules became %d", len(before), len(after))
}

// A release builds the same image as the Dockerfile, and all of its files exist.
func TestReleaseConfig(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../.goreleaser.yaml")
	require.NoError(t, err)
	var c struct {
		Version int `json:"version"`
		Builds  []struct {
			Env, Goos, Goarch, Flags, Tags, Ldflags []string
		} `json:"builds"`
		Archives []struct{ Files []any } `json:"archives"`
		Dockers  []struct {
			Dockerfile string   `json:"dockerfile"`
			Platforms  []string `json:"platforms"`
		} `json:"dockers_v2"`
		SBOMs []any `json:"sboms"`
	}
	require.NoError(t, yaml.Unmarshal(text, &c))
	require.Equalf(t, 2, c.Version, "%+v", c)
	require.Lenf(t, c.Builds, 1, "%+v", c)
	require.Lenf(t, c.Dockers, 1, "%+v", c)
	require.Lenf(t, c.Archives, 1, "%+v", c)
	require.NotEmptyf(t, c.SBOMs, "%+v", c)
	build, image := c.Builds[0], c.Dockers[0]
	assert.Containsf(t, build.Env, "CGO_ENABLED=0", "build: %+v", build)
	assert.Containsf(t, build.Flags, "-trimpath", "build: %+v", build)
	for _, name := range []string{"../Dockerfile", "../Makefile"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		assert.Containsf(t, string(text), "-tags "+strings.Join(build.Tags, ","), "%s builds with other tags", name)
	}
	assert.Containsf(t, strings.Join(build.Ldflags, " "), "-X main.version=", "build: %+v", build)
	for _, arch := range build.Goarch {
		assert.Containsf(t, image.Platforms, "linux/"+arch, "no image for %s", arch)
	}
	files := []string{image.Dockerfile}
	for _, f := range c.Archives[0].Files {
		switch f := f.(type) {
		case string:
			files = append(files, f)
		case map[string]any: // made by the hook
			src, _ := f["src"].(string)
			assert.Truef(t, strings.HasPrefix(src, "bin/release/"), "%v", f)
		}
	}
	for _, file := range files {
		found, err := filepath.Glob("../" + file)
		if assert.NoErrorf(t, err, "%s does not exist", file) {
			assert.NotEmptyf(t, found, "%s does not exist", file)
		}
	}
	// Both images end with the same instructions.
	last := func(name string) []string {
		text, err := os.ReadFile("../" + name)
		require.NoError(t, err)
		stages := strings.Split(string(text), "\nFROM ") // the last stage is the image
		_, tail, _ := strings.Cut(stages[len(stages)-1], "\nUSER ")
		return strings.Split(strings.TrimSpace(tail), "\n")
	}
	a, b := last("Dockerfile"), last(image.Dockerfile)
	assert.Truef(t, slices.Equal(a, b), "Dockerfile and %s differ: %q, %q", image.Dockerfile, a, b)
}

// actionlint accepts GitHub's workflows.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../.github/workflows/*.yml")
	require.NoErrorf(t, err, "%v", files)
	require.GreaterOrEqualf(t, len(files), 2, "%v, %v", files, err)
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
	require.NoError(t, err)
	for _, file := range files {
		found, err := linter.LintFile(file, nil)
		require.NoError(t, err)
		for _, e := range found {
			t.Error(e)
		}
	}
	broken, err := linter.Lint("broken.yml", []byte("on: push\njobs: {a: {runs-on: ubuntu-24.04, step: []}}\n"), nil)
	if assert.NoErrorf(t, err, "a broken workflow was accepted: %v", broken) {
		assert.NotEmptyf(t, broken, "a broken workflow was accepted, %v", err)
	}
}
