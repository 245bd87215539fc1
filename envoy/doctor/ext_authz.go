package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// envoyTimeout is what Envoy takes for a missing grpc_service.timeout.
	envoyTimeout = 200 * time.Millisecond
	// longTimeout is above what any check needs. During an outage of the sidecar
	// each request occupies Envoy for as long.
	longTimeout = 2 * time.Second
	// maxBody is how much of a body may be sent, so that a check stays below the
	// sidecar's limit for a message.
	maxBody = 8 << 20
)

// extAuthz examines the settings of a filter that asks the sidecar.
func (p *proxy) extAuthz(where string, f filter) {
	c := f.cfg
	p.service(where, c.get("grpc_service"), c.get("http_service"))
	p.expect(!c.get("failure_mode_allow").on(), "envoy.ext_authz.failure_mode_allow", where, "failure_mode_allow is true")
	p.expect(!c.get("failure_mode_allow_header_add").on(), "envoy.ext_authz.failure_mode_allow_header_add", where, "failure_mode_allow_header_add is true")
	p.expect(!c.get("shadow_mode").on(), "envoy.ext_authz.shadow_mode", where, "shadow_mode is true")
	code := c.get("status_on_error", "code")
	p.expect(code.is("ServiceUnavailable", 503), "envoy.ext_authz.status_on_error", where, "status_on_error is %s", orText(code, "not set, which means 403"))
	p.expect(c.get("encode_raw_headers").on(), "envoy.ext_authz.encode_raw_headers", where, "encode_raw_headers is not true")
	p.expect(c.get("validate_mutations").on(), "envoy.ext_authz.validate_mutations", where, "validate_mutations is not true")
	p.expect(c.get("include_tls_session").on(), "envoy.ext_authz.include_tls_session", where, "include_tls_session is not true")
	switch good := c.get("include_peer_certificate").on(); {
	case !good && p.Certificate:
		p.find(Failure, "envoy.ext_authz.include_peer_certificate", where, "include_peer_certificate is not true, and a route of the sidecar requires the client's certificate")
	default:
		p.expect(good, "envoy.ext_authz.include_peer_certificate", where, "include_peer_certificate is not true")
	}
	p.body(where, c.get("with_request_body"))
	p.headersInCheck(where, c)
	p.mutationRules(where, c.get("decoder_header_mutation_rules"))
	ingests := c.get("enable_dynamic_metadata_ingestion")
	p.expect(!p.Metadata || !ingests.exists() || ingests.on(), "envoy.ext_authz.metadata", where, "enable_dynamic_metadata_ingestion is false, and headers.metadata names claims for later filters")
	p.expect(!c.get("clear_route_cache").on(), "envoy.ext_authz.clear_route_cache", where, "clear_route_cache is true")
	p.enabled(where, f)
}

// service examines how the sidecar is asked.
func (p *proxy) service(where string, grpc, http node) {
	if http.exists() || !grpc.exists() {
		p.find(Failure, "envoy.ext_authz.grpc_service", where, "grpc_service is not set")
		return
	}
	if grpc.get("google_grpc").exists() {
		p.unknown("envoy.cluster.http2", where, "grpc_service.google_grpc is a client of its own, without a cluster of Envoy")
	}
	p.pass("envoy.ext_authz.grpc_service", where)
	const id = "envoy.ext_authz.timeout"
	d, set := grpc.get("timeout").seconds()
	if !set {
		d = envoyTimeout
	}
	switch {
	case d == 0:
		p.find(Warning, id, where, "grpc_service.timeout is 0, which means no limit")
	case d < p.AnswerTime:
		p.find(Failure, id, where, "grpc_service.timeout is %s, and the sidecar takes up to %s", d, p.AnswerTime)
	case d > longTimeout:
		p.find(Warning, id, where, "grpc_service.timeout is %s", d)
	default:
		p.pass(id, where)
	}
	if name := grpc.get("envoy_grpc", "cluster_name").str(); name != "" {
		p.cluster(name)
	}
}

func (p *proxy) body(where string, b node) {
	const id = "envoy.ext_authz.with_request_body"
	switch n, _ := b.get("max_request_bytes").number(); {
	case !b.exists():
		p.pass(id, where)
	case n > maxBody:
		p.find(Failure, id, where, "with_request_body.max_request_bytes is %d", int64(n))
	default:
		p.find(Warning, id, where, "with_request_body is set")
	}
}

// headersInCheck examines which headers the sidecar sees.
func (p *proxy) headersInCheck(where string, c node) {
	const id = "envoy.ext_authz.allowed_headers"
	allowed, disallowed := c.get("allowed_headers"), c.get("disallowed_headers")
	hidden := func(name string) bool {
		return allowed.exists() && !matchesAny(allowed, name) || matchesAny(disallowed, name)
	}
	needed := slices.Clone(p.Credentials)
	if p.DPoP {
		needed = append(needed, "dpop")
	}
	needed = slices.DeleteFunc(needed, func(name string) bool { return !hidden(name) })
	underscores := false
	for _, name := range p.IdentityHeaders {
		underscores = underscores || hidden(strings.ReplaceAll(name, "-", "_"))
	}
	switch {
	case len(needed) > 0:
		p.find(Failure, id, where, "allowed_headers or disallowed_headers hide %s from the sidecar", strings.Join(needed, ", "))
	case underscores:
		p.find(Warning, id, where, "allowed_headers or disallowed_headers hide spellings of identity headers with underscores from the sidecar, which removes only what it sees")
	default:
		p.pass(id, where)
	}
}

// mutationRules examines which of the sidecar's changes to headers Envoy carries out.
func (p *proxy) mutationRules(where string, rules node) {
	const id = "envoy.ext_authz.mutation_rules"
	var refused []string
	for _, name := range append(slices.Clone(p.IdentityHeaders), p.Credentials...) {
		allow, deny := rules.get("allow_expression"), rules.get("disallow_expression")
		switch {
		case deny.exists() && matchesRegex(deny, name),
			rules.get("disallow_all").on() && !(allow.exists() && matchesRegex(allow, name)):
			refused = append(refused, name)
		}
	}
	p.expect(len(refused) == 0, id, where, "decoder_header_mutation_rules forbid the sidecar to set or remove %s", strings.Join(refused, ", "))
}

// enabled examines the conditions under which the filter runs.
func (p *proxy) enabled(where string, f filter) {
	const id = "envoy.ext_authz.enabled"
	c := f.cfg
	denies := c.get("deny_at_disable", "default_value").on()
	found := ""
	if e := c.get("filter_enabled"); e.exists() {
		n, _ := e.get("default_value", "numerator").number()
		whole := map[string]float64{"TEN_THOUSAND": 1e4, "MILLION": 1e6}[e.get("default_value", "denominator").str()]
		if d, isNumber := e.get("default_value", "denominator").number(); isNumber {
			whole = map[float64]float64{1: 1e4, 2: 1e6}[d]
		}
		if whole == 0 {
			whole = 100
		}
		switch key := e.get("runtime_key").str(); {
		case n < whole:
			found = fmt.Sprintf("filter_enabled is %g of %g requests", n, whole)
		case key != "":
			p.pick(denies, Warning, id, where, "filter_enabled can be lowered at run time by %s", key)
		}
	}
	if f.matched {
		found = "it is wrapped in an ExtensionWithMatcher and runs only for the requests that match"
	}
	switch {
	case found != "" && !(denies && !f.matched):
		p.find(Failure, id, where, "%s, and the others pass unchecked", found)
	case c.get("filter_enabled_metadata").exists() && !denies:
		p.find(Warning, id, where, "filter_enabled_metadata lets the metadata of %s decide whether the sidecar is asked", c.get("filter_enabled_metadata", "filter").str())
	default:
		p.pass(id, where)
	}
	p.expect(!f.optional, "envoy.ext_authz.is_optional", where, "is_optional is true")
}

// pick is expect with a status of its own.
func (p *proxy) pick(good bool, s Status, id, where, format string, args ...any) {
	if good {
		p.pass(id, where)
		return
	}
	p.find(s, id, where, format, args...)
}

func orText(n node, absent string) string {
	if !n.exists() {
		return absent
	}
	return fmt.Sprint(n.v)
}
