package live

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// Cluster is a Kubernetes API server with its etcd and its controllers. It has no
// nodes: a Kubelet of this package says that pods run.
type Cluster struct {
	URL        string
	Kubeconfig string

	client *http.Client
}

const adminToken = "live-tests-administrator"

// NewCluster starts etcd, kube-apiserver with its default admission plugins and RBAC,
// and kube-controller-manager.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	dir := harness.Dir(t)
	etcd, peers := fmt.Sprintf("http://127.0.0.1:%d", harness.Port(t)), fmt.Sprintf("http://127.0.0.1:%d", harness.Port(t))
	harness.Server(t, harness.ServerOptions{Name: "etcd", Path: harness.LivePath(t, "etcd"), Dir: dir,
		Args: []string{"--data-dir", dir + "/etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
			"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default=" + peers, "--log-level", "warn"},
		Ready: func(ctx context.Context) error { return harness.GetOK(ctx, etcd+"/health") }})

	port := harness.Port(t)
	c := &Cluster{URL: fmt.Sprintf("https://127.0.0.1:%d", port)}
	// The server's certificate is made by itself.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	t.Cleanup(transport.CloseIdleConnections)
	c.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	tokens := harness.WriteFile(t, dir, "tokens.csv", adminToken+",admin,admin,system:masters\n")
	key := serviceAccountKey(t, dir)
	harness.Server(t, harness.ServerOptions{Name: "kube-apiserver", Path: harness.LivePath(t, "kube-apiserver"), Dir: dir, Stop: 30 * time.Second,
		Args: []string{"--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port), "--cert-dir", dir + "/certificates",
			"--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none",
			"--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC", "--token-auth-file", tokens,
			"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key,
			"--enable-priority-and-fairness=false"},
		Ready: func(ctx context.Context) error { return c.get(ctx, "/readyz", nil) }})

	c.Kubeconfig = harness.WriteFile(t, dir, "kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: live
contexts: [{name: live, context: {cluster: live, user: admin}}]
clusters: [{name: live, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: %s}}]
`, c.URL, adminToken))
	managerPort := harness.Port(t)
	harness.Server(t, harness.ServerOptions{Name: "kube-controller-manager", Path: harness.LivePath(t, "kube-controller-manager"), Dir: dir,
		Args: []string{"--kubeconfig", c.Kubeconfig, "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(managerPort), "--cert-dir", dir + "/manager",
			"--service-account-private-key-file", key, "--leader-elect=false", "--authorization-always-allow-paths=/healthz", "--horizontal-pod-autoscaler-sync-period=1s"},
		// Namespaces get their service account when the controllers run.
		Ready: func(ctx context.Context) error {
			return c.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
		}})
	return c
}

// serviceAccountKey writes a new key that signs service accounts' tokens.
func serviceAccountKey(t testing.TB, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	return harness.WriteFile(t, dir, "service-account.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

// get requests a path of the API and decodes the reply into out unless it is nil.
func (c *Cluster) get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, "", out)
}

// do sends a request to the API server. A body is a strategic merge patch.
func (c *Cluster) do(ctx context.Context, method, path, body string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.500s", method, path, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// Command is a shell command with kubectl, helm and the cluster's kubeconfig.
type Command struct {
	Dir   string // working directory; empty means the repository's root
	Stdin string
}

// Run runs a command with `bash -euo pipefail` and returns its standard output. The
// test fails unless the command succeeds.
func (c *Cluster) Run(t testing.TB, command string, options ...Command) string {
	t.Helper()
	out, err := c.Try(t, command, options...)
	require.NoErrorf(t, err, "%s", command)
	return out
}

// Try is Run; it returns an error, with the standard error, if the command fails.
func (c *Cluster) Try(t testing.TB, command string, options ...Command) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir = harness.Root()
	if len(options) > 0 {
		if options[0].Dir != "" {
			cmd.Dir = options[0].Dir
		}
		cmd.Stdin = strings.NewReader(options[0].Stdin)
	}
	tools := filepath.Dir(harness.LivePath(t, "kubectl"))
	cmd.Env = []string{"PATH=" + tools + ":/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "HOME=" + filepath.Dir(c.Kubeconfig), "KUBECONFIG=" + c.Kubeconfig, "TZ=UTC"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w\n%s%s", err, out.String(), errs.String())
	}
	if errs.Len() > 0 {
		t.Logf("%s\n%s", command, errs.String())
	}
	return out.String(), nil
}

// Apply applies manifests server-side, as `kubectl apply` does with validation; a
// warning of the server is an error.
func (c *Cluster) Apply(t testing.TB, manifests string) {
	t.Helper()
	c.Run(t, "kubectl apply --server-side --validate=strict --warnings-as-errors -f -", Command{Stdin: manifests})
}

// ModuleDir returns the directory of a Go module that one of the tools requires.
func ModuleDir(t testing.TB, tool, module string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-mod=mod", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = filepath.Join(harness.Root(), "test", "live", "tools", tool)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoErrorf(t, err, "%s", errs.String())
	dir := strings.TrimSpace(string(out))
	_, err = os.Stat(dir)
	require.NoErrorf(t, err, "%s is not in the module cache", module)
	return dir
}

// ApplyCRDs applies the custom resource definitions of files, or of all YAML files of
// directories. In Envoy Gateway's chart, whole files are in one condition of a
// template; those lines are left out.
func (c *Cluster) ApplyCRDs(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		files := []string{path}
		if more, _ := filepath.Glob(filepath.Join(path, "*.yaml")); len(more) > 0 {
			files = more
		}
		var manifests strings.Builder
		for _, file := range files {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			manifests.WriteString("\n---\n" + templateLine.ReplaceAllString(string(b), ""))
		}
		c.Run(t, "kubectl apply --server-side -f -", Command{Stdin: manifests.String()})
	}
	c.Run(t, "kubectl wait --for condition=established --timeout=60s crd --all")
}

var templateLine = regexp.MustCompile(`(?m)^\{\{.*\}\}\n`)
