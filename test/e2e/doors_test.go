package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"jwtbouncer/test/harness"
)

// doorsListeners is an Envoy with everything that a request may go through: HTTP/1 and
// HTTP/2 with upgrades, TLS with client certificates, HTTP/3, internal redirects, and
// requests without a route. "edge" turns HTTP/1 into HTTP/3, as this Envoy's client.
const doorsListeners = `static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters: [{name: envoy.filters.network.http_connection_manager, typed_config: {%[1]s, http_protocol_options: {accept_http_10: true}, http2_protocol_options: {allow_connect: true}}}]
  - name: proxied
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    listener_filters: [{name: envoy.filters.listener.proxy_protocol, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]
    filter_chains:
    - filters: [{name: envoy.filters.network.http_connection_manager, typed_config: {%[1]s}}]
  - name: quic
    address: {socket_address: {address: 127.0.0.1, port_value: %[2]d, protocol: UDP}}
    udp_listener_config: {quic_options: {}, downstream_socket_config: {prefer_gro: false}}
    filter_chains:
    - transport_socket: {name: envoy.transport_sockets.quic, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport, downstream_tls_context: {common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: %[3]s}, private_key: {inline_string: %[4]s}}]}}}}
      filters: [{name: envoy.filters.network.http_connection_manager, typed_config: {%[1]s, codec_type: HTTP3, http3_protocol_options: {}}}]
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: quic}}]}]}
          http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: quic
    connect_timeout: 5s
    load_assignment: {cluster_name: quic, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}}}]}]}
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http3_protocol_options: {}}}}
    transport_socket: {name: envoy.transport_sockets.quic, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport, upstream_tls_context: {sni: front, common_tls_context: {validation_context: {trusted_ca: {inline_string: %[3]s}}}}}}
`

// doorsManager is the connection manager of doorsListeners.
const doorsManager = `"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: front, normalize_path: true,
      upgrade_configs: [{upgrade_type: websocket}],
      access_log: [{name: envoy.access_loggers.stdout, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {text_format_source: {inline_string: "case=%REQ(X-CASE)% flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% sub=%DYNAMIC_METADATA(envoy.filters.http.ext_authz:sub)%\n"}}}}],
      route_config: {request_headers_to_add: [{header: {key: x-protocol, value: "%PROTOCOL%"}}], virtual_hosts: [{name: nowhere, domains: [nowhere.example]}, {name: all, domains: ["*"], routes: [
        {match: {prefix: /redirect}, route: {cluster: upstream, internal_redirect_policy: {max_internal_redirects: 2}}},
        {match: {prefix: /disabled}, route: {cluster: upstream}, typed_per_filter_config: {envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}},
        {match: {prefix: /off}, route: {cluster: upstream}, typed_per_filter_config: {envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}, envoy.filters.http.dynamic_modules: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}},
        {match: {prefix: /}, route: {cluster: upstream}}]}]},
      http_filters: [
        {name: envoy.filters.http.ext_authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 2s}, encode_raw_headers: true}},
        {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]`

const doorsConfig = `
routes:
  - {name: public, public: true, match: {paths: [{prefix: /public}, {prefix: /redirect-public}]}}
  - {name: admin, match: {paths: [{prefix: /admin}]}, scopes: [admin]}
  - {name: cookie, match: {paths: [{prefix: /cookie}, {prefix: /redirect-cookie}]}, credentials: {cookies: [session]}}
  - {name: repeated, match: {paths: [{prefix: /repeated}]}, allow: ["request.headers['x-repeated'] == 'a,b'"]}
  - {name: proxied, match: {paths: [{prefix: /proxied}]}, allow: ["source.address == '192.0.2.7'"]}
  - {name: here, match: {paths: [{prefix: /here}]}, allow: ["source.address == '127.0.0.1'"]}
  - {name: rest}
headers: {claims: {x-jwt-sub: sub, x-jwt-groups: groups}%s}
`

// doors are two Envoys in front of one upstream: one asks a sidecar, the other has the
// product in it.
type doors struct {
	*harness.Rig
	up     *doorsUpstream
	envoys map[string]*harness.EnvoyServer // by door
	token  string
}

const asking, within = "ext_authz", "module"

func newDoors(t *testing.T, lookup bool) *doors {
	t.Helper()
	harness.NeedsCompiler(t)
	metadata := ", metadata: [sub]"
	if harness.OldModuleEnvoy(t) { // with it, that denies everything: TestModuleMetadata
		metadata = ""
	}
	d := &doors{Rig: harness.NewRig(t, harness.RigOptions{NoFront: true, Lookup: lookup, Config: fmt.Sprintf(doorsConfig, metadata)}), up: newDoorsUpstream(t), envoys: map[string]*harness.EnvoyServer{}}
	_, certificate, key := selfSigned(t, "front")
	for _, door := range []string{asking, within} {
		text := fmt.Sprintf(doorsListeners, doorsManager, harness.Port(t), quoted(certificate), quoted(key)) +
			cluster("upstream", d.up.addr, false) + cluster("authz", d.Bouncer.GRPC, true)
		d.envoys[door] = d.Envoy(t, door == within, text)
	}
	d.token = d.Token(map[string]any{"sub": "alice"})
	for _, e := range d.envoys {
		harness.FrontOf(t, e, "front").AwaitStatus(t, d.token, 200, 20*time.Second)
	}
	d.up.take()
	return d
}

func quoted(s string) string { text, _ := json.Marshal(s); return string(text) }

// doorsUpstream accepts WebSockets at /socket, redirects from /redirect…?to=, and answers
// everything else with what it received.
type doorsUpstream struct {
	addr string
	mu   sync.Mutex
	seen []string // protocol between client and Envoy, method, path, length of the body, trailer, and the headers that the product sets
}

func newDoorsUpstream(t *testing.T) *doorsUpstream {
	t.Helper()
	u := &doorsUpstream{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u.addr = l.Addr().String()
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.Copy(io.Discard, r.Body)
		u.mu.Lock()
		u.seen = append(u.seen, fmt.Sprintf("%s %s %s body=%d trailer=%q sub=%q groups=%q cookie=%q bytes=%q", r.Header.Get("X-Protocol"), r.Method, r.RequestURI, body, r.Trailer.Get("X-Trailer"),
			r.Header["X-Jwt-Sub"], r.Header["X-Jwt-Groups"], r.Header["Cookie"], r.Header["X-Bytes"]))
		u.mu.Unlock()
		switch {
		case r.URL.Path == "/socket":
			echoLines(w, r)
		case strings.HasPrefix(r.URL.Path, "/redirect"):
			w.Header().Set("Location", r.URL.Query().Get("to"))
			w.WriteHeader(http.StatusFound)
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return u
}

func (u *doorsUpstream) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// outcome is what a client and the upstream saw of a request.
type outcome struct {
	Status    string // of each response in turn, such as "100 200"; "closed" without one
	Challenge string
	Type      string
	GRPC      string // grpc-status
	Close     bool   // connection: close
	Upstream  string // the requests that it received
}

// raw writes the text to a connection and reads the responses to one request.
func raw(t *testing.T, addr, text string) (o outcome) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = io.WriteString(c, text) // Envoy may have answered and closed before the end
	in := bufio.NewReader(c)
	method, _, _ := strings.Cut(text, " ")
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			o.Status += "closed"
			return o
		}
		o.Status += fmt.Sprint(resp.StatusCode)
		if resp.StatusCode == http.StatusContinue {
			o.Status += " "
			continue
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
		}
		return o.with(resp.Header, resp.Close)
	}
}

func (o outcome) with(h http.Header, closes bool) outcome {
	o.Challenge, o.Type, o.GRPC, o.Close = h.Get("Www-Authenticate"), h.Get("Content-Type"), h.Get("Grpc-Status"), closes
	return o
}

// frames is a request over HTTP/2, frame by frame.
type frames struct {
	header  []string // name, value pairs after the pseudo-headers
	body    []string // a DATA frame each; nil: HEADERS ends the stream
	trailer []string
}

// send sends the frames and reads the response's headers.
func (f frames) send(t *testing.T, addr string) (o outcome) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(c, c)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	write := func(pairs []string, end bool) {
		block.Reset()
		for i := 0; i+1 < len(pairs); i += 2 {
			require.NoError(t, encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
		}
		rest := block.Bytes()
		const most = 16 << 10
		first := rest[:min(len(rest), most)]
		rest = rest[len(first):]
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: end, EndHeaders: len(rest) == 0})
		for len(rest) > 0 {
			next := rest[:min(len(rest), most)]
			rest = rest[len(next):]
			_ = framer.WriteContinuation(1, len(rest) == 0, next)
		}
	}
	write(f.header, f.body == nil && f.trailer == nil)
	for i, data := range f.body {
		_ = framer.WriteData(1, i == len(f.body)-1 && f.trailer == nil, []byte(data))
	}
	if f.trailer != nil {
		write(f.trailer, true)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			o.Status += "closed"
			return o
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			h := http.Header{}
			for _, field := range frame.RegularFields() {
				h.Add(field.Name, field.Value)
			}
			o.Status += frame.PseudoValue("status")
			return o.with(h, false)
		case *http2.RSTStreamFrame:
			o.Status += "reset " + frame.ErrCode.String()
			return o
		case *http2.GoAwayFrame:
			o.Status += "go away " + frame.ErrCode.String()
			return o
		}
	}
}

// decided repeats a request that is answered with 503: a busy machine may miss the
// deadline of a decision.
func decided(t *testing.T, send func() outcome) (o outcome) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "a decision", func(context.Context) error {
		if o = send(); o.Status == "503" {
			return errors.New("status 503")
		}
		return nil
	})
	return o
}

// hostile is a request, with TOKEN in place of the token, and its status with ext_authz.
type hostile struct {
	name string
	send func(t *testing.T, addr, token string) outcome
	want string
	// differs is the row of docs/in-process.md that says why the doors differ.
	differs string
}

func http1(lines ...string) func(t *testing.T, addr, token string) outcome {
	return func(t *testing.T, addr, token string) outcome {
		t.Helper()
		return raw(t, addr, strings.ReplaceAll(strings.Join(lines, "\r\n"), "TOKEN", token))
	}
}

func over2(f frames, pseudo ...string) func(t *testing.T, addr, token string) outcome {
	return func(t *testing.T, addr, token string) outcome {
		t.Helper()
		g := f
		g.header = nil
		for _, v := range append(pseudo, f.header...) {
			g.header = append(g.header, strings.ReplaceAll(v, "TOKEN", token))
		}
		return g.send(t, addr)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "x-many-%d: 1\r\n", i)
	}
	return strings.TrimSuffix(b.String(), "\r\n")
}

var hostiles = func() []hostile {
	const host, auth = "Host: api.example", "Authorization: Bearer TOKEN"
	const end = "\r\n"
	get := []string{":method", "GET", ":scheme", "http", ":path", "/x", ":authority", "api.example"}
	post := []string{":method", "POST", ":scheme", "http", ":path", "/x", ":authority", "api.example"}
	socket := []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/socket", ":authority", "api.example"}
	upgrade := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	bearer := []string{"authorization", "Bearer TOKEN"}
	chunked := []string{host, "Transfer-Encoding: chunked", "Trailer: X-Trailer"}
	body := []string{"", "3", "abc", "0", "X-Trailer: 1", end}
	with := func(first string, parts ...[]string) []string {
		all := []string{first}
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	list := []hostile{
		{name: "90 headers", want: "200", send: http1("GET /x HTTP/1.1", host, auth, many(90), end)},
		{name: "90 headers, no token", want: "401", send: http1("GET /x HTTP/1.1", host, many(90), end)},
		{name: "101 headers", want: "431", send: http1("GET /x HTTP/1.1", host, auth, many(101), end)},
		{name: "55 KB header", want: "200", send: http1("GET /x HTTP/1.1", host, auth, "X-Big: "+strings.Repeat("a", 55<<10), end)},
		{name: "55 KB token", want: "401", send: http1("GET /x HTTP/1.1", host, auth+strings.Repeat("a", 55<<10), end)},
		{name: "61 KB header", want: "431", send: http1("GET /x HTTP/1.1", host, auth, "X-Big: "+strings.Repeat("a", 61<<10), end)},
		{name: "bytes above 127", want: "200", send: http1("GET /x HTTP/1.1", host, auth, "X-Bytes: \x80\xff\xc3\xa9", end)},
		{name: "bytes above 127 in the token", want: "400", send: http1("GET /x HTTP/1.1", host, auth+"\xff", end)},
		{name: "bytes above 127 in the path", want: "400", send: http1("GET /public\xff HTTP/1.1", host, end)},
		{name: "bytes above 127 in another cookie", want: "200", send: http1("GET /cookie HTTP/1.1", host, "Cookie: a=\xff; session=TOKEN; b=2", end)},
		{name: "token in a cookie", want: "200", send: http1("GET /cookie HTTP/1.1", host, "Cookie: a=1; session=TOKEN; b=2", end)},
		{name: "an empty token", want: "400", send: http1("GET /x HTTP/1.1", host, "Authorization:", end)},
		{name: "Authorization twice", want: "400", send: http1("GET /x HTTP/1.1", host, auth, auth, end)},
		{name: "repeated header", want: "200", send: http1("GET /repeated HTTP/1.1", host, auth, "X-Repeated: a", "X-Repeated: b", end)},
		{name: "spoofed identity", want: "200", send: http1("GET /x HTTP/1.1", host, auth, "X-Jwt-Sub: root", "x_jwt_sub: root", "X-JWT-GROUPS: root", end)},
		{name: "spoofed identity, public", want: "200", send: http1("GET /public HTTP/1.1", host, "X-Jwt-Sub: root", "x_jwt_sub: root", "X-JWT-GROUPS: root", end)},
		{name: "spoofed identity named in Connection", want: "200", send: http1("GET /x HTTP/1.1", host, auth, "X-Jwt-Sub: root", "Connection: X-Jwt-Sub", end)},
		{name: "token named in Connection, which Envoy removes", want: "401", send: http1("GET /x HTTP/1.1", host, auth, "Connection: Authorization", end)},
		{name: "Host twice, which Envoy joins", want: "200", send: http1("GET /public HTTP/1.1", host, "Host: other.example", end)},
		{name: "no Host", want: "400", send: http1("GET /public HTTP/1.1", end)},
		{name: "absolute form", want: "200", send: http1("GET http://api.example/x HTTP/1.1", "Host: other.example", auth, end)},
		{name: "absolute form, no token", want: "401", send: http1("GET http://api.example/x HTTP/1.1", "Host: api.example", end)},
		{name: "asterisk form", want: "404", send: http1("OPTIONS * HTTP/1.1", host, end)},
		{name: "chunked with trailers", want: "200", send: http1(with("POST /x HTTP/1.1", chunked, []string{auth}, body)...)},
		{name: "chunked with trailers, no token", want: "401", send: http1(with("POST /x HTTP/1.1", chunked, body)...), differs: "denied request with a body"},
		{name: "chunked and Content-Length", want: "400", send: http1("POST /x HTTP/1.1", host, auth, "Content-Length: 3", "Transfer-Encoding: chunked", "", "3", "abc", "0", end)},
		{name: "Expect", want: "100 200", send: http1("POST /x HTTP/1.1", host, auth, "Expect: 100-continue", "Content-Length: 3", "", "abc")},
		{name: "Expect, no token", want: "100 401", send: http1("POST /x HTTP/1.1", host, "Expect: 100-continue", "Content-Length: 3", "", "abc"), differs: "denied request with a body"},
		{name: "HTTP/1.0", want: "200", send: http1("GET /x HTTP/1.0", host, auth, end)},
		{name: "HTTP/1.0, no token", want: "401", send: http1("GET /x HTTP/1.0", host, end)},
		{name: "HEAD", want: "200", send: http1("HEAD /x HTTP/1.1", host, auth, end)},
		{name: "HEAD, no token", want: "401", send: http1("HEAD /x HTTP/1.1", host, end)},
		{name: "OPTIONS, no token", want: "401", send: http1("OPTIONS /x HTTP/1.1", host, "Origin: https://a.example", "Access-Control-Request-Method: GET", end)},
		{name: "TRACE, no token", want: "401", send: http1("TRACE /x HTTP/1.1", host, end)},
		{name: "TRACE", want: "200", send: http1("TRACE /x HTTP/1.1", host, auth, end)},
		{name: "CONNECT", want: "404", send: http1("CONNECT api.example:443 HTTP/1.1", "Host: api.example:443", auth, end), differs: "request without a route"},
		{name: "WebSocket", want: "101", send: http1(with("GET /socket HTTP/1.1", []string{host, auth}, upgrade, []string{end})...)},
		{name: "WebSocket, no token", want: "401", send: http1(with("GET /socket HTTP/1.1", []string{host}, upgrade, []string{end})...)},
		{name: "no route", want: "404", send: http1("GET /public HTTP/1.1", "Host: nowhere.example", end)},
		{name: "no route, no token", want: "404", send: http1("GET /x HTTP/1.1", "Host: nowhere.example", end), differs: "request without a route"},
		{name: "gRPC-Web, no token", want: "401", send: http1("POST /x HTTP/1.1", host, "Content-Type: application/grpc-web+proto", "Content-Length: 5", "", "\x00\x00\x00\x00\x00"), differs: "denied request with a body"},
		{name: "gRPC, no token", want: "200", send: http1("POST /x HTTP/1.1", host, "Content-Type: application/grpc", "Content-Length: 5", "", "\x00\x00\x00\x00\x00"), differs: "denied request with a body"},
		{name: "denied POST", want: "401", send: http1("POST /x HTTP/1.1", host, "Content-Length: 3", "", "abc"), differs: "denied request with a body"},

		{name: "HTTP/2, HEADERS alone", want: "200", send: over2(frames{header: bearer}, get...)},
		{name: "HTTP/2, HEADERS alone, no token", want: "401", send: over2(frames{}, get...)},
		{name: "HTTP/2, empty DATA", want: "200", send: over2(frames{header: bearer, body: []string{""}}, post...)},
		{name: "HTTP/2, empty DATA, no token", want: "401", send: over2(frames{body: []string{""}}, post...)},
		{name: "HTTP/2, trailers", want: "200", send: over2(frames{header: bearer, body: []string{"abc"}, trailer: []string{"x-trailer", "1"}}, post...)},
		{name: "HTTP/2, trailers, no token", want: "401", send: over2(frames{body: []string{"abc"}, trailer: []string{"x-trailer", "1"}}, post...)},
		{name: "HTTP/2, the token in the trailers", want: "401", send: over2(frames{body: []string{"abc"}, trailer: bearer}, post...)},
		{name: "HTTP/2, CONTINUATION", want: "200", send: over2(frames{header: append([]string{"x-big", strings.Repeat("a\x80", 20<<10)}, bearer...)}, get...)},
		{name: "HTTP/2, authority and host", want: "200", send: over2(frames{header: append([]string{"host", "other.example"}, bearer...)}, get...)},
		{name: "HTTP/2, authority twice", want: "closed", send: over2(frames{header: bearer}, append(get, ":authority", "other.example")...)},
		{name: "HTTP/2, path twice", want: "closed", send: over2(frames{header: bearer}, append(get, ":path", "/public")...)},
		{name: "HTTP/2, Authorization twice", want: "400", send: over2(frames{header: append(bearer, bearer...)}, get...)},
		{name: "HTTP/2, cookie crumbs", want: "200", send: over2(frames{header: []string{"cookie", "a=1", "cookie", "session=TOKEN"}}, ":method", "GET", ":scheme", "http", ":path", "/cookie", ":authority", "api.example")},
		{name: "HTTP/2, WebSocket", want: "200", send: over2(frames{header: bearer, body: []string{"1\n"}}, socket...)},
		{name: "HTTP/2, WebSocket, no token", want: "401", send: over2(frames{body: []string{"1\n"}}, socket...)},
		{name: "HTTP/2, gRPC, no token", want: "200", send: over2(frames{header: []string{"content-type", "application/grpc", "te", "trailers"}, body: []string{"\x00\x00\x00\x00\x00"}}, post...)},
		{name: "HTTP/2, no route, no token", want: "404", send: over2(frames{}, ":method", "GET", ":scheme", "http", ":path", "/x", ":authority", "nowhere.example"), differs: "request without a route"},
	}
	return list
}()

// TestDoors sends requests that servers like to read differently through both doors. The
// client and the upstream see the same, but for what docs/in-process.md lists.
func TestDoors(t *testing.T) {
	t.Parallel()
	for name, lookup := range map[string]bool{"at once": false, "waiting": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t, lookup)
			for _, h := range hostiles {
				got := map[string]outcome{}
				for door, e := range d.envoys {
					o := decided(t, func() outcome { return h.send(t, e.Addr("front"), d.token) })
					o.Upstream = strings.ReplaceAll(strings.Join(d.up.take(), "\n"), d.token, "TOKEN")
					assert.NotContains(t, o.Upstream, "root", "%s, %s: a spoofed identity", h.name, door)
					got[door] = o
				}
				assert.Equal(t, h.want, got[asking].Status, h.name)
				assert.Equal(t, strings.HasPrefix(h.want, "200") || h.want == "101" || strings.HasSuffix(h.want, " 200"), got[asking].Upstream != "" || got[asking].GRPC != "", "%s: %v", h.name, got)
				a, b := got[asking], got[within]
				switch h.differs {
				case "denied request with a body":
					assert.False(t, a.Close, h.name)
					assert.True(t, b.Close, h.name)
					b.Close = false
				case "request without a route":
					assert.Equal(t, "404", a.Status, h.name)
					assert.Contains(t, []string{"400", "401"}, b.Status, h.name)
					assert.Empty(t, b.Upstream, h.name)
					continue
				}
				assert.Equal(t, a, b, h.name)
			}
			revoked, unfit := d.Token(map[string]any{"jti": "gone"}), d.Token(map[string]any{"sub": "a\r\nx-admin: true"})
			d.Revoke(t, map[string]any{"jti": "gone"})
			for door, e := range d.envoys {
				front := harness.FrontOf(t, e, "front")
				front.AwaitStatus(t, revoked, 401, 20*time.Second)
				assert.Equal(t, 401, front.Bearer(t, unfit).Status, "%s: a claim that is no header", door)
				d.up.take()
				post := http1("POST /x HTTP/1.1", "Host: a", "Authorization: Bearer TOKEN", "Content-Length: 3", "", "abc")
				o := decided(t, func() outcome { return post(t, e.Addr("front"), revoked) })
				assert.Equal(t, "401", o.Status, door)
				assert.Equal(t, door == within && !lookup, o.Close, "%s: connection: close", door)
				assert.Empty(t, d.up.take(), door)
			}
		})
	}
}

// TestInternalRedirect: Envoy runs its filters again for the request that it makes of a
// redirect. Both doors decide again, about the new path.
func TestInternalRedirect(t *testing.T) {
	t.Parallel()
	d := newDoors(t, false)
	admin := d.Token(map[string]any{"scope": "admin"})
	for door, e := range d.envoys {
		f := harness.FrontOf(t, e, "front")
		for _, c := range []struct {
			from, to, token string
			want            int
		}{
			{"/redirect-cookie", "/public", d.token, 200},
			{"/redirect-cookie", "/cookie", d.token, 401}, // the first decision has removed the cookie
			{"/redirect", "/x", d.token, 200},
			{"/redirect", "/admin", d.token, 403},
			{"/redirect", "/admin", admin, 200},
			{"/redirect-public", "/x", "", 401},
			{"/redirect-public", "/admin", "", 401},
			{"/redirect-public", "/public", "", 200},
			{"/redirect-public", "/admin", admin, 200},
		} {
			name := fmt.Sprintf("%s: %s to %s, token %t", door, c.from, c.to, c.token != "")
			for range 2 { // the second answer may be one that was kept with the token
				var header []string
				switch {
				case c.from == "/redirect-cookie":
					header = []string{"Cookie", "session=" + c.token}
				case c.token != "":
					header = []string{"Authorization", "Bearer " + c.token}
				}
				reply, err := f.Do(t.Context(), http.MethodGet, c.from+"?to="+f.URL+c.to, append(header, "X-Jwt-Sub", "root")...)
				require.NoError(t, err)
				assert.Equal(t, c.want, reply.Status, name)
				seen := d.up.take()
				require.NotEmpty(t, seen, name)
				assert.Len(t, seen, map[bool]int{true: 2, false: 1}[c.want == 200], "%s: %q", name, seen)
				assert.NotContains(t, strings.Join(seen, ""), "root", name)
			}
		}
	}
}

// TestHTTP3: requests over QUIC, which another listener of the same Envoy makes of
// HTTP/1, through both doors.
func TestHTTP3(t *testing.T) {
	t.Parallel()
	for name, lookup := range map[string]bool{"at once": false, "waiting": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t, lookup)
			for door, e := range d.envoys {
				f := harness.FrontOf(t, e, "edge")
				for _, c := range []struct {
					method, token string
					want          int
				}{{"GET", d.token, 200}, {"GET", "", 401}, {"POST", d.token, 200}, {"POST", "", 401}} {
					d.up.take()
					text := fmt.Sprintf("%s /x HTTP/1.1\r\nHost: api.example\r\nX-Jwt-Sub: root\r\n", c.method)
					if c.token != "" {
						text += "Authorization: Bearer " + c.token + "\r\n"
					}
					if c.method == "POST" {
						text += "Content-Length: 3\r\n\r\nabc"
					}
					got := decided(t, func() outcome { return raw(t, strings.TrimPrefix(f.URL, "http://"), text+"\r\n") })
					assert.Equal(t, fmt.Sprint(c.want), got.Status, "%s: %s, token %t", door, c.method, c.token != "")
					seen := d.up.take()
					assert.Len(t, seen, map[int]int{200: 1}[c.want], "%s: %s", door, c.method)
					assert.NotContains(t, strings.Join(seen, ""), "root", door)
					for _, request := range seen {
						assert.Contains(t, request, "HTTP/3", door)
					}
				}
			}
		})
	}
}

// awaitLog waits until Envoy's log has lines with the text, and returns them. Envoy writes
// its access log every ten seconds.
func awaitLog(t *testing.T, e *harness.EnvoyServer, text string) (lines string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "log", func(context.Context) error {
		for line := range strings.Lines(e.Log()) {
			if strings.Contains(line, text) {
				lines += line
			}
		}
		if lines == "" {
			return fmt.Errorf("no line with %s", text)
		}
		return nil
	})
	return lines
}

// TestDoorsDiffer measures the table "Know the differences from ext_authz" of
// docs/in-process.md, as far as TestDoors has not.
func TestDoorsDiffer(t *testing.T) {
	t.Parallel()
	d := newDoors(t, false)
	old := harness.OldModuleEnvoy(t)
	type byDoor map[string]int
	front := func(door string) *harness.Front { return harness.FrontOf(t, d.envoys[door], "front") }
	get := func(door, path string, header ...string) harness.Reply {
		t.Helper()
		reply, err := front(door).Do(t.Context(), http.MethodGet, path, header...)
		require.NoError(t, err)
		return reply
	}
	bearer := "Bearer " + d.token
	for door := range d.envoys {
		assert.Equal(t, 401, get(door, "/x", "X-Case", "denied").Status)
		assert.Equal(t, 200, get(door, "/x", "X-Case", "allowed", "Authorization", bearer).Status)
	}
	for path, want := range map[string]byDoor{
		"/disabled": {asking: 200, within: 401}, // by the settings of ext_authz
		"/off":      {asking: 200, within: 200}, // by the FilterConfig that every filter has
	} {
		for door, status := range want {
			assert.Equal(t, status, get(door, path).Status, "%s: %s", door, path)
		}
	}
	source := map[string]byDoor{"/proxied": {asking: 200, within: 403}, "/here": {asking: 403, within: 200}}
	if old {
		source = map[string]byDoor{"/proxied": {asking: 200, within: 403}, "/here": {asking: 403, within: 403}}
	}
	for path, want := range source {
		for door, status := range want {
			o := raw(t, d.envoys[door].Addr("proxied"), "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET "+path+" HTTP/1.1\r\nHost: a\r\nAuthorization: "+bearer+"\r\n\r\n")
			assert.Equal(t, fmt.Sprint(status), o.Status, "%s: %s, through the PROXY protocol", door, path)
		}
	}
	assert.NotEmpty(t, d.envoys[asking].Stats(t, "ext_authz"))
	assert.Empty(t, d.envoys[within].Stats(t, "ext_authz"))
	assert.Empty(t, d.envoys[within].Stats(t, "jwt"))

	require.NoError(t, d.envoys[within].Signal(syscall.SIGHUP))
	d.Bouncer.Kill()
	for door, status := range (byDoor{asking: 403, within: 200}) {
		assert.Equal(t, status, get(door, "/x", "Authorization", bearer).Status, "%s: the sidecar is gone", door)
	}
	assert.Contains(t, awaitLog(t, d.envoys[within], "SIGHUP"), "eating SIGHUP", "the signal is Envoy's")

	sub := "sub=alice"
	if old {
		sub = "sub=-"
	}
	for door, want := range map[string]string{asking: "flags=UAEX details=ext_authz_denied", within: "flags=- details=jwt_bouncer_denied"} {
		assert.Contains(t, awaitLog(t, d.envoys[door], "case=denied"), want, "the access log of a denial")
		assert.Contains(t, awaitLog(t, d.envoys[door], "case=allowed"), sub, "%s: dynamic metadata", door)
	}
}

// TestDoorsDifferByDefault measures what ext_authz passes on only if it is told to.
func TestDoorsDifferByDefault(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: "routes:\n  - {name: repeated, match: {paths: [{prefix: /repeated}]}, allow: [\"request.headers['x-repeated'] == 'a,b'\"]}\n  - {name: named, match: {paths: [{prefix: /named}]}, allow: [\"request.server_name == 'front'\"]}\n  - {name: rest}\n"})
	_, serverPEM, serverKey := selfSigned(t, "front")
	mine, minePEM, _ := selfSigned(t, "mine")
	bound := r.Token(map[string]any{"cnf": map[string]any{"x5t#S256": hash(string(mine.Certificate[0]))}})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(serverPEM))
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{mine}, ServerName: "front"}}}
	named := 200
	if harness.ModuleEnvoyVersion(t) == "1.38" {
		named = 403
	}
	for _, c := range []struct {
		module, inspect bool
		certificate     int // status of a token that is bound to the client's certificate
		name            int // status of a request that needs the server name
		extra           string
	}{{false, true, 401, 403, ""}, {false, false, 401, 200, "include_tls_session: true"}, {true, false, 200, 403, ""}, {true, true, 200, named, ""}} {
		f := r.Door(t, c.module, r.Upstream.Addr, harness.FrontOptions{Timeout: 5 * time.Second, Inspect: c.inspect, Extra: c.extra, Transport: tlsTransport(serverPEM, serverKey, minePEM)})
		get := func(path, token string) int {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.Addr("front")+path, http.NoBody)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header["X-Repeated"] = []string{"a", "b"}
			resp, err := client.Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return resp.StatusCode
		}
		assert.Equal(t, c.certificate, get("/", bound), "module %t: client certificate", c.module)
		assert.Equal(t, c.name, get("/named", r.Token(nil)), "module %t: server name", c.module)
		assert.Equal(t, 200, get("/repeated", r.Token(nil)), "module %t: repeated header", c.module)
	}
}

// TestModulePerRoute: Envoy refuses settings of the module on a route.
func TestModulePerRoute(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	dir := harness.Dir(t)
	config := harness.WriteFile(t, dir, "config.yaml", "issuers: [{issuer: 'https://issuer.example', audiences: [api], jwks: 'http://127.0.0.1:9/keys'}]\nstore: sqlite://"+dir+"/revocations.db\nlisten: {http: ''}\n")
	text := moduleListeners(config)
	require.NoError(t, harness.ValidateEnvoy(t, text, harness.ModuleEnvoy(t)))
	perRoute := strings.Replace(text, "direct_response: {status: 200}", `direct_response: {status: 200}, typed_per_filter_config: {envoy.filters.http.dynamic_modules: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute, dynamic_module_config: {name: jwt_bouncer, do_not_close: true}, per_route_config_name: jwt_bouncer}}`, 1)
	require.NotEqual(t, text, perRoute)
	require.ErrorContains(t, harness.ValidateEnvoy(t, perRoute, harness.ModuleEnvoy(t)), "per_route")
}
