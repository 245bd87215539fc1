package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// span is a span in OTLP's JSON encoding, with the name of the service that made it.
type span struct {
	Service      string
	TraceID      string
	SpanID       string
	ParentSpanID string
	Name         string
	Start        string `json:"startTimeUnixNano"`
	End          string `json:"endTimeUnixNano"`
	Attributes   []struct {
		Key   string
		Value struct {
			StringValue string
			BoolValue   bool
		}
	}
}

// sink receives what the collector exports.
type sink struct {
	mu    sync.Mutex
	spans []span
	err   error
}

func (s *sink) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var body struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes []struct {
					Key   string
					Value struct{ StringValue string }
				}
			}
			ScopeSpans []struct{ Spans []span }
		}
	}
	text, err := io.ReadAll(r.Body)
	err = errors.Join(err, json.Unmarshal(text, &body))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
	for _, r := range body.ResourceSpans {
		service := ""
		for _, a := range r.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.StringValue
			}
		}
		for _, scope := range r.ScopeSpans {
			for _, one := range scope.Spans {
				one.Service = service
				s.spans = append(s.spans, one)
			}
		}
	}
}

// trace returns the spans of the newest trace of which a span has this attribute.
func (s *sink) trace(key, value string) (found []span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range slices.Backward(s.spans) {
		for _, a := range one.Attributes {
			if a.Key == key && a.Value.StringValue == value {
				for _, other := range s.spans {
					if other.TraceID == one.TraceID {
						found = append(found, other)
					}
				}
				return found
			}
		}
	}
	return nil
}

// startCollector starts an OpenTelemetry Collector, and returns the address of its
// OTLP receiver and what it exports.
func startCollector(t *testing.T) (address string, out *sink) {
	t.Helper()
	out = &sink{}
	server := httptest.NewServer(out)
	t.Cleanup(server.Close)
	address = fmt.Sprint("127.0.0.1:", harness.Port(t))
	config := harness.WriteFile(t, harness.Dir(t), "collector.yaml", fmt.Sprintf(`receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
exporters:
  otlp_http: {endpoint: %q, encoding: json, compression: none}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp_http]}
`, address, server.URL))
	harness.Server(t, harness.ServerOptions{Name: "collector", Path: live(t, "bin/otelcol"), Args: []string{"--config", "file:" + config}, Self: true, Within: time.Minute,
		Ready: func(ctx context.Context) error {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return c.Close()
		}})
	return address, out
}

// tracingEnvoy starts an Envoy that traces every request and its check.
func tracingEnvoy(t *testing.T, authz, upstream, collector string) *harness.Front {
	t.Helper()
	address := func(hostport string) string {
		host, port, err := net.SplitHostPort(hostport)
		require.NoError(t, err)
		return fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)
	}
	cluster := func(name, hostport, more string) string {
		return fmt.Sprintf("  - {name: %s, connect_timeout: 1s%s, load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}}\n", name, more, name, address(hostport))
	}
	const http2 = `, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`
	e := harness.Envoy(t, `static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          tracing:
            random_sampling: {value: 100}
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: envoy
                grpc_service: {envoy_grpc: {cluster_name: collector}, timeout: 1s}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: authz}}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
`+cluster("upstream", upstream, "")+cluster("authz", authz, http2)+cluster("collector", collector, http2))
	return harness.FrontOf(t, e, "front")
}

// TestTraces: a real OpenTelemetry Collector receives Envoy's spans and the
// sidecar's, and the check is a child of Envoy's call in the trace of the request.
func TestTraces(t *testing.T) {
	collector, out := startCollector(t)
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: fmt.Sprintf("tracing: {endpoint: %q, ratio: 0}\n", "http://"+collector)})
	front := tracingEnvoy(t, r.Bouncer.GRPC, r.Upstream.Addr, collector)
	token := r.Token(nil)
	for range 20 { // the first ones also connect
		require.Equal(t, 200, front.Bearer(t, token).Status)
	}
	r.Revoke(t, map[string]any{"token": token})
	front.AwaitStatus(t, token, 401, 30*time.Second)
	for reason, allowed := range map[string]bool{"allowed": true, "revoked": false} {
		var spans []span
		harness.Eventually(t, time.Minute, "the trace of a check that was "+reason, func(context.Context) error {
			if spans = out.trace("jwt_bouncer.reason", reason); len(spans) < 3 && (allowed || len(spans) < 2) {
				return fmt.Errorf("spans: %+v", spans)
			}
			return nil
		})
		shape(t, spans, allowed)
		if allowed {
			picture(t, "trace.svg", gantt(spans))
		}
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	assert.NoError(t, out.err)
}

// shape requires that the sidecar's span has the call of Envoy as its parent.
func shape(t *testing.T, spans []span, allowed bool) {
	t.Helper()
	byID := map[string]span{}
	for _, s := range spans {
		byID[s.SpanID] = s
	}
	i := slices.IndexFunc(spans, func(s span) bool { return s.Service == "jwt-bouncer" })
	require.GreaterOrEqual(t, i, 0)
	check := spans[i]
	assert.Equal(t, "jwt-bouncer check", check.Name)
	parent, known := byID[check.ParentSpanID]
	require.Truef(t, known, "the check has a parent in %+v", spans)
	assert.Equal(t, "envoy", parent.Service)
	for _, a := range check.Attributes {
		if a.Key == "jwt_bouncer.allowed" {
			assert.Equal(t, allowed, a.Value.BoolValue)
		}
	}
}

// gantt draws a trace: a bar for each span, below its parent.
func gantt(spans []span) string {
	at := func(text string) float64 {
		n, _ := strconv.ParseFloat(text, 64)
		return n
	}
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return strings.Compare(a.Start, b.Start) })
	depth := map[string]int{}
	first, last := at(spans[0].Start), 0.0
	for _, s := range spans {
		if d, ok := depth[s.ParentSpanID]; ok {
			depth[s.SpanID] = d + 1
		} else {
			depth[s.SpanID] = 0
		}
		last = max(last, at(s.End))
	}
	const width, left, row = 900, 380, 26
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" fill="#1f2328" role="img"><title>The trace of a request</title><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", width, 12+len(spans)*row)
	for i, s := range spans {
		colour := "#9aa5b1"
		if s.Service == "jwt-bouncer" {
			colour = "#1f6feb"
		}
		y := 8 + i*row
		x := left + (at(s.Start)-first)/(last-first)*(width-left-80)
		w := max(2, (at(s.End)-at(s.Start))/(last-first)*(width-left-80))
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s: %s</text><rect x="%.1f" y="%d" width="%.1f" height="16" fill="%s"/><text x="%.1f" y="%d" font-size="10" fill="#57606a">%.2f ms</text>`+"\n",
			10+depth[s.SpanID]*18, y+13, html.EscapeString(s.Service), html.EscapeString(s.Name), x, y, w, colour, x+w+4, y+12, (at(s.End)-at(s.Start))/1e6)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
