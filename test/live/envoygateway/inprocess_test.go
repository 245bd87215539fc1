package envoygateway

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
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

// TestInProcess runs the manifests for Envoy Gateway of docs/in-process.md.
func TestInProcess(t *testing.T) {
	guide := live.ReadSection(t, "in-process.md", "### Envoy Gateway")
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t)})
	proxy, rest := inProcess(t, guide, live.NewInProcess(t, rig))
	good := encode(t, proxy)
	g := startGateway(t)
	g.write(t, "proxy.yaml", good)
	g.write(t, "gateway.yaml", rest+backend("", "app", tcp(rig.Upstream.Addr)))
	front := harness.FrontAt(t, nil, listener)
	live.Decisions(t, front, host, rig)
	bearer := func() []string { return []string{"Authorization", "Bearer " + rig.Token(nil)} }

	dump, err := g.admin(t.Context(), "/config_dump")
	require.NoError(t, err)
	assert.Contains(t, strings.ReplaceAll(dump, " ", ""), `"do_not_close":true`)

	// want waits until requests without and with a token have these statuses.
	want := func(t *testing.T, without, with int) {
		t.Helper()
		harness.Eventually(t, 2*time.Minute, "the Gateway has the change", func(ctx context.Context) error {
			none, err := front.DoAs(ctx, host, http.MethodGet, "/orders")
			if err != nil {
				return err
			}
			good, err := front.DoAs(ctx, host, http.MethodGet, "/orders", bearer()...)
			if err == nil && (none.Status != without || good.Status != with) {
				err = fmt.Errorf("status %d and %d: %s", none.Status, good.Status, good.Body)
			}
			return err
		})
	}

	t.Run("a policy of a route", func(t *testing.T) {
		policy := func(merge string) string {
			return `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: app}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app}]
  lua: [{type: Inline, inline: "function envoy_on_response(handle) handle:headers():add('x-lua', 'yes') end"}]
` + merge
		}
		g.write(t, "route.yaml", policy(""))
		harness.Eventually(t, 2*time.Minute, "the policy of the route is in place", func(ctx context.Context) error {
			r, err := front.DoAs(ctx, host, http.MethodGet, "/orders")
			if err == nil && r.Header.Get("X-Lua") != "yes" {
				err = fmt.Errorf("status %d", r.Status)
			}
			if err == nil {
				// If this fails, Envoy Gateway merges by itself, and the guide need not warn.
				assert.Equal(t, http.StatusOK, r.Status)
			}
			return err
		})
		g.write(t, "route.yaml", policy("  mergeType: StrategicMerge\n"))
		want(t, http.StatusUnauthorized, http.StatusOK)
		r, err := front.DoAs(t.Context(), host, http.MethodGet, "/orders", bearer()...)
		require.NoError(t, err)
		assert.Equal(t, "yes", r.Header.Get("X-Lua"))
		g.remove(t, "route.yaml")
	})

	t.Run("not allowed", func(t *testing.T) {
		g.write(t, "proxy.yaml", live.Patch(t, good, "name: jwt-bouncer\n", "name: another\n"))
		want(t, http.StatusInternalServerError, http.StatusInternalServerError)
		g.write(t, "proxy.yaml", good)
		want(t, http.StatusUnauthorized, http.StatusOK)
	})

	// Envoy refuses the listener, and goes on with the one that it has.
	t.Run("no library", func(t *testing.T) {
		refused, err := g.refusals(t.Context())
		require.NoError(t, err)
		g.write(t, "proxy.yaml", live.Patch(t, good, "libjwt_bouncer.so", "nothing.so"))
		g.awaitRefusal(t, refused)
		want(t, http.StatusUnauthorized, http.StatusOK)
	})
}

// TestInProcessWithoutLibrary: an Envoy that never had the library does not serve.
func TestInProcessWithoutLibrary(t *testing.T) {
	guide := live.ReadSection(t, "in-process.md", "### Envoy Gateway")
	upstream := harness.Upstream(t)
	g := startGateway(t)
	proxy, rest := inProcess(t, guide, live.InProcess{Library: "/nonexistent/libjwt_bouncer.so", Config: "/nonexistent/config.yaml"})
	g.write(t, "proxy.yaml", encode(t, proxy))
	g.write(t, "gateway.yaml", rest+backend("", "app", tcp(upstream.Addr)))
	g.awaitRefusal(t, 0)
	_, err := harness.FrontAt(t, nil, listener).DoAs(t.Context(), host, http.MethodGet, "/healthz")
	require.Error(t, err, "the listener is open")
	require.Zero(t, upstream.Calls.Load())
}

// inProcess returns the guide's EnvoyProxy, for a Gateway without Kubernetes, and the
// rest of the manifests: the guide's, with the class and the route of the overlay. Envoy
// Gateway reads one EnvoyProxy from a file.
func inProcess(t *testing.T, guide *live.Guide, p live.InProcess) (proxy map[string]any, rest string) {
	t.Helper()
	block := p.Paths(t, guide.Block(t, `kind: EnvoyExtensionPolicy\nmetadata`))
	block = live.Patch(t, block, "listeners: [{name: http, protocol: HTTP, port: 80}]", "listeners: [{name: http, protocol: HTTP, port: 10080}]")
	for _, text := range strings.Split(block, "\n---\n") {
		if tree := decode(t, text); tree["kind"] != "EnvoyProxy" {
			rest += "---\n" + text + "\n"
		} else {
			proxy = tree
		}
	}
	require.NotNil(t, proxy)
	proxy["spec"].(map[string]any)["provider"] = map[string]any{"type": "Host", "host": map[string]any{"envoyVersion": envoyVersion}}
	for _, text := range strings.Split(withoutKubernetes(t, func(string) string { return "" }), "\n---\n") {
		if strings.TrimSpace(text) != "" && decode(t, text)["kind"] != "Gateway" {
			rest += "---\n" + text + "\n"
		}
	}
	return proxy, rest
}

func encode(t *testing.T, tree map[string]any) string {
	t.Helper()
	b, err := yaml.Marshal(tree)
	require.NoError(t, err)
	return string(b)
}

// admin returns the reply of Envoy's admin port. Envoy Gateway leaves its address in a
// file.
func (g *gateway) admin(ctx context.Context, path string) (string, error) {
	address, err := os.ReadFile(g.adminFile())
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.TrimSpace(string(address))+path, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func (g *gateway) adminFile() (path string) {
	_ = filepath.WalkDir(g.dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Base(p) == "admin-address.txt" {
			path = p
		}
		return nil
	})
	return path
}

// awaitRefusal waits until Envoy has refused more than n updates of its listeners.
func (g *gateway) awaitRefusal(t *testing.T, n int) {
	t.Helper()
	harness.Eventually(t, 2*time.Minute, "Envoy refuses the listener", func(ctx context.Context) error {
		now, err := g.refusals(ctx)
		if err == nil && now <= n {
			err = fmt.Errorf("%d refusals", now)
		}
		return err
	})
}

func (g *gateway) refusals(ctx context.Context) (n int, err error) {
	const name = "listener_manager.lds.update_rejected"
	text, err := g.admin(ctx, "/stats?filter=^"+name+"$")
	if err != nil {
		return 0, err
	}
	if _, err = fmt.Sscanf(text, name+": %d", &n); err != nil {
		return 0, fmt.Errorf("%q: %w", text, err)
	}
	return n, nil
}
