package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/docs/fence"
	"jwtbouncer/test/harness"
	"jwtbouncer/test/live"
)

// cluster starts a cluster that knows every kind of the manifests: those of the
// Gateway API, Envoy Gateway, Istio and the Prometheus Operator.
func cluster(t *testing.T) *live.Cluster {
	t.Helper()
	c := live.NewCluster(t)
	c.ApplyCRDs(t,
		filepath.Join(live.ModuleDir(t, "envoy-gateway", "sigs.k8s.io/gateway-api"), "config", "crd", "standard"),
		filepath.Join(live.ModuleDir(t, "envoy-gateway", "github.com/envoyproxy/gateway"), "charts", "gateway-crds-helm", "templates", "generated"),
		filepath.Join(live.ModuleDir(t, "istio", "istio.io/api"), "kubernetes", "customresourcedefinitions.gen.yaml"),
		filepath.Join(harness.Root(), ".tools", "live", "crds"))
	return c
}

// TestOverlays applies every overlay, with the components that no overlay includes,
// server-side to a namespace of its own making; a second time, which must change
// nothing; waits until it is rolled out; and deletes it.
func TestOverlays(t *testing.T) {
	c := cluster(t)
	c.StartKubelet(t)
	// Of the installation of Istio.
	c.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n")
	dirs, err := filepath.Glob(filepath.Join(harness.Root(), "k8s", "overlays", "*"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(dirs), 5)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) { applyOverlay(t, c, dir) })
	}
	// Envoy Gateway's own test has no pods, whose template this has.
	t.Run("in process", func(t *testing.T) {
		c.Apply(t, live.ReadSection(t, "in-process.md", "### Envoy Gateway").Block(t, `kind: EnvoyExtensionPolicy`))
	})
	// Envoy Gateway's own test cannot apply the grant of its guide.
	t.Run("grant", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "envoy-gateway.md"))
		require.NoError(t, err)
		c.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: jwt-bouncer}\n")
		applied := 0
		for _, b := range fence.Blocks(string(text)) {
			if strings.Contains(b.Text, "kind: ReferenceGrant") {
				c.Apply(t, b.Text)
				applied++
			}
		}
		require.Equal(t, 1, applied)
	})
}

func applyOverlay(t *testing.T, c *live.Cluster, dir string) {
	t.Helper()
	mine := harness.Dir(t)
	require.NoError(t, os.CopyFS(filepath.Join(mine, "k8s"), os.DirFS(filepath.Join(harness.Root(), "k8s"))))
	harness.WriteFile(t, mine, "kustomization.yaml", `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [k8s/overlays/`+filepath.Base(dir)+`]
components: [k8s/components/monitoring, k8s/components/pgbouncer]
secretGenerator: [{name: pgbouncer-users, namespace: jwt-bouncer, literals: [userlist.txt=a]}]
generatorOptions: {disableNameSuffixHash: true}
`)
	const apply = "kubectl apply --server-side --validate=strict --warnings-as-errors -k ."
	at := live.Command{Dir: mine}
	c.Run(t, apply, at)
	c.Run(t, "kubectl diff --server-side -k .", at) // fails if a second apply would change anything
	c.Run(t, apply, at)
	c.Run(t, "kubectl -n jwt-bouncer wait --for=condition=complete --timeout=120s job --all")
	c.Run(t, "for d in $(kubectl -n jwt-bouncer get deployment,statefulset -o name); do kubectl -n jwt-bouncer rollout status --timeout=120s $d; done")
	c.Run(t, "kubectl delete --wait --timeout=120s -k .", at)
}
