package load

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

var streamCount = flag.Int("load.streams", 10_000, "number of open streams in the section streams")

// openStreams is an Envoy with the product in it, and the streams that are open through it.
type openStreams struct {
	envoy   *harness.EnvoyServer
	product *harness.BouncerServer
	clients []*http.Client
	ended   []chan time.Time // one for each stream
	before  Usage            // before the first stream
}

// streamsPerConnection is the number of streams that share a connection of the client.
const streamsPerConnection = 100

// openStreams opens n streams, each with a token of its own. setting is that of the route.
func (w *world) openStreams(t testing.TB, setting string, n int) *openStreams {
	t.Helper()
	dir := harness.Dir(t)
	s := &openStreams{product: &harness.BouncerServer{HTTP: fmt.Sprintf("http://127.0.0.1:%d", harness.Port(t))}, ended: make([]chan time.Time, n)}
	file := harness.WriteFile(t, dir, "config.yaml", fmt.Sprintf("listen: {http: %q}\nissuers:\n- {issuer: https://issuer.example.com, audiences: [api], jwks: %s}\nstore: %q\nroutes: [{name: live%s}]\ndecision_log: {decisions: none}\n",
		strings.TrimPrefix(s.product.HTTP, "http://"), w.jwks, "sqlite://"+filepath.Join(dir, "revocations.db"), setting))
	s.envoy = harness.Envoy(t, fmt.Sprintf(`
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
          stream_idle_timeout: 0s
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: upstream, timeout: 0s}}]}]}
          http_filters: [%s, {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: upstream
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_requests: 100000, max_pending_requests: 100000}]}
    load_assignment: {cluster_name: upstream, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}
`, harness.ModuleFilter(file), endlessUpstream(t)), harness.ReleaseModuleEnvoy(t))
	t.Cleanup(func() {
		for _, c := range s.clients {
			c.CloseIdleConnections()
		}
		s.envoy.Stop(syscall.SIGTERM, 10*time.Second)
	})
	harness.Eventually(t, 30*time.Second, "the product is ready", s.product.Ready)
	s.before = usage(t, s.envoy.PID())
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	opened := make(chan error)
	for i := range n {
		if i%streamsPerConnection == 0 {
			protocols := new(http.Protocols)
			protocols.SetUnencryptedHTTP2(true)
			s.clients = append(s.clients, &http.Client{Transport: &http.Transport{Protocols: protocols}})
		}
		s.ended[i] = make(chan time.Time, 1)
		go s.open(ctx, s.clients[len(s.clients)-1], w.token("ES256", fmt.Sprintf("stream-%d", i), i), s.ended[i], opened)
		if i%streamsPerConnection == streamsPerConnection-1 || i == n-1 {
			for range i%streamsPerConnection + 1 {
				require.NoError(t, <-opened)
			}
		}
	}
	return s
}

// open opens a stream and reads it to its end.
func (s *openStreams) open(ctx context.Context, c *http.Client, token string, ended chan<- time.Time, opened chan<- error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.envoy.Addr("in")+"/live", http.NoBody)
	if err != nil {
		opened <- err
		return
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.Do(req)
	for tries := 0; err == nil && resp.StatusCode == http.StatusServiceUnavailable && tries < 100; tries++ {
		_ = resp.Body.Close() // too many new tokens at once
		resp, err = c.Do(req)
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	opened <- err
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for buffer := make([]byte, 16); err == nil; {
		_, err = resp.Body.Read(buffer)
	}
	ended <- time.Now()
}

// revoke returns when the request was sent.
func (s *openStreams) revoke(t testing.TB, revocation map[string]any) (sent time.Time) {
	t.Helper()
	revocation["iss"] = "https://issuer.example.com"
	sent = time.Now()
	receipt, err := harness.PostRevocation(t.Context(), s.product.HTTP, revocation)
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, receipt.Status, receipt.Body)
	return sent
}

// awaitEnd returns when the stream ended.
func (s *openStreams) awaitEnd(t testing.TB, i int) time.Time {
	t.Helper()
	select {
	case at := <-s.ended[i]:
		return at
	case <-time.After(time.Minute):
		t.Fatalf("stream %d is still open", i)
		return time.Time{}
	}
}

// endlessUpstream starts a server whose responses have no end, and returns its port.
func endlessUpstream(t testing.TB) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Protocols: protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000},
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// idleCPU returns the share of a core that Envoy uses while its streams are silent.
func (s *openStreams) idleCPU(t testing.TB) float64 {
	t.Helper()
	before, start := usage(t, s.envoy.PID()), time.Now()
	<-time.After(10 * *length)
	return float64(usage(t, s.envoy.PID()).CPU-before.CPU) / float64(time.Since(start))
}

// Streams that are ended one by one.
const (
	singleEnds = 100                    // in each of the two rows
	singlePace = 200 * time.Millisecond // from one revocation to the next, where they are apart
)

// streamsSection measures what it costs to end streams with their tokens, and how soon they end.
func streamsSection(b *testing.B, w *world) string {
	n := *streamCount
	var text strings.Builder
	fmt.Fprintf(&text, "| %d open streams | memory of Envoy, per stream | CPU while they are silent, of a core |\n|---|---:|---:|\n", n)
	var ending *openStreams
	for _, row := range []struct{ name, setting string }{{"`end_streams: false`", ""}, {"**`end_streams: true`**", ", end_streams: true"}} {
		s := w.openStreams(b, row.setting, n)
		perStream := (usage(b, s.envoy.PID()).RSS - s.before.RSS) / int64(n)
		fmt.Fprintf(&text, "| %s | %.1f KiB | %.2f %% |\n", row.name, float64(perStream)/1024, 100*s.idleCPU(b))
		if ending = s; row.setting == "" {
			s.envoy.Stop(syscall.SIGTERM, 10*time.Second)
		}
	}
	// each revokes streams one by one, from the first on.
	next := 0
	each := func(pace time.Duration) (took []time.Duration) {
		for range min(singleEnds, n/4) {
			<-time.After(pace)
			sent := ending.revoke(b, map[string]any{"jti": fmt.Sprintf("stream-%d", next)})
			took = append(took, ending.awaitEnd(b, next).Sub(sent))
			next++
		}
		return took
	}
	apart, flood := each(singlePace), each(0)
	var together []time.Duration
	sent := ending.revoke(b, map[string]any{"client": "web-shop"})
	for i := next; i < n; i++ {
		together = append(together, ending.awaitEnd(b, i).Sub(sent))
	}
	text.WriteString("\n| revocation sent to stream ended | p50 | p99 | last |\n|---|---:|---:|---:|\n")
	for _, row := range []struct {
		name string
		took []time.Duration
	}{
		{fmt.Sprintf("%d revocations of one stream each, %.0f a second", len(apart), float64(time.Second)/float64(singlePace)), apart},
		{fmt.Sprintf("%d revocations of one stream each, without a pause", len(flood)), flood},
		{fmt.Sprintf("one revocation of all other %d", len(together)), together},
	} {
		slices.Sort(row.took)
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", row.name, at(row.took, 0.5), at(row.took, 0.99), at(row.took, 1))
	}
	return text.String()
}
