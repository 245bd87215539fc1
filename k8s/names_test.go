package k8s

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/yaml"
)

// published returns the names of scripts/names.env.
func published(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../scripts/names.env")
	require.NoError(t, err)
	names := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([A-Z]+)=(\S+)$`).FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = m[2]
	}
	require.Len(t, names, 4)
	return names
}

// Every file that must contain a published name contains the one of
// scripts/names.env. With -update, the test writes them; `make names` runs it.
func TestNames(t *testing.T) {
	names := published(t)
	_, path, _ := strings.Cut(names["REPOSITORY"], "/")
	for _, place := range []struct{ file, pattern, want string }{
		{"components/monitoring/alerts.yaml", `runbook_url: ([^#\n]*)#`, names["RUNBOOK"]},
		{"chart/values.yaml", `(?m)^  runbook: (\S+)$`, names["RUNBOOK"]},
		{"chart/Chart.yaml", `(?m)^home: (\S+)$`, "https://" + names["REPOSITORY"]},
		{"chart/Chart.yaml", `(?m)^sources: \[(\S+)\]$`, "https://" + names["REPOSITORY"]},
		{"chart/README.md", `oci://(\S+) --version`, names["CHART"]},
		{"../docs/kubernetes.md", `oci://(\S+) --version`, names["CHART"]},
		{"../.github/SECURITY.md", `oci://([^:\s]+):VERSION`, names["IMAGE"]},
		{"../.github/SECURITY.md", `--repo (\S+)`, path},
	} {
		text, err := os.ReadFile(place.file)
		require.NoError(t, err)
		pattern := regexp.MustCompile(place.pattern)
		require.Regexpf(t, pattern, string(text), "%s", place.file)
		want := pattern.ReplaceAllStringFunc(string(text), func(m string) string {
			return strings.Replace(m, pattern.FindStringSubmatch(m)[1], place.want, 1)
		})
		generated(t, place.file, want)
	}
	// The chart's copy, and the rules for a Prometheus without the operator.
	operator, err := os.ReadFile("components/monitoring/alerts.yaml")
	require.NoError(t, err)
	generated(t, "chart/files/alerts.yaml", string(operator))
	_, groups, found := strings.Cut(string(operator), "\nspec:\n")
	require.True(t, found)
	generated(t, "components/monitoring/prometheus-rules.yaml",
		"# The rules of alerts.yaml for a Prometheus without the operator, as a file of its\n# rule_files. `make names` writes it.\n"+regexp.MustCompile(`(?m)^  `).ReplaceAllString(groups, ""))
}

// Prometheus accepts the plain rules file, and it has the operator's rules.
func TestPlainRules(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("components/monitoring/prometheus-rules.yaml")
	require.NoError(t, err)
	plain, errs := rulefmt.Parse(text, false, model.UTF8Validation, promParser, slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	operator, err := os.ReadFile("components/monitoring/alerts.yaml")
	require.NoError(t, err)
	var of struct{ Spec, Metadata map[string]any }
	require.NoError(t, yaml.Unmarshal(operator, &of))
	var rules map[string]any
	require.NoError(t, yaml.UnmarshalStrict(text, &rules))
	assert.Equal(t, of.Spec, rules)
	n := 0
	for _, g := range plain.Groups {
		n += len(g.Rules)
	}
	assert.Len(t, alerts(t), n)
}

// The runbook_url of each alert leads to the alert's heading in docs/operations.md.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (\S+)$`).FindAllStringSubmatch(string(page), -1) {
		headings = append(headings, m[1])
	}
	text, err := os.ReadFile("components/monitoring/alerts.yaml")
	require.NoError(t, err)
	links := regexp.MustCompile(`runbook_url: (\S+)#(\S+)\n`).FindAllStringSubmatch(string(text), -1)
	names := alerts(t)
	require.Len(t, links, len(names), "each alert has one runbook_url")
	for name := range names {
		assert.Containsf(t, headings, name, "docs/operations.md has no heading for %s", name)
		at := slices.IndexFunc(links, func(m []string) bool { return m[2] == strings.ToLower(name) })
		if assert.GreaterOrEqualf(t, at, 0, "%s has no runbook_url of its own", name) {
			assert.Equal(t, published(t)["RUNBOOK"], links[at][1])
		}
	}
	objects := render(t, map[string]any{"monitoring": map[string]any{"enabled": true, "runbook": "https://wiki.example/jwt-bouncer"}})
	rule := string(find(t, objects, "PrometheusRule/jwt-bouncer").text)
	assert.Equal(t, len(names), strings.Count(rule, "runbook_url: https://wiki.example/jwt-bouncer#jwtbouncer"), "the value replaces the page of every alert")
}

// scripts/names.sh refuses a tag under example names, and one that CHANGELOG or
// chart do not have.
func TestNamesOfATag(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o755))
	}
	script, err := os.ReadFile("../scripts/names.sh")
	require.NoError(t, err)
	write("scripts/names.sh", string(script))
	write("go.mod", "module git.test/a/b\n")
	write("CHANGELOG.md", "## [0.1.0] - unreleased\n")
	write("k8s/chart/Chart.yaml", "version: 0.1.0\nappVersion: 0.1.0\n")
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts/names.sh"), args...).CombinedOutput()
		return string(out), err
	}
	named := "REPOSITORY=git.test/a/b\nIMAGE=registry.test/a/b\nCHART=registry.test/a/charts/b\nRUNBOOK=https://git.test/a/b/operations.md\n"
	write("scripts/names.env", named)
	out, err := run("check", "v0.1.0")
	require.NoErrorf(t, err, "%s", out)
	out, err = run("check", "v0.1.0-rc.1")
	require.NoErrorf(t, err, "%s", out)
	out, err = run("print", "v0.1.0")
	require.NoError(t, err)
	assert.Equal(t, named+"REGISTRY=registry.test\nVERSION=0.1.0\n", out)
	for want, change := range map[string]func(){
		"no section [0.2.0]":        func() { write("CHANGELOG.md", "## [0.1.0] - unreleased\n") },
		"Chart.yaml is not version": func() { write("k8s/chart/Chart.yaml", "version: 0.1.0\n") },
		"is not importable":         func() { write("go.mod", "module jwtbouncer\n") },
		"is an example":             func() { write("scripts/names.env", strings.Replace(named, "git.test", "git.example", 1)) },
		"different registries":      func() { write("scripts/names.env", strings.Replace(named, "IMAGE=registry", "IMAGE=other", 1)) },
	} {
		write("scripts/names.env", named)
		write("go.mod", "module git.test/a/b\n")
		write("CHANGELOG.md", "## [0.2.0] - unreleased\n")
		write("k8s/chart/Chart.yaml", "version: 0.2.0\nappVersion: 0.2.0\n")
		change()
		out, err := run("check", "v0.2.0")
		assert.Error(t, err, want)
		assert.Contains(t, out, want)
	}
}

// packaged returns the chart as an archive that `helm install` would read.
func packaged(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir("chart")
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	archive, err := chartutil.Save(c, t.TempDir())
	require.NoError(t, err)
	c, err = loader.LoadFile(archive)
	require.NoError(t, err)
	return c
}

// The packaged chart has all of its files, and its notes say what to do next.
func TestChartPackage(t *testing.T) {
	t.Parallel()
	c := packaged(t)
	assert.NotEmpty(t, c.Schema, "the values are not checked")
	assert.True(t, slices.ContainsFunc(c.Files, func(f *chart.File) bool { return f.Name == "README.md" }), "the archive has no README.md")
	notes := func(values map[string]any) string {
		v, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "jwt-bouncer", Namespace: "authz", Revision: 1, IsInstall: true}, nil)
		require.NoError(t, err)
		files, err := engine.Engine{Strict: true}.Render(c, v)
		require.NoError(t, err)
		return files["jwt-bouncer/templates/NOTES.txt"]
	}
	text := notes(nil)
	for _, want := range []string{"kubectl -n authz rollout status", "jwt-bouncer.authz.svc:9191", "jwt-bouncer.io/client=true", "https://issuer.example is the example issuer", "prometheus-rules.yaml"} {
		assert.Contains(t, text, want)
	}
	text = notes(map[string]any{
		"monitoring": map[string]any{"enabled": true}, "networkPolicy": map[string]any{"enabled": false}, "migration": map[string]any{"enabled": false},
		"config": map[string]any{"issuers": []any{map[string]any{"issuer": "https://login.test/", "audiences": []any{"api"}}}},
	})
	for _, not := range []string{"WARNING", "jwt-bouncer.io/client", "component=migration", "prometheus-rules.yaml"} {
		assert.NotContains(t, text, not)
	}
}

// The chart's README lists each value with its default and the description of the
// schema.
func TestChartReadme(t *testing.T) {
	t.Parallel()
	c := packaged(t)
	var s node
	require.NoError(t, yaml.Unmarshal(c.Schema, &s))
	readme, err := os.ReadFile("chart/README.md")
	require.NoError(t, err)
	head, _, found := strings.Cut(string(readme), "\n## Values\n")
	require.True(t, found)
	var rows []string
	list(&rows, "", s, c.Values)
	slices.Sort(rows)
	generated(t, "chart/README.md", head+"\n## Values\n\nThe table is generated from `values.schema.json`.\n\n| value | default | meaning |\n| --- | --- | --- |\n"+strings.Join(rows, ""))
}

// list appends a row of the README for each value of s.
func list(rows *[]string, path string, s node, defaults node) {
	properties, _ := s["properties"].(node)
	for name, p := range properties {
		p, at := p.(node), strings.TrimPrefix(path+"."+name, ".")
		inner, _ := defaults[name].(node)
		if at == "global" {
			continue
		}
		if p["properties"] != nil && at != "config" && at != "resources" {
			list(rows, at, p, inner)
			continue
		}
		text, ok := defaults[name].(string)
		if !ok {
			b, err := json.Marshal(defaults[name])
			if err != nil || len(b) > 60 {
				b = []byte("see values.yaml")
			}
			text = string(b)
		}
		if text != "" {
			text = "`" + text + "`"
		}
		*rows = append(*rows, "| `"+at+"` | "+text+" | "+strings.ReplaceAll(p["description"].(string), "|", `\|`)+" |\n")
	}
}
