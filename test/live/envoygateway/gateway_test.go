package envoygateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
	"jwtbouncer/test/live"
)

func TestMain(m *testing.M) { live.Main(m) }

const (
	listener = "127.0.0.1:10080"
	host     = "app.example" // of the overlay's HTTPRoute
)

// TestGuide runs the manifests of docs/envoy-gateway.md.
func TestGuide(t *testing.T) {
	guide := live.ReadGuide(t, "envoy-gateway.md")
	for name, run := range map[string]func(*testing.T, *live.Guide){"over TCP": overTCP, "over a Unix socket": overUnixSocket, "another namespace": anotherNamespace} {
		t.Run(name, func(t *testing.T) { run(t, guide) })
	}
}

// overTCP: the overlay's Gateway with the guide's SecurityPolicy.
func overTCP(t *testing.T, guide *live.Guide) {
	t.Helper()
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t)})
	g := startGateway(t)
	g.write(t, "overlay.yaml", overlay(t, guide))
	g.write(t, "backends.yaml", backend("", "app", tcp(rig.Upstream.Addr))+backend("", "jwt-bouncer", tcp(rig.Bouncer.GRPC)))
	live.Requests(t, harness.FrontAt(t, nil, listener), host, rig)
	paths(t, rig)
}

// overUnixSocket: the same, with jwt-bouncer beside the data plane.
func overUnixSocket(t *testing.T, guide *live.Guide) {
	t.Helper()
	socket := filepath.Join(harness.Dir(t), "authz.sock")
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t), Bouncer: harness.BouncerOptions{GRPC: "unix://" + socket}})
	g := startGateway(t)
	g.write(t, "overlay.yaml", overlay(t, guide))
	g.write(t, "backends.yaml", backend("", "app", tcp(rig.Upstream.Addr))+backend("", "jwt-bouncer", "{unix: {path: "+socket+"}}"))
	live.Requests(t, harness.FrontAt(t, nil, listener), host, rig)
}

// anotherNamespace: a Gateway in another namespace than jwt-bouncer's lets no request
// through while no ReferenceGrant allows it to ask. That the guide's ReferenceGrant
// does cannot be seen here: without Kubernetes, Envoy Gateway 1.9.1 does not know the
// kind of its policies, so no grant matches. test/live/kubernetes has an API server
// accept it.
func anotherNamespace(t *testing.T, guide *live.Guide) {
	t.Helper()
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t)})
	manifests := overlay(t, guide)
	for _, name := range []string{"{name: ingress}", "{name: app}", "{name: jwt-bouncer}"} {
		manifests = strings.ReplaceAll(manifests, "\nmetadata: "+name, "\nmetadata: "+strings.Replace(name, "}", ", namespace: ingress}", 1))
	}
	manifests = live.Patch(t, manifests, "kind: Backend, name: jwt-bouncer}", "kind: Backend, name: jwt-bouncer, namespace: jwt-bouncer}")
	g := startGateway(t)
	g.write(t, "overlay.yaml", manifests)
	g.write(t, "backends.yaml", backend("ingress", "app", tcp(rig.Upstream.Addr))+backend("jwt-bouncer", "jwt-bouncer", tcp(rig.Bouncer.GRPC)))
	front := harness.FrontAt(t, nil, listener)
	token := rig.Token(nil)
	harness.Eventually(t, 2*time.Minute, "the Gateway refuses requests", func(ctx context.Context) error {
		r, err := front.DoAs(ctx, host, http.MethodGet, "/orders", "Authorization", "Bearer "+token)
		if err == nil && r.Status == http.StatusOK {
			t.Fatal("a request passed without a check")
		}
		if err == nil && r.Status != http.StatusInternalServerError {
			err = fmt.Errorf("status %d: %s", r.Status, r.Body)
		}
		return err
	})
	require.Zero(t, rig.Upstream.Calls.Load())
	guide.Block(t, `kind: ReferenceGrant`)
}

// paths: the upstream receives the path and the headers that were checked.
func paths(t *testing.T, rig *harness.Rig) {
	t.Helper()
	front := harness.FrontAt(t, nil, listener)
	bearer := []string{"Authorization", "Bearer " + rig.Token(nil)}
	for name, request := range map[string][]string{"/a%2Fb": bearer, "/orders": append(bearer, "x_jwt_sub", "admin")} {
		r, err := front.DoAs(t.Context(), host, http.MethodGet, name, request...)
		require.NoError(t, err)
		assert.Equal(t, http.StatusBadRequest, r.Status, "%s %v", name, request[2:])
	}
}

// overlay returns the manifests of the overlay for Envoy Gateway with the guide's
// SecurityPolicy, changed for a Gateway without Kubernetes.
func overlay(t *testing.T, g *live.Guide) string {
	t.Helper()
	text := withoutKubernetes(t, func(overlays string) string {
		policy := g.Block(t, `kind: SecurityPolicy\nmetadata`)
		assert.Equal(t, decode(t, overlays), decode(t, policy), "the overlay's SecurityPolicy (expected) and the guide's (actual)")
		return policy
	})
	return live.Patch(t, text, "backendRefs: [{name: jwt-bouncer, port: 9191}]", "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: jwt-bouncer}]")
}

// withoutKubernetes returns the manifests of the overlay for Envoy Gateway with another
// SecurityPolicy, changed for a Gateway without Kubernetes: it has no Services, so they
// become Backends; it runs the harness's Envoy; and that may not bind port 80.
func withoutKubernetes(t *testing.T, securityPolicy func(overlays string) string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "k8s", "overlays", "envoy-gateway", "gateway.yaml"))
	require.NoError(t, err)
	documents := strings.Split(string(b), "\n---\n")
	replaced := 0
	for i, d := range documents {
		if strings.Contains(d, "\nkind: SecurityPolicy\n") {
			documents[i] = securityPolicy(d)
			replaced++
		}
	}
	require.Equal(t, 1, replaced)
	text := strings.Join(documents, "\n---\n")
	text = live.Patch(t, text, "listeners: [{name: http, protocol: HTTP, port: 80}]", "listeners: [{name: http, protocol: HTTP, port: 10080}]")
	text = live.Patch(t, text, "backendRefs: [{name: app, port: 80}]", "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: app}]")
	text = live.Patch(t, text, "spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}",
		"spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller, parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: host, namespace: envoy-gateway-system}}")
	return text + `
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: host, namespace: envoy-gateway-system}
spec: {provider: {type: Host, host: {envoyVersion: ` + envoyVersion + `}}}
`
}

func decode(t *testing.T, text string) (tree map[string]any) {
	t.Helper()
	require.NoError(t, yaml.Unmarshal([]byte(text), &tree))
	return tree
}

func backend(namespace, name, endpoint string) string {
	if namespace != "" {
		namespace = ", namespace: " + namespace
	}
	return fmt.Sprintf("---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {name: %s%s}\nspec: {endpoints: [%s]}\n", name, namespace, endpoint)
}

func tcp(addr string) string {
	ip, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("{ip: {address: %s, port: %s}}", ip, port)
}

// gateway is an Envoy Gateway that reads manifests from a directory and starts Envoy
// itself.
type gateway struct{ dir, manifests string }

// envoyVersion names the directory from which Envoy Gateway takes Envoy, so that it
// downloads none.
const envoyVersion = "1.40.0"

func startGateway(t *testing.T) *gateway {
	t.Helper()
	path := harness.LivePath(t, "envoy-gateway")
	dir := harness.Dir(t)
	g := &gateway{dir: dir, manifests: dir + "/manifests"}
	bin := fmt.Sprintf("%s/data/envoy-versions/%s/bin", dir, envoyVersion)
	for _, d := range []string{g.manifests, bin} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	envoy, err := harness.EnvoyPath()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(envoy, bin+"/envoy"))
	require.NoError(t, exec.CommandContext(t.Context(), "chmod", "-R", "a+rwX", dir).Run()) // the gateway may run as another user
	certgen := harness.Server(t, harness.ServerOptions{Name: "certgen", Path: path, Dir: dir, Args: []string{"certgen", "--local", "--config-home", dir + "/config"}})
	code, err := certgen.ExitCode(time.Minute)
	require.NoError(t, err)
	require.Zerof(t, code, "%s", certgen.Log())
	harness.Server(t, harness.ServerOptions{Name: "envoy-gateway", Path: path, Dir: dir, Stop: 20 * time.Second,
		Args: []string{"server", "--config-path", harness.WriteFile(t, dir, "envoy-gateway.yaml", fmt.Sprintf(`
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
extensionApis: {enableBackend: true, enableLua: true}
provider:
  type: Custom
  custom:
    resource: {type: File, file: {paths: [%q]}}
    infrastructure: {type: Host, host: {configHome: %[2]s/config, dataHome: %[2]s/data, stateHome: %[2]s/state, runtimeDir: %[2]s/run}}
`, g.manifests, dir))}})
	return g
}

// remove takes a file of manifests away.
func (g *gateway) remove(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.Remove(filepath.Join(g.manifests, name)))
}

// write gives the gateway a file of manifests, in one step.
func (g *gateway) write(t *testing.T, name, text string) {
	t.Helper()
	next := harness.WriteFile(t, filepath.Dir(g.manifests), name, text)
	require.NoError(t, os.Rename(next, filepath.Join(g.manifests, name)))
}
