package kubernetes

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
	"jwtbouncer/test/live"
)

// TestGuide runs docs/kubernetes.md, with kustomize and with Helm.
func TestGuide(t *testing.T) {
	guide := live.ReadGuide(t, "kubernetes.md")
	c := cluster(t)
	kubelet := c.StartKubelet(t)
	t.Run("kustomize", func(t *testing.T) { withKustomize(t, c, guide) })
	t.Run("helm", func(t *testing.T) { withHelm(t, c, kubelet, guide) })
}

// clone returns a directory with the repository's manifests and the files that the
// guide tells the reader to write.
func clone(t *testing.T, guide *live.Guide) string {
	t.Helper()
	dir := harness.Dir(t)
	root := filepath.Join(harness.Root(), "k8s")
	require.NoError(t, os.CopyFS(filepath.Join(dir, "k8s"), os.DirFS(root)))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "my"), 0o755))
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		return string(b)
	}
	for name, text := range map[string]string{
		"my/jwt-bouncer.yaml":  read("base/auth-config.yaml"),
		"my/secrets.env":       strings.ReplaceAll(read("components/common/secrets.env"), "CHANGE-ME", "changed"),
		"my/api-token":         guide.Block(t, `(?m)^logout-service `),
		"my/userlist.txt":      "\"jwt_bouncer\" \"the password\"\n",
		"api-token":            guide.Block(t, `(?m)^logout-service `),
		"store-password":       "the password",
		"store-owner-password": "another password",
		"redis-password":       "a third password",
		"my-values.yaml":       guide.Block(t, `^# my-values\.yaml\n`),
	} {
		harness.WriteFile(t, dir, name, text)
	}
	return dir
}

func withKustomize(t *testing.T, c *live.Cluster, guide *live.Guide) {
	t.Helper()
	dir := clone(t, guide)
	at := live.Command{Dir: dir}
	own := kustomization(t, guide.Block(t, `^# my/kustomization\.yaml\n`))
	write := func() {
		b, err := yaml.Marshal(own)
		require.NoError(t, err)
		harness.WriteFile(t, dir, "my/kustomization.yaml", string(b))
	}
	write()
	apply := guide.Block(t, `(?m)^kubectl apply -k my$`)
	c.Run(t, apply, at)
	image := "kubectl -n jwt-bouncer get deployment jwt-bouncer -o jsonpath='{.spec.template.spec.containers[0].image}'"
	assert.Equal(t, "registry.example/jwt-bouncer:0.1.0", c.Run(t, image))

	// A new version: the previous Job has to be deleted first.
	own["images"].([]any)[0].(map[string]any)["newTag"] = "0.2.0"
	write()
	_, err := c.Try(t, apply, at)
	require.ErrorContains(t, err, "field is immutable")
	c.Run(t, inline(t, `kubectl -n jwt-bouncer delete job jwt-bouncer-migrate [^`+"`"+`]*`))
	c.Run(t, apply, at)
	assert.Equal(t, "registry.example/jwt-bouncer:0.2.0", c.Run(t, image))

	// Everything that the guide adds to the kustomization.
	for _, pattern := range []string{`^# for your own servers, added to`, `^# for a fleet, added to`, `^# added to my/kust`, `^# also added to my/kust`} {
		for key, items := range kustomization(t, guide.Block(t, pattern)) {
			list, _ := own[key].([]any)
			own[key] = append(list, items.([]any)...)
		}
	}
	write()
	c.Run(t, "kubectl delete --timeout=120s namespace jwt-bouncer")
	c.Run(t, apply, at)
	c.Run(t, "kubectl -n jwt-bouncer rollout status --timeout=120s deployment/pgbouncer")
	assert.Equal(t, "postgres://jwt_bouncer_owner@db.internal:5432/jwt_bouncer?sslmode=verify-full",
		c.Run(t, "kubectl -n jwt-bouncer get job jwt-bouncer-migrate -o jsonpath='{.spec.template.spec.containers[0].env[0].value}'"))
	assert.Empty(t, c.Run(t, "kubectl -n jwt-bouncer get statefulset -o name"), "the example servers")
	assert.Contains(t, c.Run(t, "kubectl -n jwt-bouncer get networkpolicy jwt-bouncer -o yaml"), "10.20.0.0/16")
	assert.Contains(t, c.Run(t, "kubectl -n jwt-bouncer get podmonitor,prometheusrule -o name"), "prometheusrule")
	c.Run(t, "kubectl delete --timeout=120s namespace jwt-bouncer")
}

func kustomization(t *testing.T, text string) (tree map[string]any) {
	t.Helper()
	require.NoError(t, yaml.Unmarshal([]byte(text), &tree))
	return tree
}

// inline returns the command of the guide's prose that matches.
func inline(t *testing.T, pattern string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "kubernetes.md"))
	require.NoError(t, err)
	found := regexp.MustCompile("`(" + pattern + ")`").FindStringSubmatch(string(b))
	require.NotNil(t, found, "docs/kubernetes.md has no %s", pattern)
	return found[1]
}

func withHelm(t *testing.T, c *live.Cluster, kubelet *live.Kubelet, guide *live.Guide) {
	t.Helper()
	at := live.Command{Dir: clone(t, guide)}
	install := guide.Block(t, `(?m)^helm install `)
	// The guide: from a clone, install k8s/chart and set image.repository.
	install = live.Patch(t, install, "oci://packages.example/charts/jwt-bouncer --version 0.1.0", "k8s/chart --set image.repository=registry.example/jwt-bouncer")
	c.Run(t, install, at)
	state := func() string {
		return c.Run(t, "kubectl -n jwt-bouncer get deployment jwt-bouncer -o jsonpath='{.spec.template.spec.containers[0].image} {.status.readyReplicas}'")
	}
	first := state()
	require.Regexp(t, `^registry\.example/jwt-bouncer:\S+ [1-9]`, first)

	const upgrade = "helm upgrade jwt-bouncer k8s/chart -n jwt-bouncer -f my-values.yaml --set image.repository=registry.example/jwt-bouncer "
	all := "--set image.tag=0.2.0 --set pgbouncer.enabled=true --set monitoring.enabled=true"
	c.Run(t, "kubectl -n jwt-bouncer create secret generic pgbouncer-users --from-file=my/userlist.txt", at)
	c.Run(t, upgrade+all+" --wait --wait-for-jobs --timeout 120s", at)
	require.Regexp(t, `:0\.2\.0 `, state())
	require.Contains(t, c.Run(t, "kubectl -n jwt-bouncer get job -o name"), "jwt-bouncer-migrate-2-", "a Job for each revision")
	c.Run(t, "kubectl -n jwt-bouncer get podmonitor/jwt-bouncer prometheusrule/jwt-bouncer deployment/pgbouncer")

	c.Run(t, "helm rollback jwt-bouncer 1 -n jwt-bouncer --wait --timeout 120s", at)
	require.Equal(t, first, state())
	require.Empty(t, c.Run(t, "kubectl -n jwt-bouncer get deployment pgbouncer --ignore-not-found -o name"))

	// An upgrade whose pods never become ready ends, and is taken back.
	kubelet.Hold("authorizer", true)
	_, err := c.Try(t, upgrade+"--set image.tag=0.3.0 --rollback-on-failure --timeout 5s", at)
	kubelet.Hold("authorizer", false)
	require.Error(t, err)
	require.Equal(t, first, state())

	c.Run(t, "helm uninstall jwt-bouncer -n jwt-bouncer --wait --timeout 120s", at)
	assert.Equal(t, "secret/jwt-bouncer-secrets\nsecret/pgbouncer-users\n",
		c.Run(t, "kubectl -n jwt-bouncer get deployment,job,service,configmap,secret,hpa,pdb,networkpolicy,podmonitor,prometheusrule -o name | grep -v kube-root-ca.crt"))
}
