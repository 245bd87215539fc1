package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/envoy/filter"
	"jwtbouncer/test/harness"
)

// These tests run the product in Envoy's own process, where a defect is one of the
// proxy. docs/in-process.md says what each of them shows.

var stormTime = flag.Duration("module-storm", 5*time.Second, "how long TestModuleListenerUpdate lasts")

const bodySize = 100 << 10

// post sends POST / with a body and the token, if there is one.
func post(t *testing.T, f *harness.Front, token string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/", bytes.NewReader(make([]byte, bodySize)))
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestModule decides on the worker thread (replica on) and in the background (replica
// off: every request asks the store). A denied POST never reaches the upstream: while a
// decision is pending, the body must wait as well.
func TestModule(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	for name, lookup := range map[string]bool{"at once": false, "waiting": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := harness.NewRig(t, harness.RigOptions{Module: true, Lookup: lookup, Config: "headers: {claims: {x-jwt-sub: sub}}\n"})
			revoked, good := r.Token(map[string]any{"jti": "gone"}), r.Token(map[string]any{"sub": "alice"})
			r.Front.AwaitStatus(t, good, 200, 20*time.Second)
			r.Revoke(t, map[string]any{"jti": "gone"})

			denied := r.Front.Bearer(t, revoked)
			assert.Equal(t, 401, denied.Status)
			assert.Contains(t, denied.Header.Get("Www-Authenticate"), `error="invalid_token"`)
			assert.Equal(t, "application/problem+json", denied.Header.Get("Content-Type"))
			calls := r.Upstream.Calls.Load()
			for range 20 {
				assert.Equal(t, 401, post(t, r.Front, revoked), "a revoked token")
				assert.Equal(t, 401, post(t, r.Front, ""), "no token")
			}
			assert.Equal(t, calls, r.Upstream.Calls.Load(), "a denied request reached the upstream")
			assert.Equal(t, 200, post(t, r.Front, good))

			reply := r.Front.Get(t, "Authorization", "Bearer "+good, "X-Jwt-Sub", "root", "x_jwt_sub", "root")
			if assert.NotNil(t, reply.Upstream, reply.Body) {
				assert.Equal(t, []string{"alice"}, reply.Upstream.Header["X-Jwt-Sub"])
			}
			panicked := r.Front.Get(t, "Authorization", "Bearer "+good, "X-Harm", "panic")
			assert.Equal(t, 503, panicked.Status, "a panic in a decision")
			assert.Equal(t, 200, r.Front.Bearer(t, good).Status, "after a panic")
			endsCleanly(t, r.Front)
		})
	}
}

// endsCleanly sends SIGTERM and expects Envoy to exit with 0.
func endsCleanly(t *testing.T, f *harness.Front) {
	t.Helper()
	require.NoError(t, f.Signal(syscall.SIGTERM))
	code, err := f.ExitCode(30 * time.Second)
	require.NoError(t, err)
	assert.Equal(t, 0, code, "exit code of Envoy:\n%s", f.Log())
}

// TestModuleStoreAway: without proof the module denies with 503.
func TestModuleStoreAway(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	r := harness.NewRig(t, harness.RigOptions{Module: true, Postgres: true, Faults: true, Lookup: true})
	token := r.Token(nil)
	r.Front.AwaitStatus(t, token, 200, 20*time.Second)
	r.PGProxy.Down()
	r.Front.AwaitStatus(t, token, 503, 20*time.Second)
	assert.Equal(t, 503, post(t, r.Front, token))
	r.PGProxy.Heal()
	r.Front.AwaitStatus(t, token, 200, 30*time.Second)
}

// abort opens n connections one after another, each with a request whose decision has
// to wait, and closes them at once. It stops early when ctx ends.
func abort(ctx context.Context, addr, token string, n int) (aborted int) {
	for ; aborted < n && ctx.Err() == nil; aborted++ {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return aborted
		}
		_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Length: 9\r\n\r\n", token)
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	return aborted
}

// TestModuleAborts: clients leave while their decisions are pending, until the last
// moment of the process. The scheduler of a stream is not used after the stream.
func TestModuleAborts(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	r := harness.NewRig(t, harness.RigOptions{Module: true, Lookup: true})
	token := r.Token(nil)
	r.Front.AwaitStatus(t, token, 200, 20*time.Second)
	addr := strings.TrimPrefix(r.Front.URL, "http://")
	abort(t.Context(), addr, token, 300)
	r.Front.AwaitStatus(t, token, 200, 20*time.Second)
	harness.Eventually(t, 20*time.Second, "no request is left behind", func(context.Context) error {
		for name, n := range r.Front.Stats(t, "downstream_rq_active") {
			if strings.Contains(name, "http.front.") && n > 0 {
				return fmt.Errorf("%s: %d", name, n)
			}
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { abort(ctx, addr, token, 1<<20) })
	}
	endsCleanly(t, r.Front)
	cancel()
	wg.Wait()
}

// TestModuleConfigurations: a process has one configuration file, validation starts
// nothing, and a fault is refused with our words.
func TestModuleConfigurations(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	issuer := authztest.NewIssuer(authztest.Named("https://issuer.example"))
	t.Cleanup(issuer.Close)
	o, dir := harness.ModuleEnvoy(t), harness.Dir(t)
	write := func(name, text string) string { return harness.WriteFile(t, dir, name, text) }
	db := filepath.Join(dir, "revocations.db")
	good := "issuers: [{issuer: 'https://issuer.example', audiences: [api], jwks: 'http://127.0.0.1:9/keys'}]\nstore: sqlite://" + db + "\nlisten: {http: ''}\n"
	one, other, bad := write("one.yaml", good), write("other.yaml", good), write("bad.yaml", good+"isuers: []\n")

	require.NoError(t, harness.ValidateEnvoy(t, moduleListeners(one), o))
	_, err := os.Stat(db)
	require.ErrorIs(t, err, os.ErrNotExist, "--mode validate has created the store")
	require.ErrorContains(t, harness.ValidateEnvoy(t, moduleListeners(bad), o), "isuers")
	require.Error(t, harness.ValidateEnvoy(t, moduleListeners("relative.yaml"), o))

	_, err = harness.TryEnvoy(t, moduleListeners(one, other), o)
	require.ErrorContains(t, err, "a process has one configuration file")
	_, err = harness.TryEnvoy(t, moduleListeners(bad), o)
	require.ErrorContains(t, err, "isuers")
	e := harness.Envoy(t, moduleListeners(one, one), o)
	assert.Equal(t, 503, harness.FrontOf(t, e, "listener-1").Bearer(t, issuer.Mint(nil)).Status, "not ready")
}

// moduleListeners is a bootstrap configuration with a listener for each configuration
// file, and no upstream.
func moduleListeners(files ...string) string {
	text := "static_resources:\n  listeners:\n"
	for i, file := range files {
		text += moduleListener(fmt.Sprintf("listener-%d", i), harness.ModuleFilter(file), "0")
	}
	return text
}

func moduleListener(name, filters, port string) string {
	return fmt.Sprintf(`  - name: %s
    address: {socket_address: {address: 127.0.0.1, port_value: %s}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters: [%s, {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`, name, port, filters)
}

// TestModuleRemote pins why docs/in-process.md forbids remote sources of the library: if
// Envoy cannot fetch it, it serves without the filter.
func TestModuleRemote(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	const remote = `{name: envoy.filters.http.dynamic_modules, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter, filter_name: jwt_bouncer,
          dynamic_module_config: {module: {remote: {sha256: '0000000000000000000000000000000000000000000000000000000000000000', http_uri: {uri: "http://127.0.0.1:9/lib.so", cluster: nowhere, timeout: 1s}, retry_policy: {num_retries: 0}}}}}}`
	e := harness.Envoy(t, "static_resources:\n  clusters: [{name: nowhere, connect_timeout: 1s, load_assignment: {cluster_name: nowhere, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}}]}]}}]\n  listeners:\n"+
		moduleListener("front", remote, "0"), harness.ModuleEnvoy(t))
	assert.Equal(t, 200, harness.FrontOf(t, e, "front").Get(t).Status, "Envoy now refuses: docs/in-process.md may allow remote sources")
}

// TestModuleABI: the module refuses an Envoy with callbacks that no tested Envoy has,
// unless it is told otherwise, and one that lacks what it needs in any case.
func TestModuleABI(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	o := harness.ModuleEnvoy(t)
	path := harness.ModuleEnvoyPath(t)
	require.NotEmpty(t, harness.ModuleEnvoyVersion(t), "it is a tested one")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	dir := harness.Dir(t)
	config := moduleListeners(harness.WriteFile(t, dir, "config.yaml", "issuers: [{issuer: 'https://issuer.example', audiences: [api], jwks: 'http://127.0.0.1:9/keys'}]\nstore: sqlite://"+dir+"/revocations.db\nlisten: {http: ''}\n"))
	// without returns an Envoy that has one callback under another name, with more environment.
	without := func(callback string, more ...string) harness.EnvoyOptions {
		name := []byte("\x00envoy_dynamic_module_callback_" + callback + "\x00")
		changed := bytes.ReplaceAll(text, name, append(name[:len(name)-2:len(name)-2], "Y\x00"...))
		require.NotEqual(t, text, changed, callback)
		o := o
		o.Binary = filepath.Join(harness.Dir(t), "envoy")
		o.Env = append(slices.Clone(o.Env), more...)
		require.NoError(t, os.WriteFile(o.Binary, changed, 0o755))
		return o
	}
	const unused, needed = "http_send_response_trailers", "http_send_response"
	_, err = harness.TryEnvoy(t, config, without(unused))
	require.ErrorContains(t, err, filter.UntestedVariable)
	e := harness.Envoy(t, config, without(unused, filter.UntestedVariable+"=allow"))
	assert.Equal(t, 401, harness.FrontOf(t, e, "listener-0").Get(t).Status)
	_, err = harness.TryEnvoy(t, config, without(needed, filter.UntestedVariable+"=allow"))
	require.ErrorContains(t, err, "lacks envoy_dynamic_module_callback_"+needed)
}

// TestModuleListenerUpdate replaces the listener under load, as a control plane does. The
// product goes on with one core: no request fails, and none without a token passes.
func TestModuleListenerUpdate(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	storm(t, *stormTime)
}

// minRevocations is the least number of revocations in a storm.
const minRevocations = 20

// storm aborts, reloads and revokes for a while. It fails the test if Envoy ends, if a
// revoked token is allowed, or if a good one is denied other than with 503.
func storm(t *testing.T, lasts time.Duration) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	dir := harness.Dir(t)
	port := harness.Port(t)
	b := &harness.BouncerServer{HTTP: "http://127.0.0.1:" + fmt.Sprint(port)}
	file := harness.WriteFile(t, dir, "config.yaml", fmt.Sprintf("listen: {http: '127.0.0.1:%d'}\n%sroutes: [{name: watched, end_streams: true}]\n", port, r.Config))
	lds := filepath.Join(dir, "lds.yaml")
	front := fmt.Sprint(harness.Port(t))
	version := 0
	update := func() {
		version++
		listener := moduleListener("front", harness.ModuleFilter(file), front)
		text := fmt.Sprintf("version_info: %q\nresources:\n%s", fmt.Sprint(version), strings.Replace(listener, "- name: front\n", "- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n    name: front\n    traffic_direction: "+[]string{"INBOUND", "OUTBOUND"}[version%2]+"\n", 1))
		require.NoError(t, os.Rename(harness.WriteFile(t, dir, "next.yaml", text), lds))
	}
	update()
	e := harness.Envoy(t, fmt.Sprintf("node: {id: a, cluster: a}\ndynamic_resources: {lds_config: {path_config_source: {path: %s}}}\n", lds), harness.ModuleEnvoy(t))
	f := harness.FrontAt(t, e, "127.0.0.1:"+front)
	harness.Eventually(t, 30*time.Second, "the product is ready", b.Ready)
	mint := func(claims map[string]any) string {
		claims["exp"] = time.Now().Add(lasts + time.Hour).Unix()
		return r.Token(claims)
	}
	good := mint(map[string]any{})
	f.AwaitStatus(t, good, 200, 20*time.Second)

	ctx, cancel := context.WithTimeout(t.Context(), lasts+time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var allowed, wrong, aborts, revocations atomic.Int64
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				token := mint(map[string]any{"sub": "new"}) // its signature is verified in the background
				aborts.Add(int64(abort(ctx, "127.0.0.1:"+front, token, 64)))
				// Envoy must keep up: the kernel drops connections that wait for it in too long a
				// queue, and the other requests then time out.
				if status, err := http2Get(ctx, "127.0.0.1:"+front, token); ctx.Err() == nil && (err != nil || status != 200 && status != 503) {
					wrong.Add(1)
					t.Logf("a new connection: %d %v", status, err)
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			reply, err := f.Do(context.WithoutCancel(ctx), http.MethodGet, "/", "Authorization", "Bearer "+good)
			if err != nil || (reply.Status != 200 && reply.Status != 503) {
				wrong.Add(1)
				t.Logf("a good token: %d %v", reply.Status, err)
			}
		}
	})
	wg.Go(func() {
		for ; ctx.Err() == nil; revocations.Add(1) {
			jti := fmt.Sprint("storm-", revocations.Load())
			token := mint(map[string]any{"jti": jti})
			_, _ = f.Do(context.WithoutCancel(ctx), http.MethodGet, "/", "Authorization", "Bearer "+token)
			receipt, err := harness.PostRevocation(context.WithoutCancel(ctx), b.HTTP, map[string]any{"jti": jti})
			if err != nil || receipt.Status != http.StatusCreated {
				t.Logf("revoke: %d %v", receipt.Status, err)
				continue
			}
			for range 4 {
				reply, err := f.Do(context.WithoutCancel(ctx), http.MethodGet, "/", "Authorization", "Bearer "+token)
				if err == nil && reply.Status == 200 {
					allowed.Add(1)
				}
			}
		}
	})
	// On a loaded machine it lasts longer, until it means something.
	const updated = "listener_manager.lds.update_success"
	for start := time.Now(); ctx.Err() == nil && (time.Since(start) < lasts || revocations.Load() < minRevocations); {
		before := e.Stats(t, updated)[updated]
		update()
		_ = harness.Poll(ctx, 50*time.Millisecond, func(context.Context) error {
			if e.Stats(t, updated)[updated] > before {
				return nil
			}
			return fmt.Errorf("not updated")
		})
	}
	cancel()
	wg.Wait()
	t.Logf("%d revocations, %d aborts, %d listener updates", revocations.Load(), aborts.Load(), version)
	assert.Zero(t, allowed.Load(), "requests allowed after their token's revocation was acknowledged")
	assert.Zero(t, wrong.Load(), "a good token got neither 200 nor 503")
	assert.GreaterOrEqual(t, revocations.Load(), int64(minRevocations))
	assert.Positive(t, aborts.Load())
	assert.Greater(t, version, 5, "listener updates")
	f.AwaitStatus(t, good, 200, 20*time.Second)
	assert.Equal(t, 1, strings.Count(e.Log(), "running in this process"), "cores that were started")
	endsCleanly(t, f)
}

// TestModuleProtocols opens every kind of stream through the module, with and without a
// token, and speaks HTTP/2.
func TestModuleProtocols(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	r := harness.NewRig(t, harness.RigOptions{Module: true})
	up := newStreamUpstream(t)
	e := r.Envoy(t, true, "static_resources:\n  listeners:"+fmt.Sprintf(streamListener, "front", "", "0s")+"  clusters:\n"+cluster("upstream", up.http, false)+cluster("grpc", up.grpc, true))
	token := r.Token(nil)
	for kind, open := range map[string]func(*testing.T, string, string) *stream{"WebSocket": up.openWebSocket, "event stream": up.openEvents, "gRPC stream": up.openGRPC} {
		assert.NoError(t, open(t, e.Addr("front"), token).exchange(), kind)
	}
	status, err := http2Get(t.Context(), strings.TrimPrefix(r.Front.URL, "http://"), token)
	require.NoError(t, err)
	assert.Equal(t, 200, status, "HTTP/2")
	denied, err := r.Front.Do(t.Context(), http.MethodPost, "/", "Content-Type", "application/grpc")
	require.NoError(t, err)
	assert.Equal(t, "16", denied.Header.Get("Grpc-Status"), "a denied gRPC call: %d %q", denied.Status, denied.Header)
}

// http2Get sends a GET over HTTP/2 without TLS.
func http2Get(ctx context.Context, addr, token string) (status int, err error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestModuleMetadata: later filters and access logs find the claims, and an Envoy that
// cannot keep them is denied rather than left without.
func TestModuleMetadata(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	o := harness.ModuleEnvoy(t)
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: "headers: {metadata: [sub]}\n"})
	config := harness.WriteFile(t, harness.Dir(t), "config.yaml", "listen: {http: ''}\n"+r.Config)
	text := strings.Replace(moduleListeners(config), "route_config: {", `route_config: {response_headers_to_add: [{header: {key: x-sub, value: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:sub)%"}}], `, 1)
	f := harness.FrontOf(t, harness.Envoy(t, text, o), "listener-0")
	token := r.Token(map[string]any{"sub": "alice"})
	if harness.OldModuleEnvoy(t) {
		f.AwaitStatus(t, token, 503, 20*time.Second)
		return
	}
	f.AwaitStatus(t, token, 200, 20*time.Second)
	assert.Equal(t, "alice", f.Bearer(t, token).Header.Get("X-Sub"))
}
