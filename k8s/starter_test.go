package k8s

import (
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// starterManifests are the directories that `jwt-bouncer init` writes. The
// product's module cannot embed files of this one, so it has copies.
var starterManifests = []string{"base", "components/common", "components/redis", "components/postgres", "components/network-policy", "overlays/shared", "overlays/istio", "overlays/envoy-gateway"}

// TestStarterManifests: the copies that init writes are current. With -update the
// test writes them.
func TestStarterManifests(t *testing.T) {
	t.Parallel()
	const copies = "../envoy/starter/manifests"
	want := map[string]string{}
	for _, dir := range starterManifests {
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(dir, f.Name()))
			require.NoError(t, err)
			want[filepath.Join(dir, f.Name())] = string(text)
		}
	}
	if *update {
		require.NoError(t, os.RemoveAll(copies))
		for name, text := range want {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(copies, name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(copies, name), []byte(text), 0o644))
		}
	}
	got := map[string]string{}
	require.NoError(t, filepath.WalkDir(copies, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, copies+"/")] = string(text)
		return err
	}))
	assert.Empty(t, cmp.Diff(want, got), "the copies differ from k8s (-); run the test with -update")
}

// provider serves discovery and keys as https://example.com/realms/shop. It
// returns init's flags that reach it from a place where that name leads elsewhere.
func provider(t *testing.T) []string {
	t.Helper()
	const issuer = "https://example.com/realms/shop"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /realms/shop/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":%[1]q,"jwks_uri":"%[1]s/keys","token_endpoint":"%[1]s/protocol/openid-connect/token",
			"id_token_signing_alg_values_supported":["RS256","HS256"],"backchannel_logout_supported":true}`, issuer)
	})
	mux.HandleFunc("GET /realms/shop/keys", func(w http.ResponseWriter, _ *http.Request) {
		// RFC 8037, appendix A.2.
		_, _ = io.WriteString(w, `{"keys":[{"kid":"a","use":"sig","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil || r.Method != http.MethodConnect || r.Host != "example.com:443" {
			http.Error(w, fmt.Sprint(r.Method, r.Host, err), http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, early, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, early); _ = to.Close() }() // what the client has sent already lies in its buffer
		_, _ = io.Copy(from, to)
	}))
	t.Cleanup(proxy.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return []string{"init", "--issuer", issuer, "--audience", "api", "--ca", ca, "--proxy", proxy.URL}
}

// initialize runs init and returns its directory.
func initialize(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := product()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "my")
	cmd := exec.CommandContext(t.Context(), bin, append(append(provider(t), "--dir", dir), args...)...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	assert.Contains(t, string(out), "is Keycloak.")
	return dir
}

// The overlays that init writes build, are valid, and contain the configuration
// for the provider and secrets of their own.
func TestInitOverlays(t *testing.T) {
	t.Parallel()
	for target, policy := range map[string]string{"istio": "AuthorizationPolicy/jwt-bouncer", "envoy-gateway": "SecurityPolicy/jwt-bouncer"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			dir := initialize(t, "--for", target, "--image", "registry.example:5000/jwt-bouncer:1.2.3", "--client", "shop")
			resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
			require.NoError(t, err)
			text, err := resources.AsYaml()
			require.NoError(t, err)
			objects, err := split(text)
			require.NoError(t, err)
			require.NoError(t, check(objects))
			find(t, objects, policy)
			assert.Contains(t, string(find(t, objects, "Deployment/jwt-bouncer").text), "image: registry.example:5000/jwt-bouncer:1.2.3")
			config := string(find(t, objects, "ConfigMap/auth-config").text)
			assert.Contains(t, config, "issuer: https://example.com/realms/shop")
			assert.Contains(t, config, "logout: {audiences: [shop]}")
			assert.Contains(t, config, "ca.pem: |")
			v, err := schema(find(t, objects, "Secret/jwt-bouncer-secrets"))
			require.NoError(t, err)
			seen := map[string]bool{}
			for key, secret := range v.(*corev1.Secret).Data {
				assert.NotContains(t, string(secret), "CHANGE-ME", key)
				assert.GreaterOrEqual(t, len(secret), 26, key)
				seen[string(secret)] = true
			}
			assert.Len(t, seen, 4, "each secret is another")
			for _, name := range []string{"secrets.env", "api-token"} {
				info, err := os.Stat(filepath.Join(dir, name))
				require.NoError(t, err)
				assert.Equal(t, fs.FileMode(0o600), info.Mode(), name)
			}
		})
	}
}

// The compose file that init writes loads, and Envoy and the product accept the
// configurations beside it.
func TestInitCompose(t *testing.T) {
	t.Parallel()
	dir := initialize(t, "--for", "compose", "--upstream", "app:8000")
	require.NoError(t, compose(t.Context(), filepath.Join(dir, "docker-compose.yml")))
}
