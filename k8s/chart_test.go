package k8s

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// render returns what `helm template jwt-bouncer chart` prints.
func render(t *testing.T, values map[string]any) []object {
	t.Helper()
	return renderRevision(t, 1, values)
}

// renderRevision returns what `helm upgrade` applies as that revision.
func renderRevision(t *testing.T, revision int, values map[string]any) []object {
	t.Helper()
	c, err := loader.LoadDir("chart")
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	v, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "jwt-bouncer", Namespace: "jwt-bouncer", Revision: revision, IsInstall: revision == 1, IsUpgrade: revision > 1}, nil)
	require.NoError(t, err)
	files, err := engine.Engine{Strict: true}.Render(c, v)
	require.NoError(t, err)
	var out []object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		objects, err := split([]byte(files[name]))
		require.NoErrorf(t, err, "%s", name)
		out = append(out, objects...)
	}
	return out
}

// secret is an example of the Secret that the chart expects to exist.
const secret = `apiVersion: v1
kind: Secret
metadata: {name: jwt-bouncer-secrets}
data: {api-token: YQ==, store-password: YQ==, store-owner-password: YQ==, redis-password: YQ==}
`

// Without Redis, the chart needs no Redis password.
func TestChartWithoutRedis(t *testing.T) {
	t.Parallel()
	there, err := split([]byte(strings.Replace(secret, ", redis-password: YQ==", "", 1)))
	require.NoError(t, err)
	objects := render(t, map[string]any{"config": map[string]any{"redis": nil}})
	assert.NoError(t, check(append(objects, there...)))
	assert.NotContains(t, string(find(t, objects, "ConfigMap/auth-config").text), "redis", "the configuration still has Redis")
}

func TestChart(t *testing.T) {
	t.Parallel()
	there, err := split([]byte(secret))
	require.NoError(t, err)
	for name, values := range map[string]map[string]any{
		"defaults": {},
		"little":   {"autoscaling": map[string]any{"enabled": false}, "networkPolicy": map[string]any{"enabled": false}, "migration": map[string]any{"enabled": false}, "podDisruptionBudget": map[string]any{"enabled": false}},
		"much": {"monitoring": map[string]any{"enabled": true}, "podAnnotations": map[string]any{"a": "b"}, "nodeSelector": map[string]any{"kubernetes.io/arch": "arm64"}, "affinity": map[string]any{"nodeAffinity": map[string]any{}},
			"tolerations": []any{map[string]any{"key": "k", "operator": "Exists"}}, "image": map[string]any{"tag": "1.2.3", "pullPolicy": "Always", "pullSecrets": []any{map[string]any{"name": "x"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.NoError(t, check(append(render(t, values), there...)))
		})
	}
}

// What users add arrives in the sidecars' pods and in the migration's.
func TestChartAdditions(t *testing.T) {
	t.Parallel()
	values, err := chartutil.ReadValues([]byte(`
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::123456789012:role/jwt-bouncer"}}
podLabels: {azure.workload.identity/use: "true"}
podAnnotations: {sidecar.istio.io/inject: "true"}
extraEnv:
  - {name: GODEBUG, value: netdns=go}
  - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
extraVolumes: [{name: postgres-ca, configMap: {name: postgres-ca}}]
extraVolumeMounts: [{name: postgres-ca, mountPath: /etc/postgres-ca, readOnly: true}]
`))
	require.NoError(t, err)
	objects := render(t, values)
	missing := check(append(objects, secrets(t)...))
	require.ErrorContains(t, missing, "postgres-ca", "the additions are validated with the objects they name")

	values["extraVolumes"] = []any{map[string]any{"name": "postgres-ca", "emptyDir": map[string]any{}}}
	objects = render(t, values)
	require.NoError(t, check(append(objects, secrets(t)...)))
	assert.Equal(t, "arn:aws:iam::123456789012:role/jwt-bouncer", at(find(t, objects, "ServiceAccount/jwt-bouncer").tree, "metadata", "annotations", "eks.amazonaws.com/role-arn"))
	pods := 0
	for _, o := range objects {
		if o.kind != "Deployment" && o.kind != "Job" {
			continue
		}
		pods++
		v, err := schema(o)
		require.NoError(t, err)
		var p corev1.PodTemplateSpec
		switch v := v.(type) {
		case *appsv1.Deployment:
			p = v.Spec.Template
			assert.Equal(t, "true", p.Annotations["sidecar.istio.io/inject"])
		case *batchv1.Job:
			p = v.Spec.Template
		}
		assert.Equalf(t, "true", p.Labels["azure.workload.identity/use"], "%s", o)
		assert.Equalf(t, "jwt-bouncer", p.Labels["app.kubernetes.io/name"], "%s", o)
		c := p.Spec.Containers[0]
		assert.Containsf(t, c.Env, corev1.EnvVar{Name: "GODEBUG", Value: "netdns=go"}, "%s", o)
		assert.Containsf(t, c.Env, corev1.EnvVar{Name: "HOST_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}}}, "%s", o)
		assert.Containsf(t, c.VolumeMounts, corev1.VolumeMount{Name: "postgres-ca", MountPath: "/etc/postgres-ca", ReadOnly: true}, "%s", o)
		assert.Lenf(t, c.VolumeMounts, 3, "%s", o)
		assert.Lenf(t, p.Spec.Volumes, 3, "%s", o)
	}
	assert.Equal(t, 2, pods)
}

// The chart and the overlays deploy the same objects.
func TestChartEqualsKustomize(t *testing.T) {
	t.Parallel()
	kustomized, err := build(t, "overlays/shared", monitored("overlays/shared"))
	require.NoError(t, err)
	want := map[string]any{}
	for _, o := range kustomized {
		switch name := o.String(); {
		case o.kind == "Namespace" || o.kind == "Secret": // not part of the chart
		case strings.HasSuffix(name, "/redis") || strings.HasSuffix(name, "/postgres") || strings.HasSuffix(name, "/postgres-init"): // examples
		case name == "NetworkPolicy/default-deny": // belongs to the namespace, not to the release
		default:
			want[name] = plain(t, o)
		}
	}
	got := map[string]any{}
	for _, o := range render(t, map[string]any{"monitoring": map[string]any{"enabled": true}}) {
		got[migrateJob.ReplaceAllString(o.String(), "$1")] = plain(t, o)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		assert.Emptyf(t, cmp.Diff(want[name], got[name]), "%s: kustomize (-) and chart (+) differ", name)
	}
	for name := range got {
		assert.NotNilf(t, want[name], "only the chart has %s", name)
	}
	// The chart has copies of files from a kustomize component.
	for _, file := range []string{"monitoring/alerts.yaml", "monitoring/dashboard.json", "pgbouncer/pgbouncer.ini"} {
		text, err := os.ReadFile(filepath.Join("components", file))
		require.NoError(t, err)
		generated(t, filepath.Join("chart/files", filepath.Base(file)), string(text))
	}
}

// The component and the chart's option deploy the same pooler.
func TestPoolerEqualsKustomize(t *testing.T) {
	t.Parallel()
	of := func(objects []object) map[string]any {
		out := map[string]any{}
		for _, o := range objects {
			// The user's Secret is not part of the chart.
			if !strings.HasPrefix(o.name, "pgbouncer") || o.kind == "Secret" {
				continue
			}
			name := o.String()
			if o.kind == "ConfigMap" { // kustomize appends a hash, the chart annotates the pods with one
				name = "ConfigMap/pgbouncer"
			}
			text := hashed.ReplaceAllString(string(o.text), "name: pgbouncer\n")
			var tree map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(text), &tree))
			for _, meta := range []any{tree["metadata"], at(tree, "spec", "template", "metadata")} {
				if m, ok := meta.(map[string]any); ok {
					for _, key := range []string{"namespace", "annotations", "labels"} {
						if key != "labels" || o.kind == "ConfigMap" {
							delete(m, key)
						}
					}
				}
			}
			delete(tree["metadata"].(map[string]any), "name")
			out[name] = tree
		}
		return out
	}
	kustomized, err := build(t, "overlays/shared", pooled("overlays/shared"))
	require.NoError(t, err)
	require.NoError(t, check(kustomized))
	rendered := render(t, map[string]any{"pgbouncer": map[string]any{"enabled": true}})
	require.NoError(t, check(append(rendered, secrets(t)...)))
	want, got := of(kustomized), of(rendered)
	assert.Len(t, want, 5, "Service, Deployment, PodDisruptionBudget, NetworkPolicy and ConfigMap")
	assert.Empty(t, cmp.Diff(want, got), "kustomize (-) and chart (+) differ")
}

// hashed matches the name that kustomize gives to the pooler's ConfigMap.
var hashed = regexp.MustCompile(`name: pgbouncer-[0-9a-z]{10}\n`)

// at returns the value at a path of keys; nil if there is none.
func at(tree map[string]any, path ...string) any {
	var v any = tree
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// secrets returns the Secrets that the chart expects to exist.
func secrets(t *testing.T) []object {
	t.Helper()
	there, err := split([]byte(secret + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: pgbouncer-users}\ndata: {userlist.txt: YQ==}\n"))
	require.NoError(t, err)
	return there
}

// The values of the pooler arrive in its configuration and its objects.
func TestChartPooler(t *testing.T) {
	t.Parallel()
	objects := render(t, map[string]any{"pgbouncer": map[string]any{
		"enabled": true, "database": "jwt_bouncer = host=db.internal port=5433 dbname=authz", "maxClientConn": 777, "poolSize": 9, "replicas": 4, "minAvailable": "50%",
		"extraEgress": []any{map[string]any{"ports": []any{map[string]any{"port": 5433}}}},
	}})
	require.NoError(t, check(append(objects, secrets(t)...)))
	ini := string(find(t, objects, "ConfigMap/pgbouncer").text)
	for _, want := range []string{"jwt_bouncer = host=db.internal port=5433 dbname=authz\n", "max_client_conn = 777\n", "default_pool_size = 9\n"} {
		assert.Contains(t, ini, want)
	}
	assert.Contains(t, string(find(t, objects, "Deployment/pgbouncer").text), "replicas: 4")
	assert.Contains(t, string(find(t, objects, "PodDisruptionBudget/pgbouncer").text), "minAvailable: 50%")
	assert.Contains(t, string(find(t, objects, "NetworkPolicy/pgbouncer").text), "port: 5433")
	for _, o := range render(t, nil) {
		assert.NotContains(t, o.name, "pgbouncer", "the pooler is an option")
	}
}

// migrateJob matches the name of the migration's Job in the chart.
var migrateJob = regexp.MustCompile(`^(Job/jwt-bouncer-migrate)-[0-9]+-[0-9a-f]{8}$`)

// A Job is immutable, so each revision and each content of the migration's Job
// has a name of its own.
func TestChartMigrationIsNew(t *testing.T) {
	t.Parallel()
	name := func(revision int, values map[string]any) string {
		t.Helper()
		for _, o := range renderRevision(t, revision, values) {
			if o.kind == "Job" {
				assert.Truef(t, migrateJob.MatchString(o.String()), "%s", o)
				assert.LessOrEqualf(t, len(o.name), 63, "%s", o)
				return o.name
			}
		}
		t.Fatal("the chart has no Job")
		return ""
	}
	first := name(1, nil)
	again := name(1, nil)
	assert.Equalf(t, first, again, "the same content has two names, and %s", again)
	seen := map[string]string{first: "the first"}
	for what, other := range map[string]string{
		"another revision":      name(2, nil),
		"another image":         name(1, map[string]any{"image": map[string]any{"tag": "9.9.9"}}),
		"another store":         name(1, map[string]any{"migration": map[string]any{"store": "postgres://owner@elsewhere/db"}}),
		"another Secret":        name(1, map[string]any{"existingSecret": "other"}),
		"another configuration": name(1, map[string]any{"config": map[string]any{"revocation": map[string]any{"max_token_ttl": "48h"}}}),
	} {
		assert.Emptyf(t, seen[other], "%s has the Job of %s", what, seen[other])
		seen[other] = what
	}
}

// plain returns o without the labels and annotations that the two tools add, and
// with embedded YAML parsed.
func plain(t *testing.T, o object) map[string]any {
	meta, _ := o.tree["metadata"].(map[string]any)
	delete(meta, "namespace")
	delete(meta, "annotations")
	if o.kind == "Job" {
		delete(meta, "name") // in the chart, it differs in each revision
	}
	if labels, ok := meta["labels"].(map[string]any); ok {
		for l := range labels {
			if strings.HasPrefix(l, "helm.sh/") || slices.Contains([]string{"name", "part-of", "instance", "version", "managed-by"}, strings.TrimPrefix(l, "app.kubernetes.io/")) {
				delete(labels, l)
			}
		}
		if len(labels) == 0 {
			delete(meta, "labels")
		}
	}
	if data, ok := o.tree["data"].(map[string]any); ok {
		for name, text := range data {
			var v any
			require.NoError(t, yaml.Unmarshal([]byte(fmt.Sprint(text)), &v))
			if m, ok := v.(map[string]any); ok {
				if r, ok := m["revocation"].(map[string]any); ok && r["replica"] == "on" {
					r["replica"] = true // Helm renders `on` as true
				}
			}
			data[name] = v
		}
	}
	return o.tree
}
