package doctor

import (
	"fmt"
	"slices"
	"strings"
)

const httpFilter = "envoy.extensions.filters.http."

// Filters by what they can do, after the name of their package.
var (
	// answering filters reply themselves, from data that needs authorization.
	answering = []string{"cache", "cache_v2", "file_server", "aws_lambda", "mcp_router"}
	// programs run code of the operator: nothing tells what they do.
	programs = []string{"lua", "wasm", "golang", "ext_proc", "dynamic_modules", "composite", "filter_chain", "transform"}
	// rerouting filters have a route selected again, by what they have changed.
	rerouting = []string{"grpc_json_transcoder", "grpc_json_reverse_transcoder", "mcp_json_rest_bridge", "on_demand"}
	// harmless filters answer only with refusals, preflights or health, and change
	// what the sidecar judges only as their configuration says.
	harmless = []string{"router", "header_mutation", "header_to_metadata", "json_to_metadata", "set_metadata", "set_filter_state", "jwt_authn", "mcp", "rate_limit_quota", "cors", "csrf", "rbac", "fault", "buffer", "compressor", "decompressor", "grpc_stats", "grpc_web", "grpc_http1_bridge", "connect_grpc_bridge", "local_ratelimit", "ratelimit", "bandwidth_limit", "bandwidth_share", "admission_control", "adaptive_concurrency", "stateful_session", "health_check", "ip_tagging", "geoip", "tap", "cdn_loop", "original_src", "alternate_protocols_cache", "upstream_codec", "kill_request", "file_system_buffer", "body_size_limit", "custom_response", "gcp_authn", "aws_request_signing", "basic_auth", "api_key_auth", "oauth2", "dynamic_forward_proxy", "grpc_http1_reverse_bridge", "grpc_field_extraction", "proto_message_extraction", "proto_api_scrubber", "thrift_to_metadata", "sse_to_metadata", "credential_injector",
		// Istio's, which report and negotiate.
		"io.istio.http.peer_metadata.Config", "stats.PluginConfig", "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"}
)

// kind is the package of an HTTP filter, such as "lua"; for filters of others, the
// name of the message.
func (f filter) kind() string {
	name, ok := strings.CutPrefix(f.typ, httpFilter)
	if !ok {
		return f.typ
	}
	kind, _, _ := strings.Cut(name, ".")
	return kind
}

// order examines the filters before and after the one that asks the sidecar.
func (p *proxy) order(c chain, at int) {
	const id = "envoy.order"
	clean := true
	report := func(s Status, i int, format string, args ...any) {
		clean = false
		f := c.filters[i]
		p.find(s, id, fmt.Sprintf("%s, http_filters[%d] %s", c.where, i, f.name), format, args...)
	}
	for i, f := range c.filters {
		kind, before := f.kind(), i < at
		switch {
		case i == at || f.typ == typeExtAuthz:
		case slices.Contains(answering, kind) && before:
			report(Failure, i, "%s answers requests, and stands before ext_authz", kind)
		case kind == "cache" || kind == "cache_v2":
			report(Warning, i, "%s keeps answers behind ext_authz, for callers with other rights", kind)
		case slices.Contains(programs, kind):
			if before {
				p.unknown(id, fmt.Sprintf("%s, http_filters[%d] %s", c.where, i, f.name), "%s before ext_authz runs code that may answer the request", kind)
			} else {
				p.unknown(id, fmt.Sprintf("%s, http_filters[%d] %s", c.where, i, f.name), "%s after ext_authz runs code that may change identity headers, path, or the route", kind)
			}
		case kind == "credential_injector" && before:
			report(Failure, i, "credential_injector before ext_authz gives requests a credential that they did not bring")
		case kind == "header_mutation" && before:
			if names := appended(f.cfg, func(name string) bool { return slices.Contains(p.Credentials, strings.ToLower(name)) }); len(names) > 0 {
				report(Failure, i, "request_mutations before ext_authz give requests a credential that they did not bring: %s", strings.Join(names, ", "))
			}
		case kind == "jwt_authn" && before:
			if names := keepsToken(f.cfg); len(names) > 0 {
				report(Warning, i, "jwt_authn before ext_authz removes the token, because forward is not true for %s", strings.Join(names, ", "))
			}
		case kind == "grpc_json_transcoder" && !before:
			report(Warning, i, "grpc_json_transcoder after ext_authz changes the path: the sidecar judges another one than the upstream serves")
		case kind == "header_mutation" && !before:
			if names := p.mutated(f.cfg); len(names) > 0 {
				report(Failure, i, "request_mutations after ext_authz change %s", strings.Join(names, ", "))
			}
		case kind == "jwt_authn" && !before:
			if names := p.forwarded(f.cfg); len(names) > 0 {
				report(Failure, i, "jwt_authn after ext_authz sets %s", strings.Join(names, ", "))
			}
		case slices.Contains(answering, kind), slices.Contains(rerouting, kind), slices.Contains(harmless, kind):
		case f.typ == "":
			p.unknown(id, fmt.Sprintf("%s, http_filters[%d] %s", c.where, i, f.name), "the configuration of the filter is not known")
		default:
			p.unknown(id, fmt.Sprintf("%s, http_filters[%d] %s", c.where, i, f.name), "the doctor does not know %s", kind)
		}
	}
	if clean {
		p.pass(id, c.where)
	}
}

// upstreamFilters examines the filters of the clusters behind the sidecar
// (HttpProtocolOptions.http_filters), which run after all others.
func (p *proxy) upstreamFilters(where string, t routeTable) {
	for _, name := range t.clusters() {
		for _, o := range p.clusters[name].get("typed_extension_protocol_options").fields() {
			typ, options := o.message()
			if typ != typeHTTPOptions {
				continue
			}
			at := fmt.Sprintf("%s, cluster %s", where, name)
			for _, f := range p.httpFilters(at, options.get("http_filters").list()) {
				switch names := p.mutated(f.cfg); {
				case f.kind() == "header_mutation" && len(names) > 0:
					p.find(Failure, "envoy.identity", at, "its http_filters %s sets %s", f.name, strings.Join(names, ", "))
				case slices.Contains(programs, f.kind()):
					p.unknown("envoy.identity", at, "its http_filters %s runs code that may change identity headers", f.name)
				}
			}
		}
	}
}

// guarded reports whether a request header must not change after the check: who
// the caller is, or what was checked.
func (p *proxy) guarded(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	return name == ":path" || name == ":authority" || name == "host" || name == ":method" ||
		slices.ContainsFunc(p.IdentityHeaders, func(h string) bool { return strings.ReplaceAll(h, "_", "-") == name })
}

// mutated returns the guarded headers that a HeaderMutation filter, or a route's
// HeaderMutationPerRoute, sets. Removing one only takes rights away.
func (p *proxy) mutated(cfg node) []string { return appended(cfg, p.guarded) }

// appended returns the request headers that mutations set and that fit.
func appended(cfg node, fit func(name string) bool) []string {
	var out []string
	for _, m := range cfg.get("mutations", "request_mutations").list() {
		if name := m.get("append", "header", "key").str(); name != "" && fit(name) {
			out = append(out, name)
		}
	}
	return out
}

// keepsToken returns the providers of a JwtAuthentication filter that keep the
// token from what follows.
func keepsToken(cfg node) []string {
	var out []string
	for name, provider := range cfg.get("providers").fields() {
		if !provider.get("forward").on() {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// forwarded returns the guarded headers that a JwtAuthentication filter sets.
func (p *proxy) forwarded(cfg node) []string {
	var out []string
	for _, provider := range cfg.get("providers").fields() {
		names := []string{provider.get("forward_payload_header").str()}
		for _, claim := range provider.get("claim_to_headers").list() {
			names = append(names, claim.get("header_name").str())
		}
		for _, name := range names {
			if name != "" && p.guarded(name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// reroutes returns the filters after ext_authz that may have another route
// selected, or answer without one.
func (c chain) reroutes(at int) []string {
	var out []string
	for _, f := range c.filters[at+1:] {
		k := f.kind()
		known := f.typ == typeExtAuthz || slices.Contains(harmless, k)
		if k == "ext_proc" {
			known = f.cfg.get("disable_clear_route_cache").on() || f.cfg.get("route_cache_action").is("RETAIN", 2)
		}
		if !known || clearsRouteCache(f.cfg) {
			out = append(out, f.name)
		}
	}
	return out
}

// clearsRouteCache reports whether a message, or one inside it, has
// clear_route_cache set.
func clearsRouteCache(n node) bool {
	if n.get("clear_route_cache").on() {
		return true
	}
	for _, f := range n.fields() {
		if clearsRouteCache(f) {
			return true
		}
	}
	return slices.ContainsFunc(n.list(), clearsRouteCache)
}
