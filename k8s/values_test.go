package k8s

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"
)

// install reads values as `helm install` does, from a file (-f) and from --set,
// and returns Helm's error.
func install(t *testing.T, file string, set ...string) error {
	t.Helper()
	c, err := loader.LoadDir("chart")
	require.NoError(t, err)
	values, err := chartutil.ReadValues([]byte(file))
	require.NoError(t, err)
	for _, s := range set {
		require.NoError(t, strvals.ParseInto(s, values))
	}
	_, err = chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "jwt-bouncer", Namespace: "jwt-bouncer", Revision: 1, IsInstall: true}, nil)
	return err
}

// Helm reads a number as a double or as octal: 216554329876543210 would become
// 216554329876543200, and 0123456 would become 42798, and every token would be
// denied for its audience. So what is text must be quoted.
func TestChartRefusesNumbersForText(t *testing.T) {
	t.Parallel()
	err := install(t, "config: {issuers: [{issuer: 'https://zitadel.example', audiences: [216554329876543210, 0123456]}]}")
	require.Error(t, err)
	for _, at := range []string{"/config/issuers/0/audiences/0", "/config/issuers/0/audiences/1"} {
		assert.ErrorContains(t, err, at)
	}
	quoted, err := chartutil.ReadValues([]byte(`config: {issuers: [{issuer: 'https://zitadel.example', audiences: ["216554329876543210", "0123456"]}], token_cache: {max_bytes: 9007199254740991}}`))
	require.NoError(t, err)
	text := string(find(t, render(t, quoted), "ConfigMap/auth-config").text)
	for _, want := range []string{`- "216554329876543210"`, `- "0123456"`, "max_bytes: 9007199254740991"} {
		assert.Contains(t, text, want)
	}
}

func TestChartRefusesMistakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, set, want string }{
		"unknown key of the configuration": {file: "config: {isuers: []}", want: "isuers"},
		"unknown key of an issuer":         {file: "config: {issuers: [{isuer: 'https://a.example', audiences: [api]}]}", want: "isuer"},
		"unknown key of a route":           {file: "config: {routes: [{name: a, scope: x}]}", want: "scope"},
		"unknown key of a match":           {file: "config: {routes: [{name: a, match: {path: [{prefix: /}]}}]}", want: "path"},
		"unknown value":                    {file: "replica: 3", want: "replica"},
		"unknown nested value":             {set: "autoscaling.min=3", want: "min"},
		"text for a number":                {set: "replicas=abc", want: "/replicas"},
		"negative number":                  {set: "replicas=-1", want: "/replicas"},
		"number for a tag":                 {file: "image: {tag: 1.10}", want: "/image/tag"},
		"number for an annotation":         {file: "podAnnotations: {a: 0123}", want: "/podAnnotations/a"},
		"text for a switch":                {file: "monitoring: {enabled: 'false'}", want: "/monitoring/enabled"},
		"duration without a unit":          {file: "config: {revocation: {max_staleness: 30}}", want: "/config/revocation/max_staleness"},
		"word that is none":                {file: "config: {revocation: {on_revocation_unknown: alow}}", want: "/config/revocation/on_revocation_unknown"},
		"pull policy":                      {set: "image.pullPolicy=always", want: "/image/pullPolicy"},
		"password as a value":              {set: "migration.store_password=x", want: "store_password"},
		"environment that the chart sets":  {file: "extraEnv: [{name: JWT_BOUNCER_STORE, value: x}]", want: "/extraEnv/0/name"},
		"number for an environment":        {file: "extraEnv: [{name: A, value: 1}]", want: "/extraEnv/0/value"},
		"misspelt environment":             {file: "extraEnv: [{nam: A}]", want: "/extraEnv/0"},
		"volume of the chart":              {file: "extraVolumes: [{name: secrets, emptyDir: {}}]", want: "/extraVolumes/0/name"},
		"mount without a path":             {file: "extraVolumeMounts: [{name: a}]", want: "/extraVolumeMounts/0"},
		"misspelt mount":                   {file: "extraVolumeMounts: [{name: a, mountPath: /a, readonly: true}]", want: "readonly"},
		"label of the selector":            {file: "podLabels: {app.kubernetes.io/name: x}", want: "app.kubernetes.io/name"},
		"number for a label":               {file: "podLabels: {a: 1}", want: "/podLabels/a"},
		"misspelt ServiceAccount":          {file: "serviceAccount: {annotation: {a: b}}", want: "annotation"},
		"runbook that is no page":          {set: "monitoring.runbook=wiki", want: "/monitoring/runbook"},
		"misspelt key on --set":            {set: "config.isuer=x", want: "isuer"},
		"pooler as text":                   {set: "pgbouncer.replicas=two", want: "/pgbouncer/replicas"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var set []string
			if c.set != "" {
				set = []string{c.set}
			}
			assert.ErrorContains(t, install(t, c.file, set...), c.want)
		})
	}
}

// What people set is accepted: Helm's own forms, and the values of a parent chart.
func TestChartAccepts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, set string }{
		"nothing":              {},
		"no Redis":             {file: "config: {redis: null}"},
		"Redis as a URL":       {file: "config: {redis: 'redis://r:6379/0'}"},
		"words for switches":   {file: "config: {revocation: {replica: on}, headers: {forward_authorization: 'yes'}}"},
		"numbers on --set":     {set: "replicas=3,autoscaling.minReplicas=4,podDisruptionBudget.minAvailable=1"},
		"share of the pods":    {file: "podDisruptionBudget: {minAvailable: 50%}"},
		"quantities":           {file: "resources: {requests: {cpu: 1, memory: 268435456, ephemeral-storage: 1Gi}, limits: {cpu: 1.5}}"},
		"globals of a parent":  {file: "global: {region: eu}"},
		"audience on --set":    {set: "config.issuers[0].issuer=https://a.example,config.issuers[0].audiences[0]=api"},
		"the pooler":           {set: "pgbouncer.enabled=true,pgbouncer.replicas=3"},
		"affinity, selections": {file: "affinity: {nodeAffinity: {}}\nnodeSelector: {a: b}\ntolerations: [{key: k, operator: Exists, tolerationSeconds: 60}]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var set []string
			if c.set != "" {
				set = []string{c.set}
			}
			assert.NoError(t, install(t, c.file, set...))
		})
	}
}

// node is a JSON Schema.
type node = map[string]any

// The schema documents every value, and its part about the configuration is the
// product's own schema.
func TestChartSchema(t *testing.T) {
	t.Parallel()
	read := func(file string) (n node) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &n))
		return n
	}
	chart, product := read("chart/values.schema.json"), read("../docs/config.schema.json")
	config, _ := chart["properties"].(node)["config"].(node)
	require.NotNil(t, config)
	config["properties"], config["additionalProperties"] = product["properties"], product["additionalProperties"]
	text, err := json.MarshalIndent(chart, "", "  ")
	require.NoError(t, err)
	generated(t, "chart/values.schema.json", string(text)+"\n")

	values, err := os.ReadFile("chart/values.yaml")
	require.NoError(t, err)
	var defaults node
	require.NoError(t, yaml.Unmarshal(values, &defaults))
	for key := range defaults {
		assert.Containsf(t, chart["properties"], key, "the schema lacks the value %s", key)
	}
	documented(t, "", chart, defaults)
}

// documented checks that each property of s has a description, that no other may be
// set, and that the chart sets it or says in its description what happens without.
func documented(t *testing.T, path string, s node, defaults node) {
	t.Helper()
	if properties, ok := s["properties"].(node); ok {
		assert.Containsf(t, []any{false, true}, s["additionalProperties"], "%s does not say whether further keys are allowed", path)
		if path != "/global" {
			assert.Equalf(t, false, s["additionalProperties"], "%s allows unknown keys", path)
		}
		for name, p := range properties {
			at, p := path+"/"+name, p.(node)
			if strings.HasPrefix(at, "/config/") {
				continue // the product's own test documents it
			}
			assert.NotEmptyf(t, p["description"], "%s has no description", at)
			inner, _ := defaults[name].(node)
			if _, given := defaults[name]; !given && name != "global" {
				t.Errorf("%s", fmt.Sprintf("%s is not in values.yaml", at))
			}
			if p["properties"] != nil && inner != nil {
				documented(t, at, p, inner)
			}
		}
	}
}
