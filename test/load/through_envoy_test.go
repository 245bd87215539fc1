package load

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// envoySection measures requests through a real Envoy with each kind of
// authorization. Envoy responds by itself; there is no upstream.
func envoySection(b *testing.B, w *world) string {
	token := w.token("RS256", "through", 1)
	noop, tuned, tcp := w.baseline(b, "noop"), w.tuned(b, "noop"), w.product(b, "", "", "")
	uds := w.productAt(b, "unix://"+filepath.Join(harness.Dir(b), "authz.sock"), "", "", "")
	fronts := []struct {
		name   string
		filter string
		server *server // nil: Envoy alone
	}{
		{"no authorization", "", nil},
		{"Envoy's jwt_authn (verifies, knows no revocation)", jwtAuthn(string(w.issuer.JWKS())), nil},
		{"ext_authz, stock no-op, TCP", extAuthz(noop.target), noop},
		{"ext_authz, the same no-op with the product's settings, TCP", extAuthz(tuned.target), tuned},
		{"ext_authz, **jwt-bouncer**, TCP", extAuthz(tcp.target), tcp},
		{"ext_authz, **jwt-bouncer**, Unix socket", extAuthz(uds.target), uds},
	}
	type result struct {
		sample
		envoy time.Duration // CPU per request
	}
	results := make([][]result, len(fronts))
	envoys := make([]*harness.EnvoyServer, len(fronts))
	for i, f := range fronts {
		envoys[i] = harness.Envoy(b, envoyConfig(f.filter))
		requests(b, envoys[i].Addr("in"), token, 300*time.Millisecond)
	}
	for range *rounds {
		for i, f := range fronts {
			before := usage(b, envoys[i].PID())
			var serverBefore Usage
			if f.server != nil {
				serverBefore = usage(b, f.server.pid)
			}
			s := requests(b, envoys[i].Addr("in"), token, *length)
			n := time.Duration(s.peak)
			r := result{sample: s, envoy: (usage(b, envoys[i].PID()).CPU - before.CPU) / n}
			if f.server != nil {
				r.cpu = (usage(b, f.server.pid).CPU - serverBefore.CPU) / n
			}
			results[i] = append(results[i], r)
		}
	}
	var t strings.Builder
	t.WriteString("| through Envoy, 16 in flight | requests/s | p50 | p99 | Envoy CPU per request | server CPU per request | both |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for i, f := range fronts {
		var samples []sample
		var envoy []sample
		for _, r := range results[i] {
			samples = append(samples, r.sample)
			envoy = append(envoy, sample{cpu: r.envoy})
		}
		m, e := median(samples), median(envoy).cpu
		fmt.Fprintf(&t, "| %s | %.0f | %s | %s | %.1f µs | %.1f µs | %.1f µs |\n", f.name, m.perSecond, micro(m.p50), micro(m.p99), float64(e)/1e3, float64(m.cpu)/1e3, float64(e+m.cpu)/1e3)
	}
	return t.String()
}

func usage(t testing.TB, pid int) Usage {
	t.Helper()
	u, err := UsageOf(pid)
	require.NoError(t, err)
	return u
}

// requests sends HTTP requests for the given time. peak in the returned sample
// is their number.
func requests(t testing.TB, addr, token string, length time.Duration) sample {
	t.Helper()
	const workers = 16
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		all   = hdrhistogram.New(1, highest, 3)
		wrong atomic.Int64
		start = time.Now()
	)
	for range workers {
		group.Go(func() {
			h := hdrhistogram.New(1, highest, 3)
			for time.Since(start) < length {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+addr+"/api/v1/orders/48213?expand=items", nil)
				if err != nil {
					wrong.Add(1)
					return
				}
				req.Header = http.Header{
					"Authorization": {"Bearer " + token}, "Accept": {"application/json, text/plain, */*"}, "Accept-Language": {"en-GB,en;q=0.9,de;q=0.8"},
					"Cookie": {"theme=dark; consent=1; _sid=3f2a9c1e7b4d4f6e8a1b"}, "Referer": {"https://shop.example.com/orders"},
					"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"},
				}
				sent := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					wrong.Add(1)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				_ = h.RecordValue(min(int64(time.Since(sent)), highest))
				if resp.StatusCode != http.StatusOK {
					wrong.Add(1)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.Merge(h)
		})
	}
	group.Wait()
	if wrong.Load() > 0 || all.TotalCount() == 0 {
		t.Fatalf("%d of %d requests were not answered with 200", wrong.Load(), all.TotalCount())
	}
	q := func(p float64) time.Duration { return time.Duration(all.ValueAtQuantile(p)) }
	return sample{perSecond: float64(all.TotalCount()) / time.Since(start).Seconds(), p50: q(50), p99: q(99), max: q(99.9), peak: all.TotalCount()}
}

func extAuthz(target string) string {
	return fmt.Sprintf(`
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              encode_raw_headers: false
              grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 5s}
@%s`, target)
}

func jwtAuthn(jwks string) string {
	return fmt.Sprintf(`
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers: {p: {issuer: "https://issuer.example.com", audiences: [api], local_jwks: {inline_string: %q}, claim_to_headers: [{header_name: x-jwt-sub, claim_name: sub}]}}
              rules: [{match: {prefix: /}, requires: {provider_name: p}}]`, jwks)
}

func envoyConfig(filter string) string {
	filter, target, ok := strings.Cut(filter, "\n@")
	clusters := "[]"
	if ok {
		address := "{socket_address: {address: 127.0.0.1, port_value: " + target[strings.LastIndexByte(target, ':')+1:] + "}}"
		if path, unix := strings.CutPrefix(target, "unix://"); unix {
			address = "{pipe: {path: " + path + "}}"
		}
		clusters = `[{name: authz, connect_timeout: 1s, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: ` + address + `}}]}]},
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}}]`
	}
	return fmt.Sprintf(`
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ok}}}]}]}
          http_filters:%s
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters: %s
`, filter, clusters)
}
