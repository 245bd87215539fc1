package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Front is an Envoy with ext_authz in front of an upstream.
type Front struct {
	*EnvoyServer // nil if the harness has not started it
	URL          string

	client *http.Client
	start  func(testing.TB) *EnvoyServer // starts another Envoy like it; nil if unknown
}

// FrontOptions configures Envoy's ext_authz filter. The zero value denies on
// failure and has Envoy's default timeout of 200 ms.
type FrontOptions struct {
	FailureModeAllow bool
	Timeout          time.Duration // of a check; 0 means Envoy's default
	Extra            string        // further ext_authz fields in YAML flow style: "a: b, c: d"
	UpstreamH2       bool          // the upstream speaks HTTP/2 (gRPC)
	RawPaths         bool          // forward paths as received; false normalises them
	MergeSlashes     bool          // replace adjacent slashes by one
	Transport        string        // transport_socket of the listener, a YAML flow mapping; empty means plain text
	Inspect          bool          // the listener has Envoy's tls_inspector
	Workers          int           // of Envoy; 0 means 2
}

// NewFront starts Envoy between clients and upstream (host:port). authz is the
// address of the authorization service, host:port or unix:///path, or module:// and the
// path of a configuration file, with which the dynamic module runs in this Envoy.
func NewFront(t testing.TB, authz, upstream string, options ...FrontOptions) *Front {
	t.Helper()
	var o FrontOptions
	if len(options) > 0 {
		o = options[0]
	}
	const http2 = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`
	upstreamProtocol := ""
	if o.UpstreamH2 {
		upstreamProtocol = ", " + http2
	}
	transport := ""
	if o.Transport != "" {
		transport = "transport_socket: " + o.Transport
	}
	inspector := ""
	if o.Inspect {
		inspector = `{name: envoy.filters.listener.tls_inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}`
	}
	filter, clusters, envoy := o.door(t, authz, http2)
	envoy.Workers = o.Workers
	config := fmt.Sprintf(`
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    listener_filters: [%s]
    filter_chains:
    - %s
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          normalize_path: %t
          merge_slashes: %t
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: upstream, timeout: 15s}}]
          http_filters:
          - %s
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - {name: upstream, connect_timeout: 1s, load_assignment: {cluster_name: upstream, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}%s}
%s
`, inspector, transport, !o.RawPaths, o.MergeSlashes, filter, envoyAddress(upstream), upstreamProtocol, clusters)
	start := func(t testing.TB) *EnvoyServer { t.Helper(); return Envoy(t, config, envoy) }
	f := FrontOf(t, start(t), "front")
	f.start = start
	return f
}

// door returns the HTTP filter that asks the authorization service, the cluster of the
// service, and what Envoy needs to start with it.
func (o FrontOptions) door(t testing.TB, authz, http2 string) (filter, clusters string, envoy EnvoyOptions) {
	t.Helper()
	if file, ok := strings.CutPrefix(authz, "module://"); ok {
		return ModuleFilter(file), "", ModuleEnvoy(t)
	}
	timeout := ""
	if o.Timeout > 0 {
		timeout = fmt.Sprintf(", timeout: %.3fs", o.Timeout.Seconds())
	}
	extra := ""
	if o.Extra != "" {
		extra = ", " + o.Extra
	}
	return fmt.Sprintf(`{name: envoy.filters.http.ext_authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, failure_mode_allow: %t, grpc_service: {envoy_grpc: {cluster_name: authz}%s}%s}}`, o.FailureModeAllow, timeout, extra),
		fmt.Sprintf("  - {name: authz, connect_timeout: 1s, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}, %s}", envoyAddress(authz), http2),
		EnvoyOptions{}
}

// FrontOf returns a client of a listener of e.
func FrontOf(t testing.TB, e *EnvoyServer, listener string) *Front {
	t.Helper()
	return FrontAt(t, e, e.Addr(listener))
}

// FrontAt is FrontOf for a listener with a known address, host:port. e is nil if the
// harness has not started the Envoy.
func FrontAt(t testing.TB, e *EnvoyServer, address string) *Front {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &Front{EnvoyServer: e, URL: "http://" + address, client: &http.Client{
		Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func envoyAddress(a string) string {
	if path, ok := strings.CutPrefix(a, "unix://"); ok {
		return fmt.Sprintf("{pipe: {path: %s}}", path)
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		panic("harness: " + err.Error())
	}
	return fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)
}

// Reply is a response received through Envoy.
type Reply struct {
	Status int
	Header http.Header
	Body   string
	// Upstream is the request as the upstream received it; nil if it did not.
	Upstream *Seen
}

// Get sends GET / with header fields given as name, value pairs. A name may
// occur more than once.
func (f *Front) Get(t testing.TB, header ...string) Reply {
	t.Helper()
	r, err := f.Do(t.Context(), http.MethodGet, "/", header...)
	require.NoError(t, err)
	return r
}

// Bearer sends GET / with a bearer token.
func (f *Front) Bearer(t testing.TB, token string) Reply {
	t.Helper()
	return f.Get(t, "Authorization", "Bearer "+token)
}

// Do sends a request with header fields given as name, value pairs.
func (f *Front) Do(ctx context.Context, method, path string, header ...string) (Reply, error) {
	return f.DoAs(ctx, "", method, path, header...)
}

// DoAs is Do with a Host header; an empty host means Envoy's address.
func (f *Front) DoAs(ctx context.Context, host, method, path string, header ...string) (Reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.URL+path, nil)
	if err != nil {
		return Reply{}, err
	}
	req.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		req.Header[http.CanonicalHeaderKey(header[i])] = append(req.Header[http.CanonicalHeaderKey(header[i])], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Reply{}, err
	}
	r := Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	if resp.Header.Get("X-From-Upstream") != "" {
		r.Upstream = &Seen{}
		if err := json.Unmarshal(body, r.Upstream); err != nil {
			return Reply{}, err
		}
	}
	return r, nil
}
