package doctor

import (
	"net"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

func isLoopback(host string) bool { return authz.IsLoopback(host) }

// target is the cluster that an ext_authz filter asks; empty: none, or a client of
// gRPC's own (google_grpc).
func target(f filter) string { return f.cfg.get("grpc_service", "envoy_grpc", "cluster_name").str() }

// findSidecar finds out which cluster is the sidecar, unless it is configured: the
// one whose endpoint is listen.grpc, or whose name says so, or the only one that
// ext_authz filters ask.
func (p *proxy) findSidecar() {
	if p.Cluster != "" {
		return
	}
	asked := map[string]bool{}
	eachMessage(p.listeners, p.proxyConfig, func(name string, m node) {
		if name == typeExtAuthz {
			if c := target(filter{cfg: m}); c != "" {
				asked[c] = true
			}
		}
	})
	var names []string
	for c := range asked {
		names = append(names, c)
	}
	slices.Sort(names)
	for _, fits := range []func(string) bool{
		func(c string) bool { return p.isListener(c) },
		func(c string) bool { return strings.Contains(c, "jwt-bouncer") },
		func(string) bool { return len(names) == 1 },
	} {
		if i := slices.IndexFunc(names, fits); i >= 0 {
			p.Cluster = names[i]
			return
		}
	}
	if len(names) > 1 {
		p.unknown("envoy.ext_authz.several", "", "ext_authz filters ask %s, and nothing tells which one is the sidecar; pass --envoy-cluster", strings.Join(names, ", "))
	}
}

// isListener reports whether the cluster's endpoint is listen.grpc.
func (p *proxy) isListener(cluster string) bool {
	_, port, err := net.SplitHostPort(p.GRPC)
	return slices.ContainsFunc(p.addresses(cluster), func(a string) bool {
		host, other, _ := net.SplitHostPort(a)
		return a == p.GRPC || err == nil && other == port && (isLoopback(host) || strings.Contains(host, "jwt-bouncer"))
	})
}

// asksSidecar reports whether f is an ext_authz filter for the sidecar. One with a
// client that names no cluster counts, so that it is examined.
func (p *proxy) asksSidecar(f filter) bool {
	if f.typ != typeExtAuthz {
		return false
	}
	c := target(f)
	return c == "" || p.Cluster == "" || p.sameCluster(c)
}

// sameCluster reports whether the cluster is the sidecar, under whatever name.
func (p *proxy) sameCluster(name string) bool {
	if name == p.Cluster {
		return true
	}
	if _, known := p.clusters[p.Cluster]; !known {
		return false
	}
	return slices.ContainsFunc(p.addresses(name), func(a string) bool { return slices.Contains(p.addresses(p.Cluster), a) })
}

// eachMessage calls f with every message in the filters of the listeners.
func eachMessage(listeners []node, c *proxyConfig, f func(name string, m node)) {
	var walk func(n node)
	walk = func(n node) {
		switch v := n.v.(type) {
		case map[string]any:
			if name, fields := n.message(); name != "" {
				f(name, fields)
			}
			for _, child := range v {
				walk(node{child})
			}
		case []any:
			for _, child := range v {
				walk(node{child})
			}
		}
	}
	for _, l := range listeners {
		walk(l)
	}
	for _, e := range c.filters {
		walk(e)
	}
}

// cluster examines the cluster of the sidecar.
func (p *proxy) cluster(name string) {
	if p.sidecars[name] {
		return
	}
	p.sidecars[name] = true
	where := "cluster " + name
	c, ok := p.clusters[name]
	if !ok {
		p.unknown("envoy.cluster.http2", where, "the configuration does not have the cluster")
		return
	}
	options := node{}
	for _, o := range c.get("typed_extension_protocol_options").fields() {
		if typ, m := o.message(); typ == typeHTTPOptions {
			options = m
		}
	}
	http2 := c.get("http2_protocol_options")
	for _, path := range [][]string{{"explicit_http_config", "http2_protocol_options"}, {"auto_config", "http2_protocol_options"}} {
		if o := options.get(path...); o.exists() {
			http2 = o
		}
	}
	p.expect(http2.exists(), "envoy.cluster.http2", where, "neither explicit_http_config.http2_protocol_options nor http2_protocol_options is set, so Envoy speaks HTTP/1.1")
	breakers := node{}
	for _, t := range c.get("circuit_breakers", "thresholds").list() {
		if pr := t.get("priority"); !pr.exists() || pr.is("DEFAULT", 0) {
			breakers = t
		}
	}
	for _, field := range []string{"max_requests", "max_pending_requests"} {
		const envoyDefault = 1024
		n, set := breakers.get(field).number()
		if !set {
			n = envoyDefault
		}
		p.expect(n > envoyDefault, "envoy.cluster.circuit_breakers", where, "circuit_breakers.thresholds[DEFAULT].%s is %d%s", field, int(n), map[bool]string{false: ", Envoy's default"}[set])
	}
	local := true
	for _, a := range p.addresses(name) {
		host, _, _ := net.SplitHostPort(a)
		local = local && (strings.HasPrefix(a, "unix://") || strings.HasPrefix(a, "internal ") || isLoopback(host))
	}
	pipe := slices.ContainsFunc(p.addresses(name), func(a string) bool { return strings.HasPrefix(a, "unix://") })
	p.expect(pipe || http2.get("connection_keepalive", "interval").exists(), "envoy.cluster.keepalive", where, "http2_protocol_options.connection_keepalive is not set")
	p.transport(where, c, local)
}

// transport examines the encryption towards the sidecar.
func (p *proxy) transport(where string, c node, local bool) {
	socket := c.get("transport_socket")
	if matches := c.get("transport_socket_matches").list(); !socket.exists() && len(matches) > 0 {
		p.pass("envoy.cluster.tls", where+" has transport_socket_matches") // of a mesh, which encrypts by itself
		return
	}
	if !socket.exists() {
		p.expect(local, "envoy.cluster.tls", where, "transport_socket is not set, and the sidecar is not on a loopback address or socket (%s)", strings.Join(p.addresses(strings.TrimPrefix(where, "cluster ")), ", "))
		return
	}
	typ, tls := socket.get("typed_config").message()
	if typ != "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" {
		p.unknown("envoy.cluster.tls", where, "transport_socket is a %s", typ)
		return
	}
	common := tls.get("common_tls_context")
	validated := false
	for _, path := range [][]string{
		{"validation_context", "trusted_ca"}, {"validation_context", "system_root_certs"}, {"validation_context", "verify_certificate_spki"}, {"validation_context", "verify_certificate_hash"},
		{"combined_validation_context", "default_validation_context", "trusted_ca"}, {"combined_validation_context", "validation_context_sds_secret_config"},
		{"validation_context_sds_secret_config"}, {"validation_context", "ca_certificate_provider_instance"},
	} {
		validated = validated || common.get(path...).exists()
	}
	p.expect(validated, "envoy.cluster.tls", where, "common_tls_context has no validation_context with trusted_ca, so any certificate is accepted")
}
