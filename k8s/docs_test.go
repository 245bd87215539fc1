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
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/yaml"
)

// pages are the documentation pages about deployment.
var pages = []string{"kubernetes.md", "envoy.md", "istio.md", "envoy-gateway.md", "comparison.md", "migration.md", "metrics.md"}

// fenced returns the code blocks of a page in one language.
func fenced(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
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
		if err != nil {
			t.Fatal(err)
		}
		if err := mem.WriteFile("/my/"+f[0], b); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := mem.WriteFile("/my/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := mem.WriteFile("/my/kustomization.yaml", []byte(kustomization)); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	if err := check(objects); err != nil {
		t.Error(err)
	}
	find(t, objects, "PodMonitor/jwt-bouncer")
	if !strings.Contains(string(find(t, objects, "Deployment/jwt-bouncer").text), "registry.example/jwt-bouncer:0.1.0") {
		t.Error("the image was not replaced")
	}
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
			if o.namespace == "" && o.kind != "Namespace" && o.kind != "GatewayClass" {
				t.Errorf("%s has no namespace", o)
			}
		}
		return out
	}
	mine := block(t, "yaml", "# my/kustomization.yaml") + block(t, "yaml", "# also added to my/kustomization.yaml")
	for _, dir := range overlays(t) {
		objects, err := own(t, strings.Replace(mine, "overlays/shared", dir, 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := build(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		had, have := places(plain), places(objects)
		for name := range had {
			if !have[name] {
				t.Errorf("%s: %s has been removed or moved", dir, name)
			}
		}
		if len(have) != len(had)+3 { // monitoring adds three objects
			t.Errorf("%s: %d objects became %d", dir, len(had), len(have))
		}
	}
}

// The Secret contains the guide's file of several API tokens, used to rotate one,
// unchanged and beside the other keys.
func TestRotatedTokens(t *testing.T) {
	t.Parallel()
	text := fenced(t, "../docs/kubernetes.md", "text")
	if len(text) != 1 {
		t.Fatalf("the guide shows %d files of tokens, want 1", len(text))
	}
	tokens := strings.TrimPrefix(text[0], "\n")
	objects, err := own(t, block(t, "yaml", "# my/kustomization.yaml"), map[string]string{"api-token": tokens})
	if err != nil {
		t.Fatal(err)
	}
	v, err := schema(find(t, objects, "Secret/jwt-bouncer-secrets"))
	if err != nil {
		t.Fatal(err)
	}
	data := v.(*corev1.Secret).Data
	if keys := slices.Sorted(maps.Keys(data)); !slices.Equal(keys, []string{"api-token", "redis-password", "store-owner-password", "store-password"}) {
		t.Errorf("keys %v", keys)
	}
	if string(data["api-token"]) != tokens || !regexp.MustCompile(`^(\S+ +\S{16,}\n){3,}$`).MatchString(tokens) {
		t.Errorf("%q became %q", tokens, data["api-token"])
	}
}

// With the guide's blocks for the user's own servers, no example server is left,
// and the migration uses the user's database.
func TestOwnServers(t *testing.T) {
	t.Parallel()
	objects, err := own(t, block(t, "yaml", "# my/kustomization.yaml")+block(t, "yaml", "# for servers of one's own, added to my/kustomization.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(objects); err != nil {
		t.Error(err)
	}
	for _, o := range objects {
		if strings.Contains(o.name, "redis") || strings.Contains(o.name, "postgres") {
			t.Errorf("the example %s is still deployed", o)
		}
	}
	if job := string(find(t, objects, "Job/jwt-bouncer-migrate").text); !strings.Contains(job, "@db.internal:5432/") || strings.Contains(job, "@postgres:") {
		t.Errorf("the migration uses another database:\n%s", job)
	}
}

// The guide's egress rules for a managed PostgreSQL are the same with kustomize
// and with Helm, and keep the existing rules.
func TestExtraEgress(t *testing.T) {
	t.Parallel()
	egress := func(objects []object, err error) []any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		policy := find(t, objects, "NetworkPolicy/jwt-bouncer")
		if _, err := schema(policy); err != nil {
			t.Error(err)
		}
		spec, _ := policy.tree["spec"].(map[string]any)
		rules, _ := spec["egress"].([]any)
		return rules
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(block(t, "yaml", "# my-values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	before := egress(build(t, "overlays/shared"))
	after := egress(own(t, block(t, "yaml", "# my/kustomization.yaml")+block(t, "yaml", "# added to my/kustomization.yaml"), nil))
	if diff := cmp.Diff(after, egress(render(t, values), nil)); diff != "" {
		t.Errorf("kustomize (-) and chart (+) differ:\n%s", diff)
	}
	if len(after) != len(before)+2 {
		t.Errorf("%d rules became %d", len(before), len(after))
	}
}

// The manifests in the pages are valid.
func TestManifestsInDocs(t *testing.T) {
	t.Parallel()
	n := 0
	for _, page := range pages {
		for _, block := range fenced(t, "../docs/"+page, "yaml") {
			if !strings.Contains(block, "\nkind: SecurityPolicy") {
				continue
			}
			objects, err := split([]byte(block))
			if err != nil {
				t.Errorf("%s: %v", page, err)
			}
			for _, o := range objects {
				n++
				if _, err := schema(o); err != nil {
					t.Errorf("%s: %v", page, err)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no manifest found")
	}
}

// A release builds the same image as the Dockerfile, and all of its files exist.
func TestReleaseConfig(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Version int `json:"version"`
		Builds  []struct {
			Env, Goos, Goarch, Flags, Ldflags []string
		} `json:"builds"`
		Archives []struct{ Files []string } `json:"archives"`
		Dockers  []struct {
			Dockerfile string   `json:"dockerfile"`
			Platforms  []string `json:"platforms"`
		} `json:"dockers_v2"`
		SBOMs []any `json:"sboms"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if c.Version != 2 || len(c.Builds) != 1 || len(c.Dockers) != 1 || len(c.Archives) != 1 || len(c.SBOMs) == 0 {
		t.Fatalf("%+v", c)
	}
	build, image := c.Builds[0], c.Dockers[0]
	if !slices.Contains(build.Env, "CGO_ENABLED=0") || !slices.Contains(build.Flags, "-trimpath") || !strings.Contains(strings.Join(build.Ldflags, " "), "-X main.version=") {
		t.Errorf("build: %+v", build)
	}
	for _, arch := range build.Goarch {
		if !slices.Contains(image.Platforms, "linux/"+arch) {
			t.Errorf("no image for %s", arch)
		}
	}
	for _, file := range append([]string{image.Dockerfile}, c.Archives[0].Files...) {
		if found, err := filepath.Glob("../" + file); err != nil || len(found) == 0 {
			t.Errorf("%s does not exist", file)
		}
	}
	// Both images end with the same instructions.
	last := func(name string) []string {
		text, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		stages := strings.Split(string(text), "\nFROM ") // the last stage is the image
		_, tail, _ := strings.Cut(stages[len(stages)-1], "\nUSER ")
		return strings.Split(strings.TrimSpace(tail), "\n")
	}
	if a, b := last("Dockerfile"), last(image.Dockerfile); !slices.Equal(a, b) {
		t.Errorf("Dockerfile and %s differ: %q, %q", image.Dockerfile, a, b)
	}
}

// actionlint accepts GitHub's workflows.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		faults, err := linter.LintFile(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range faults {
			t.Error(f)
		}
	}
	broken, err := linter.Lint("broken.yml", []byte("on: push\njobs: {a: {runs-on: ubuntu-24.04, step: []}}\n"), nil)
	if err != nil || len(broken) == 0 {
		t.Errorf("a broken workflow was accepted: %v, %v", broken, err)
	}
}
