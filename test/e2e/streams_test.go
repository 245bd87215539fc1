package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"jwtbouncer/test/harness"
)

// streamListener is a listener with ext_authz and limits (YAML and the route's timeout)
// that may end an open stream.
const streamListener = `
  - name: %[1]s
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %[1]s
          upgrade_configs: [{upgrade_type: websocket}]
          %[2]s
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /grpc.health.v1.Health/}, route: {cluster: grpc, timeout: %[3]s}}
              - {match: {prefix: /}, route: {cluster: upstream, timeout: %[3]s}}
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 2s}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

// TestOpenStreams: Envoy asks once, when a stream begins. An open WebSocket, event
// stream or gRPC stream therefore outlives the revocation of its token. Of Envoy's
// limits, max_stream_duration ends it whatever happens; stream_idle_timeout ends it
// only when it is silent, max_connection_duration not at all, and the timeout of a route
// anything but a WebSocket.
func TestOpenStreams(t *testing.T) {
	t.Parallel()
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true})
	up := newStreamUpstream(t)
	listeners := ""
	for name, limits := range map[string]string{
		"unlimited":  "",
		"duration":   "common_http_protocol_options: {max_stream_duration: 3s}",
		"idle":       "stream_idle_timeout: 2s",
		"connection": "common_http_protocol_options: {max_connection_duration: 1s}\n          drain_timeout: 0.1s",
	} {
		listeners += fmt.Sprintf(streamListener, name, limits, "0s")
	}
	listeners += fmt.Sprintf(streamListener, "timeout", "", "2s")
	envoy := rig.Envoy(t, harness.ThroughModule(), "static_resources:\n  listeners:"+listeners+"  clusters:\n"+
		cluster("upstream", up.http, false)+cluster("grpc", up.grpc, true)+cluster("authz", rig.Bouncer.GRPC, true))
	for kind, open := range map[string]func(*testing.T, string, string) *stream{"WebSocket": up.openWebSocket, "event stream": up.openEvents, "gRPC stream": up.openGRPC} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			token := rig.Token(map[string]any{"jti": kind})
			streams := map[string]*stream{}
			for _, name := range []string{"unlimited", "connection", "duration", "idle", "timeout"} {
				streams[name] = open(t, envoy.Addr(name), token)
			}
			rig.Revoke(t, map[string]any{"jti": kind})
			harness.FrontOf(t, envoy, "unlimited").AwaitStatus(t, token, 401, 20*time.Second)

			require.NoError(t, streams["unlimited"].exchange(), "the open stream outlives the revocation")
			streams["duration"].awaitEnd(t)
			if kind != "WebSocket" {
				streams["timeout"].awaitEnd(t)
			} else {
				assert.NoError(t, streams["timeout"].exchange(), "it has no timeout once it is open")
			}
			if kind != "event stream" { // which is never silent
				streams["idle"].awaitSilentEnd(t)
			}
			for _, name := range []string{"unlimited", "connection"} {
				assert.NoError(t, streams[name].exchange(), "%s: nothing ends it", name)
			}
			if kind == "event stream" {
				assert.NoError(t, streams["idle"].exchange(), "it is not silent")
			}
		})
	}
}

// TestRouteBypass: Envoy asks nobody about a request that has no route when ext_authz
// sees it (envoy#44397). If a later filter gives it one, it reaches the upstream without
// a check. A last route for everything else, or ext_authz behind that filter, is safe. The
// dynamic module is always asked.
func TestRouteBypass(t *testing.T) {
	t.Parallel()
	throughDoors(t, testRouteBypass)
}

func testRouteBypass(t *testing.T, module bool) {
	t.Helper()
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true})
	const (
		authz = `{name: envoy.filters.http.ext_authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 2s}}}`
		// A filter that chooses the route: it sets a header, by which routes are matched.
		choose = `{name: envoy.filters.http.lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, default_source_code: {inline_string: "function envoy_on_request(h) h:headers():add('x-tenant', 'red') h:clearRouteCache() end"}}}`
		tenant = `{match: {prefix: /, headers: [{name: x-tenant, string_match: {exact: red}}]}, route: {cluster: upstream}}`
		rest   = `{match: {prefix: /}, direct_response: {status: 404}}`
	)
	config := "static_resources:\n  listeners:\n"
	for name, c := range map[string][2]string{
		"unsafe":     {authz + ", " + choose, tenant},
		"last route": {authz + ", " + choose, tenant + ", " + rest},
		"order":      {choose + ", " + authz, tenant},
	} {
		config += fmt.Sprintf(`  - name: %s
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [%s]}]}
          http_filters: [%s, {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`, name, c[1], c[0])
	}
	envoy := rig.Envoy(t, module, config+"  clusters:\n"+cluster("upstream", rig.Upstream.Addr, false)+cluster("authz", rig.Bouncer.GRPC, true))

	safe := []string{"last route", "order"}
	if module {
		safe = append(safe, "unsafe")
	} else {
		r := harness.FrontOf(t, envoy, "unsafe").Get(t)
		assert.Equal(t, 200, r.Status)
		assert.NotNil(t, r.Upstream, "Envoy still skips the check; if it no longer does, docs/envoy.md can say so")
	}
	for _, name := range safe {
		front := harness.FrontOf(t, envoy, name)
		r := front.Get(t)
		assert.Equal(t, 401, r.Status, name)
		assert.Nil(t, r.Upstream, name)
		assert.Equal(t, 200, front.Bearer(t, rig.Token(nil)).Status, name)
	}
}

// cluster returns a cluster of one address.
func cluster(name, addr string, http2 bool) string {
	host, port, _ := net.SplitHostPort(addr)
	protocol := ""
	if http2 {
		protocol = `, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`
	}
	return fmt.Sprintf("  - {name: %s, connect_timeout: 1s, load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}%s}\n", name, name, host, port, protocol)
}

// stream is an open stream through Envoy.
type stream struct {
	// exchange sends something that no earlier call sent, and receives the answer to it.
	exchange func() error
	// receive waits for the next message.
	receive func() error
}

// awaitEnd exchanges messages until Envoy ends the stream.
func (s *stream) awaitEnd(t *testing.T) {
	t.Helper()
	var err error
	for err == nil {
		err = s.exchange()
	}
	endedByEnvoy(t, err)
}

// awaitSilentEnd waits until Envoy ends the stream, on which nothing is sent.
func (s *stream) awaitSilentEnd(t *testing.T) {
	t.Helper()
	endedByEnvoy(t, s.receive())
}

// awaitReset receives what is on its way until Envoy ends the stream.
func (s *stream) awaitReset(t *testing.T) {
	t.Helper()
	var err error
	for err == nil {
		err = s.receive()
	}
	endedByEnvoy(t, err)
}

// endedByEnvoy requires an error that is not of the client's own deadline.
func endedByEnvoy(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.NotEqual(t, codes.DeadlineExceeded, status.Code(err), err)
}

// streamUpstream serves WebSockets that echo lines, event streams, and gRPC streams.
type streamUpstream struct {
	http, grpc string // host:port
	health     *health.Server
	events     atomic.Int64 // the number in every event
}

func newStreamUpstream(t *testing.T) *streamUpstream {
	t.Helper()
	u := &streamUpstream{health: health.NewServer()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u.http = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/socket", echoLines)
	mux.HandleFunc("/events", u.sendEvents)
	mux.HandleFunc("/kept", u.sendEvents)
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: mux}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })

	gl, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u.grpc = gl.Addr().String()
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, u.health)
	go func() { _ = g.Serve(gl) }()
	t.Cleanup(g.Stop)
	return u
}

// echoLines accepts the upgrade. Envoy does not look at frames, so lines stand for them.
func echoLines(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	for rw.Flush() == nil {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = rw.WriteString(line)
	}
}

func (u *streamUpstream) sendEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", u.events.Load()); err != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-every.C:
		case <-r.Context().Done():
			return
		}
	}
}

func (u *streamUpstream) openWebSocket(t *testing.T, addr, token string) *stream {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: upstream\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", token)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	sent := 0
	receive := func() error {
		line, err := in.ReadString('\n')
		if err == nil && line != fmt.Sprintln(sent) {
			err = fmt.Errorf("unexpected line %q", line)
		}
		return err
	}
	return &stream{receive: receive, exchange: func() error {
		sent++
		if _, err := fmt.Fprintln(conn, sent); err != nil {
			return err
		}
		return receive()
	}}
}

func (u *streamUpstream) openEvents(t *testing.T, addr, token string) *stream {
	t.Helper()
	return u.openEventsAt(t, addr, "/events", token)
}

func (u *streamUpstream) openEventsAt(t *testing.T, addr, path, token string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(t, 200, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	receive := func() error {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "data: ") {
				return nil
			}
		}
		return fmt.Errorf("the stream has ended: %w", lines.Err())
	}
	return &stream{receive: receive, exchange: func() error {
		want := u.events.Add(1)
		for {
			if err := receive(); err != nil {
				return err
			}
			var got int64
			if _, err := fmt.Sscanf(lines.Text(), "data: %d", &got); err != nil || got >= want {
				return err
			}
		}
	}}
}

func (u *streamUpstream) openGRPC(t *testing.T, addr, token string) *stream {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	u.health.SetServingStatus(addr, grpc_health_v1.HealthCheckResponse_SERVING)
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), &grpc_health_v1.HealthCheckRequest{Service: addr})
	require.NoError(t, err)
	receive := func() error { _, err := watch.Recv(); return err }
	require.NoError(t, receive())
	serving := grpc_health_v1.HealthCheckResponse_SERVING
	return &stream{receive: receive, exchange: func() error {
		serving = grpc_health_v1.HealthCheckResponse_SERVING + grpc_health_v1.HealthCheckResponse_NOT_SERVING - serving
		u.health.SetServingStatus(addr, serving)
		return receive()
	}}
}
