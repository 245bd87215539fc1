package k8s

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

var fileName = regexp.MustCompile(`^\n?# .*\b(kustomization|values)\.yaml\n`)

// TestManifestsInDocs decodes every block of YAML of every page that is not the
// main module's: configuration, tests of routes, and Envoy's. TestBlocks there
// leaves these to this test.
func TestManifestsInDocs(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	pages = append(pages, "../README.md", "../CONTRIBUTING.md")
	n := 0
	for _, page := range pages {
		for _, block := range fenced(t, page, "yaml") {
			if ofTheProduct(t, block) {
				continue
			}
			n++
			assert.NoErrorf(t, manifest(t, block), "%s: %s", page, block)
		}
	}
	assert.Greater(t, n, 5)
}

func TestManifestsInDocsRefuse(t *testing.T) {
	t.Parallel()
	for name, block := range map[string]string{
		"kind without a type": "apiVersion: v2\nkind: Service\nmetadata: {name: a}\n",
		"field of an object":  "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: a}\nspec: {extAuht: {}}\n",
		"field of a part":     "metadata: {label: {a: b}}\n",
		"kustomization":       "# my/kustomization.yaml\nresource: [a]\n",
		"no manifest":         "isuers: []\n",
	} {
		assert.Error(t, manifest(t, block), name)
	}
}

// ofTheProduct reports whether the main module's tests read the block.
func ofTheProduct(t *testing.T, block string) bool {
	t.Helper()
	text, err := os.ReadFile("../docs/config.schema.json")
	require.NoError(t, err)
	var schema struct{ Properties map[string]any }
	require.NoError(t, json.Unmarshal(text, &schema))
	var tree map[string]any
	if yaml.Unmarshal([]byte(block), &tree) != nil || len(tree) == 0 {
		return false
	}
	for key := range tree {
		switch key {
		case "tests", "static_resources", "http_filters", "admin", "typed_per_filter_config", "virtual_hosts", "common_http_protocol_options":
		default:
			if _, ok := schema.Properties[key]; !ok {
				return false
			}
		}
	}
	return true
}

// manifest decodes a whole object, a kustomization, values of the chart, or a
// part of a pod's template.
func manifest(t *testing.T, block string) error {
	t.Helper()
	if m := fileName.FindStringSubmatch(block); m != nil {
		if m[1] == "kustomization" {
			return yaml.UnmarshalStrict([]byte(block), &types.Kustomization{})
		}
		var values map[string]any
		if err := yaml.UnmarshalStrict([]byte(block), &values); err != nil {
			return err
		}
		return check(append(render(t, values), secrets(t)...))
	}
	if !strings.Contains("\n"+block, "\napiVersion: ") {
		return yaml.UnmarshalStrict([]byte(block), &corev1.PodTemplateSpec{})
	}
	objects, err := split([]byte(block))
	if err == nil && len(objects) == 0 {
		err = fmt.Errorf("no object")
	}
	for _, o := range objects {
		if err == nil {
			_, err = schema(o)
		}
	}
	return err
}
