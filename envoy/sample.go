package envoy

import (
	_ "embed"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"text/template"
)

// Sample holds the parameters of SampleConfig.
type Sample struct {
	Listen           string            // host:port of the ingress listener; port 0 means any free port
	Service          string            // listen.grpc of the sidecar: host:port or unix:///path
	Upstream         string            // host:port of the protected service
	AdminPort        int               // port of the admin interface on 127.0.0.1; 0 means none
	FailureModeAllow bool              // never true in production; tests show its effect
	Extensions       map[string]string // context_extensions of all requests; empty means none
}

//go:embed sample.yaml.tmpl
var sampleText string

var sampleTemplate = template.Must(template.New("envoy.yaml").Parse(sampleText))

// SampleConfig returns a bootstrap configuration for plain Envoy with the settings that
// jwt-bouncer recommends. The file envoy.yaml next to this one is the result of
// SampleConfig(Sample{Listen: "0.0.0.0:8080", Service: "127.0.0.1:9191",
// Upstream: "127.0.0.1:8000", AdminPort: 9901}).
func SampleConfig(s Sample) (string, error) {
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return "", fmt.Errorf("sample: listener: %w", err)
	}
	service, serviceType, err := envoyAddress(s.Service)
	if err != nil {
		return "", err
	}
	upstream, upstreamType, err := envoyAddress(s.Upstream)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = sampleTemplate.Execute(&b, map[string]any{
		"Host": host, "Port": port, "Service": service, "ServiceType": serviceType, "Upstream": upstream, "UpstreamType": upstreamType,
		"AdminPort": s.AdminPort, "FailureModeAllow": s.FailureModeAllow, "Extensions": s.Extensions,
	})
	if err != nil {
		return "", fmt.Errorf("sample: %w", err)
	}
	return b.String(), nil
}

// envoyAddress returns s as an Envoy address, and the type of a cluster with that address.
func envoyAddress(s string) (address, clusterType string, err error) {
	network, address, err := splitAddress(s)
	if err != nil {
		return "", "", fmt.Errorf("sample: %w", err)
	}
	if network == "unix" {
		return fmt.Sprintf("{pipe: {path: %q}}", address), "STATIC", nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Errorf("sample: %w", err)
	}
	clusterType = "STATIC"
	if _, err := netip.ParseAddr(host); err != nil {
		clusterType = "STRICT_DNS"
	}
	return fmt.Sprintf("{socket_address: {address: %q, port_value: %s}}", host, port), clusterType, nil
}
