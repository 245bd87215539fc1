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
)

// Front is an Envoy with ext_authz in front of an upstream.
type Front struct {
	*EnvoyServer
	URL string

	client *http.Client
}

// FrontOptions say how Envoy asks. Its zero value asks over TCP, closed on
// failure, with Envoy's own time limit of 200 ms.
type FrontOptions struct {
	FailureModeAllow bool
	Timeout          time.Duration // of a check; 0: Envoy's default
	Extra            string        // further ext_authz fields, a YAML flow mapping's inside: "a: b, c: d"
	UpstreamH2       bool          // the upstream speaks HTTP/2 (gRPC)
	RawPaths         bool          // paths go on as they came; else they are normalised
	MergeSlashes     bool          // adjacent slashes become one
	Transport        string        // the listener's transport_socket; empty: plain text. A YAML flow mapping
}

// NewFront starts Envoy. authz is host:port or unix:///path of the
// authorization service, upstream is host:port.
func NewFront(t testing.TB, authz, upstream string, options ...FrontOptions) *Front {
	t.Helper()
	var o FrontOptions
	if len(options) > 0 {
		o = options[0]
	}
	timeout := ""
	if o.Timeout > 0 {
		timeout = fmt.Sprintf(", timeout: %.3fs", o.Timeout.Seconds())
	}
	extra := ""
	if o.Extra != "" {
		extra = ", " + o.Extra
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
	e := Envoy(t, fmt.Sprintf(`
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
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
          - name: envoy.filters.http.ext_authz
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, failure_mode_allow: %t, grpc_service: {envoy_grpc: {cluster_name: authz}%s}%s}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - {name: upstream, connect_timeout: 1s, load_assignment: {cluster_name: upstream, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}%s}
  - {name: authz, connect_timeout: 1s, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}, %s}
`, transport, !o.RawPaths, o.MergeSlashes, o.FailureModeAllow, timeout, extra, envoyAddress(upstream), upstreamProtocol, envoyAddress(authz), http2))
	return FrontOf(t, e, "front")
}

// FrontOf speaks to a listener of an Envoy with a configuration of its own.
func FrontOf(t testing.TB, e *EnvoyServer, listener string) *Front {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &Front{EnvoyServer: e, URL: "http://" + e.Addr(listener), client: &http.Client{
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

// Reply is an answer that came through Envoy.
type Reply struct {
	Status int
	Header http.Header
	Body   string
	// Upstream is what the upstream saw; nil: the request did not get there.
	Upstream *Seen
}

// Get sends GET / with header fields given as pairs; a name may occur twice.
func (f *Front) Get(t testing.TB, header ...string) Reply {
	t.Helper()
	r, err := f.Do(t.Context(), http.MethodGet, "/", header...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Bearer sends GET / with a token.
func (f *Front) Bearer(t testing.TB, token string) Reply {
	t.Helper()
	return f.Get(t, "Authorization", "Bearer "+token)
}

// Do sends a request with header fields given as pairs.
func (f *Front) Do(ctx context.Context, method, path string, header ...string) (Reply, error) {
	return f.DoAs(ctx, "", method, path, header...)
}

// DoAs is Do with another Host; empty: Envoy's address.
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
