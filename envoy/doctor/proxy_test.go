package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cache/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_json_transcoder/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"jwtbouncer/envoy"
	"jwtbouncer/test/harness"
)

// need is what the sidecar in the tests needs of the proxy.
var need = Requirements{
	AnswerTime: 190 * time.Millisecond, IdentityHeaders: []string{"x-jwt-sub"}, Credentials: []string{"authorization"}, GRPC: "127.0.0.1:9191",
}

func sample(t testing.TB) string {
	text, err := envoy.SampleConfig(envoy.Sample{Listen: "0.0.0.0:8080", Service: "127.0.0.1:9191", Upstream: "127.0.0.1:8000", AdminPort: 9901})
	require.NoError(t, err)
	return text
}

// examine returns the results about a bootstrap configuration or dump that Envoy's
// own types can read, so that no test misspells a field.
func examine(t testing.TB, text string, n Requirements) []Result {
	t.Helper()
	asJSON := []byte(text)
	if !strings.HasPrefix(text, "{") {
		var err error
		asJSON, err = yaml.YAMLToJSON([]byte(text))
		require.NoError(t, err)
	}
	if strings.Contains(text, "ConfigDump") {
		require.NoError(t, protojson.Unmarshal(asJSON, &adminv3.ConfigDump{}), text)
	} else {
		require.NoError(t, protojson.Unmarshal(asJSON, &bootstrapv3.Bootstrap{}), text)
	}
	var r Report
	r.Proxy([]byte(text), n)
	return r.Results()
}

// bad returns the results that are not OK.
func bad(results []Result) []Result {
	var out []Result
	for _, r := range results {
		if r.Status != OK {
			out = append(out, r)
		}
	}
	return out
}

// TestSamplesPass: every configuration that the repository recommends passes.
func TestSamplesPass(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"envoy/envoy.yaml", "k8s/overlays/sidecar/bootstrap.yaml"} {
		text, err := os.ReadFile(filepath.Join(harness.Root(), file))
		require.NoError(t, err)
		results := examine(t, string(text), need)
		assert.Emptyf(t, bad(results), "%s", file)
		assert.Greater(t, len(results), 25, "checks were skipped")
	}
	// The others reach the sidecar over a network without TLS, for a container
	// network and a mesh that are trusted.
	for _, file := range []string{"envoy/compose.yaml", "k8s/overlays/envoy/bootstrap.yaml"} {
		text, err := os.ReadFile(filepath.Join(harness.Root(), file))
		require.NoError(t, err)
		found := bad(examine(t, string(text), need))
		if assert.Lenf(t, found, 1, "%s: %v", file, found) {
			assert.Equal(t, "envoy.cluster.tls", found[0].ID)
		}
	}
}

const (
	filterAt  = "                http_filters:\n"
	routerAt  = "                  - name: envoy.filters.http.router\n"
	extAuthzT = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3."
	routeAt   = "                        - match: {prefix: /}\n                          route: {cluster: upstream}\n"
	catchAllR = "                        - match: {prefix: /}\n                          direct_response: {status: 404}\n"
)

// httpFilterYAML is an entry of http_filters.
func httpFilterYAML(name, config string) string {
	return "                  - name: " + name + "\n                    typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http." + config + "}\n"
}

const lua = `lua.v3.Lua, default_source_code: {inline_string: "function envoy_on_request(h) end"}`

// perRoute is a typed_per_filter_config after the sample's route.
func perRoute(config string) string {
	return routeAt + "                          typed_per_filter_config: {envoy.filters.http.ext_authz: " + config + "}\n"
}

const (
	disabledRoute  = `{"@type": ` + extAuthzT + `ExtAuthzPerRoute, disabled: true}`
	settingsRoute  = `{"@type": ` + extAuthzT + `ExtAuthzPerRoute, check_settings: {context_extensions: {a: b}}}`
	disabledFilter = `{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}`
	wrappedRoute   = `{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: ` + disabledRoute + `}`
)

// listenerYAML is a second listener.
func listenerYAML(extra, filter string) string {
	return "    - name: other\n      address: {socket_address: {address: 0.0.0.0, port_value: 8081}}\n" + extra +
		"      filter_chains:\n        - filters:\n" + filter
}

const (
	managerT    = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	openManager = `            - name: http
              typed_config:
                "@type": ` + managerT + `
                stat_prefix: open
                route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, ACTION}]}]}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`
)

func managerTo(action string) string { return strings.Replace(openManager, "ACTION", action, 1) }

// change is a replacement of a piece of the sample.
type change struct{ from, to string }

// findings are changes of the sample and what the doctor says of each. Without its
// check, each is a test that fails.
var findings = []struct {
	name    string
	changes []change
	id      string
	status  Status
	where   string // a part of Where
	found   string // a part of Found
	need    func(*Requirements)
}{
	{"failure_mode_allow", []change{{"failure_mode_allow: false", "failure_mode_allow: true"}}, "envoy.ext_authz.failure_mode_allow", Failure, "listener ingress, http_filters[0] envoy.filters.http.ext_authz", "", nil},
	{"in lowerCamelCase", []change{{"failure_mode_allow: false", "failureModeAllow: true"}}, "envoy.ext_authz.failure_mode_allow", Failure, "ingress", "", nil},
	{"failure_mode_allow_header_add", []change{{"failure_mode_allow: false", "failure_mode_allow_header_add: true"}}, "envoy.ext_authz.failure_mode_allow_header_add", Warning, "ingress", "", nil},
	{"shadow_mode", []change{{"failure_mode_allow: false", "shadow_mode: true"}}, "envoy.ext_authz.shadow_mode", Failure, "ingress", "", nil},
	{"short timeout", []change{{"timeout: 0.2s", "timeout: 0.1s"}}, "envoy.ext_authz.timeout", Failure, "ingress", "100ms", nil},
	{"long timeout", []change{{"timeout: 0.2s", "timeout: 600s"}}, "envoy.ext_authz.timeout", Warning, "ingress", "10m0s", nil},
	{"no timeout", []change{{"timeout: 0.2s", "timeout: 0s"}}, "envoy.ext_authz.timeout", Warning, "ingress", "no limit", nil},
	{"no status_on_error", []change{{"status_on_error: {code: ServiceUnavailable}", ""}}, "envoy.ext_authz.status_on_error", Warning, "ingress", "403", nil},
	{"another status_on_error", []change{{"code: ServiceUnavailable", "code: 200"}}, "envoy.ext_authz.status_on_error", Warning, "ingress", "200", nil},
	{"joined headers", []change{{"encode_raw_headers: true", ""}}, "envoy.ext_authz.encode_raw_headers", Warning, "ingress", "", nil},
	{"mutations", []change{{"validate_mutations: true", ""}}, "envoy.ext_authz.validate_mutations", Warning, "ingress", "", nil},
	{"TLS session", []change{{"include_tls_session: true", ""}}, "envoy.ext_authz.include_tls_session", Warning, "ingress", "", nil},
	{"certificate", []change{{"include_peer_certificate: true", ""}}, "envoy.ext_authz.include_peer_certificate", Warning, "ingress", "", nil},
	{"certificate that is needed", []change{{"include_peer_certificate: true", ""}}, "envoy.ext_authz.include_peer_certificate", Failure, "ingress", "requires", func(n *Requirements) { n.Certificate = true }},
	{"body", []change{{"failure_mode_allow: false", "with_request_body: {max_request_bytes: 8192}"}}, "envoy.ext_authz.with_request_body", Warning, "ingress", "", nil},
	{"large body", []change{{"failure_mode_allow: false", "with_request_body: {max_request_bytes: 16777216}"}}, "envoy.ext_authz.with_request_body", Failure, "ingress", "16777216", nil},
	{"allowed_headers", []change{{"failure_mode_allow: false", "allowed_headers: {patterns: [{exact: host}, {prefix: x-}]}"}}, "envoy.ext_authz.allowed_headers", Failure, "ingress", "authorization", nil},
	{"allowed_headers without DPoP", []change{{"failure_mode_allow: false", "allowed_headers: {patterns: [{safe_regex: {regex: authorization}}, {prefix: x}]}"}}, "envoy.ext_authz.allowed_headers", Failure, "ingress", "dpop", func(n *Requirements) { n.DPoP = true }},
	{"disallowed_headers", []change{{"failure_mode_allow: false", "disallowed_headers: {patterns: [{exact: Authorization, ignore_case: true}]}"}}, "envoy.ext_authz.allowed_headers", Failure, "ingress", "authorization", nil},
	{"hidden underscores", []change{{"failure_mode_allow: false", "allowed_headers: {patterns: [{exact: authorization}, {exact: x-jwt-sub}]}"}}, "envoy.ext_authz.allowed_headers", Warning, "ingress", "underscores", nil},
	{"mutation rules", []change{{"failure_mode_allow: false", "decoder_header_mutation_rules: {disallow_all: true, allow_expression: {regex: authorization}}"}}, "envoy.ext_authz.mutation_rules", Failure, "ingress", "x-jwt-sub", nil},
	{"mutation expression", []change{{"failure_mode_allow: false", "decoder_header_mutation_rules: {disallow_expression: {regex: x-.*}}"}}, "envoy.ext_authz.mutation_rules", Failure, "ingress", "x-jwt-sub", nil},
	{"metadata", []change{{"failure_mode_allow: false", "enable_dynamic_metadata_ingestion: false"}}, "envoy.ext_authz.metadata", Warning, "ingress", "", func(n *Requirements) { n.Metadata = true }},
	{"clear_route_cache", []change{{"failure_mode_allow: false", "clear_route_cache: true"}}, "envoy.ext_authz.clear_route_cache", Warning, "ingress", "", nil},
	{"fraction", []change{{"failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 50, denominator: HUNDRED}}"}}, "envoy.ext_authz.enabled", Failure, "ingress", "50 of 100", nil},
	{"fraction of a million", []change{{"failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 100, denominator: MILLION}}"}}, "envoy.ext_authz.enabled", Failure, "ingress", "100 of 1e+06", nil},
	{"fraction at run time", []change{{"failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 100}, runtime_key: authz.on}"}}, "envoy.ext_authz.enabled", Warning, "ingress", "authz.on", nil},
	{"metadata decides", []change{{"failure_mode_allow: false", "filter_enabled_metadata: {filter: envoy.filters.http.rbac, path: [{key: a}], value: {string_match: {prefix: istio}}}"}}, "envoy.ext_authz.enabled", Warning, "ingress", "envoy.filters.http.rbac", nil},
	{"optional", []change{{"- name: envoy.filters.http.ext_authz\n", "- name: envoy.filters.http.ext_authz\n                    is_optional: true\n"}}, "envoy.ext_authz.is_optional", Warning, "ingress", "", nil},
	{"HTTP service", []change{{"grpc_service:\n                        envoy_grpc: {cluster_name: jwt-bouncer}\n                        # jwt-bouncer always answers within 0.19 s.\n                        timeout: 0.2s\n", "http_service: {server_uri: {uri: \"http://a\", cluster: jwt-bouncer, timeout: 0.2s}}\n"}}, "envoy.ext_authz.grpc_service", Failure, "ingress", "", nil},
	{"google_grpc", []change{{"envoy_grpc: {cluster_name: jwt-bouncer}", "google_grpc: {target_uri: \"127.0.0.1:9191\", stat_prefix: a}"}}, "envoy.cluster.http2", NotExamined, "ingress", "google_grpc", nil},
	{"matched filter", []change{{filterAt, filterAt + `                  - name: sometimes
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
                      xds_matcher: {}
                      extension_config: {name: a, typed_config: {"@type": ` + extAuthzT + `ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: jwt-bouncer}}}}
`}}, "envoy.ext_authz.enabled", Failure, "http_filters[0] sometimes", "ExtensionWithMatcher", nil},
	{"several", []change{{routerAt, httpFilterYAML("second", "ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: opa}}") + routerAt}}, "envoy.ext_authz.several", Warning, "ingress", "second", nil},

	{"normalize_path", []change{{"normalize_path: true", ""}}, "envoy.path.normalize_path", Warning, "listener ingress", "", nil},
	{"merge_slashes", []change{{"merge_slashes: true", "merge_slashes: false"}}, "envoy.path.merge_slashes", Warning, "listener ingress", "", nil},
	{"escaped slashes", []change{{"REJECT_REQUEST\n                # Some", "KEEP_UNCHANGED\n                # Some"}}, "envoy.path.escaped_slashes", Warning, "listener ingress", "KEEP_UNCHANGED", nil},
	{"underscores", []change{{"common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}", ""}}, "envoy.headers_with_underscores", Warning, "listener ingress", "not set", nil},
	{"admin", []change{{"admin:\n  address: {socket_address: {address: 127.0.0.1", "admin:\n  address: {socket_address: {address: 0.0.0.0"}}, "envoy.admin", Warning, "admin", "0.0.0.0:9901", nil},

	{"disabled route", []change{{routeAt, perRoute(disabledRoute)}}, "envoy.route.disabled", Failure, "listener ingress, virtual host all, route #0 (prefix /)", "ExtAuthzPerRoute.disabled", nil},
	{"disabled in FilterConfig", []change{{routeAt, perRoute(disabledFilter)}}, "envoy.route.disabled", Failure, "route #0", "FilterConfig.disabled", nil},
	{"disabled inside FilterConfig", []change{{routeAt, perRoute(wrappedRoute)}}, "envoy.route.disabled", Failure, "route #0", "ExtAuthzPerRoute.disabled", nil},
	{"disabled virtual host", []change{{routeAt, routeAt + "                      typed_per_filter_config: {envoy.filters.http.ext_authz: " + disabledRoute + "}\n"}}, "envoy.route.disabled", Failure, "route #0", "", nil},
	{"disabled route configuration", []change{{"                  virtual_hosts:\n", "                  typed_per_filter_config: {envoy.filters.http.ext_authz: " + disabledRoute + "}\n                  virtual_hosts:\n"}}, "envoy.route.disabled", Failure, "route #0", "", nil},
	{"disabled weighted cluster", []change{{"route: {cluster: upstream}", "route: {weighted_clusters: {clusters: [{name: upstream, weight: 1}, {name: b, weight: 1, typed_per_filter_config: {envoy.filters.http.ext_authz: " + disabledRoute + "}}]}}"}}, "envoy.route.disabled", Failure, "weighted cluster b", "", nil},
	{"disabled filter", []change{{"- name: envoy.filters.http.ext_authz\n", "- name: envoy.filters.http.ext_authz\n                    disabled: true\n"}}, "envoy.route.disabled", Failure, "route #0", "no typed_per_filter_config enables it", nil},
	{"other name", []change{{"- name: envoy.filters.http.ext_authz\n", "- name: envoy.filters.http.ext_authz/securitypolicy/default/jwt-bouncer\n                    disabled: true\n"}}, "envoy.route.disabled", Failure, "route #0", "ext_authz/securitypolicy/default/jwt-bouncer is disabled", nil},
	{"other service", []change{{routeAt, perRoute(`{"@type": ` + extAuthzT + `ExtAuthzPerRoute, check_settings: {grpc_service: {envoy_grpc: {cluster_name: yes-man}}}}`)}}, "envoy.route.other_service", Failure, "route #0", "yes-man", nil},
	{"other HTTP service", []change{{routeAt, perRoute(`{"@type": ` + extAuthzT + `ExtAuthzPerRoute, check_settings: {http_service: {server_uri: {uri: "http://a", cluster: jwt-bouncer, timeout: 1s}}}}`)}}, "envoy.route.other_service", Failure, "route #0", "http_service", nil},
	{"short timeout of a route", []change{{routeAt, perRoute(`{"@type": ` + extAuthzT + `ExtAuthzPerRoute, check_settings: {grpc_service: {timeout: 0.05s, envoy_grpc: {cluster_name: jwt-bouncer}}}}`)}}, "envoy.ext_authz.timeout", Failure, "check_settings", "50ms", nil},
	{"cluster_header", []change{{"route: {cluster: upstream}", "route: {cluster_header: x-to}"}}, "envoy.route.cluster_header", Warning, "route #0", "x-to", nil},
	{"cluster plugin", []change{{"route: {cluster: upstream}", "route: {cluster_specifier_plugin: a}"}}, "envoy.route.cluster_header", NotExamined, "route #0", "plugin", nil},
	{"internal redirect", []change{{"route: {cluster: upstream}", "route: {cluster: upstream, internal_redirect_policy: {}}"}}, "envoy.route.internal_redirect", Warning, "route #0", "", nil},
	{"to the sidecar", []change{{"route: {cluster: upstream}", "route: {cluster: jwt-bouncer}"}}, "envoy.route.to_sidecar", Warning, "route #0", "", nil},
	{"identity header", []change{{routeAt, routeAt + "                          request_headers_to_add: [{header: {key: X-JWT-Sub, value: root}}]\n"}}, "envoy.identity", Failure, "route #0", "X-JWT-Sub", nil},
	{"identity header with underscores", []change{{"                  virtual_hosts:\n", "                  request_headers_to_add: [{header: {key: x_jwt_sub, value: root}}]\n                  virtual_hosts:\n"}}, "envoy.identity", Failure, "listener ingress", "x_jwt_sub", nil},
	{"identity by HeaderMutationPerRoute", []change{{routeAt, routeAt + `                          typed_per_filter_config: {m: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute, mutations: {request_mutations: [{append: {header: {key: x-jwt-sub, value: a}}}]}}}` + "\n"}}, "envoy.identity", Failure, "route #0", "typed_per_filter_config m", nil},
	{"identity by a filter of the cluster", []change{{"    - name: upstream\n", `    - name: upstream
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http_protocol_options: {}}
          http_filters: [{name: late, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: x-jwt-sub, value: a}}}]}}}]
`}}, "envoy.identity", Failure, "cluster upstream", "late", nil},
	{"misnamed", []change{{routeAt, routeAt + "                          typed_per_filter_config: {authz: " + settingsRoute + "}\n"}}, "envoy.route.misnamed", Warning, "route #0", "authz", nil},
	{"forged certificate", []change{{"use_remote_address: true", "forward_client_cert_details: ALWAYS_FORWARD_ONLY"}}, "envoy.forwarded_certificate", Failure, "listener ingress", "ALWAYS", func(n *Requirements) { n.ForwardedCert = true }},
	{"forwarded certificate", []change{{"use_remote_address: true", "forward_client_cert_details: FORWARD_ONLY"}}, "envoy.forwarded_certificate", Warning, "listener ingress", "FORWARD_ONLY", func(n *Requirements) { n.ForwardedCert = true }},
	{"matcher tree", []change{{"                      routes:\n" + routeAt, `                      matcher: {on_no_match: {action: {name: route, typed_config: {"@type": type.googleapis.com/envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster: upstream}, typed_per_filter_config: {envoy.filters.http.ext_authz: ` + disabledRoute + "}}}}}\n"}}, "envoy.route.disabled", Failure, "matcher", "", nil},
	{"unknown configuration of the filter", []change{{routeAt, perRoute(`{"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}`)}}, "envoy.route.disabled", NotExamined, "route #0", "cors", nil},
	{"rds in a file", []change{{"                route_config:\n                  virtual_hosts:\n                    - name: all\n                      domains: [\"*\"]\n                      routes:\n" + routeAt, "                rds: {route_config_name: far, config_source: {ads: {}}}\n"}}, "envoy.route.disabled", NotExamined, "listener ingress", "far", nil},

	{"no route, Lua", []change{{`domains: ["*"]`, `domains: [api.example]`}, {routerAt, httpFilterYAML("script", lua) + routerAt}}, "envoy.route.none", Failure, "listener ingress", "script", nil},
	{"no route by a condition", []change{{"match: {prefix: /}", "match: {prefix: /, headers: [{name: a, present_match: true}]}"}, {routerAt, httpFilterYAML("script", lua) + routerAt}}, "envoy.route.none", Failure, "listener ingress", "script", nil},
	{"no route, clear_route_cache", []change{{`match: {prefix: /}`, `match: {prefix: /v1}`}, {routerAt, httpFilterYAML("state", "set_filter_state.v3.Config, clear_route_cache: true") + routerAt}}, "envoy.route.none", Failure, "listener ingress", "state", nil},

	{"cache before", []change{{filterAt, filterAt + httpFilterYAML("cache", "cache.v3.CacheConfig")}}, "envoy.order", Failure, "http_filters[0] cache", "before", nil},
	{"cache after", []change{{routerAt, httpFilterYAML("cache", "cache.v3.CacheConfig") + routerAt}}, "envoy.order", Warning, "http_filters[1] cache", "behind", nil},
	{"Lua before", []change{{filterAt, filterAt + httpFilterYAML("script", lua)}}, "envoy.order", NotExamined, "http_filters[0] script", "before", nil},
	{"Lua after", []change{{routerAt, httpFilterYAML("script", lua) + routerAt}}, "envoy.order", NotExamined, "http_filters[1] script", "after", nil},
	{"mutation after", []change{{routerAt, httpFilterYAML("m", "header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: \":path\", value: /admin}}}]}") + routerAt}}, "envoy.order", Failure, "http_filters[1] m", ":path", nil},
	{"jwt_authn after", []change{{routerAt, httpFilterYAML("j", "jwt_authn.v3.JwtAuthentication, providers: {a: {claim_to_headers: [{header_name: x-jwt-sub, claim_name: sub}]}}") + routerAt}}, "envoy.order", Failure, "http_filters[1] j", "x-jwt-sub", nil},
	{"jwt_authn before", []change{{filterAt, filterAt + httpFilterYAML("j", "jwt_authn.v3.JwtAuthentication, providers: {a: {issuer: a}, b: {forward: true}}")}}, "envoy.order", Warning, "http_filters[0] j", "for a", nil},
	{"credential before", []change{{filterAt, filterAt + httpFilterYAML("c", "credential_injector.v3.CredentialInjector, overwrite: true")}}, "envoy.order", Failure, "http_filters[0] c", "did not bring", nil},
	{"credential by mutation", []change{{filterAt, filterAt + httpFilterYAML("m", "header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: Authorization, value: a}}}]}")}}, "envoy.order", Failure, "http_filters[0] m", "Authorization", nil},
	{"transcoder after", []change{{routerAt, httpFilterYAML("t", "grpc_json_transcoder.v3.GrpcJsonTranscoder, services: [a]") + routerAt}}, "envoy.order", Warning, "http_filters[1] t", "transcoder", nil},

	{"listener without the filter", []change{{"  clusters:\n", listenerYAML("", managerTo("route: {cluster: upstream}")) + "  clusters:\n"}}, "envoy.listener.unprotected", Failure, "listener other", "upstream", nil},
	{"the same upstream by another name", []change{{"  clusters:\n", listenerYAML("", managerTo("route: {cluster: again}")) + "  clusters:\n    - name: again\n      load_assignment: {cluster_name: again, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8000}}}}]}]}\n"}}, "envoy.listener.unprotected", Failure, "listener other", "again", nil},
	{"listener to another upstream", []change{{"  clusters:\n", listenerYAML("", managerTo("route: {cluster: metrics}")) + "  clusters:\n"}}, "envoy.listener.unprotected", Warning, "listener other", "metrics", nil},
	{"tcp_proxy", []change{{"  clusters:\n", listenerYAML("", "            - name: tcp\n              typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: a, cluster: upstream}\n") + "  clusters:\n"}}, "envoy.listener.unprotected", Failure, "listener other", "tcp_proxy", nil},
	{"outbound", []change{{"  clusters:\n", listenerYAML("      traffic_direction: OUTBOUND\n", managerTo("route: {cluster: upstream}")) + "  clusters:\n"}}, "envoy.listener.unprotected", NotExamined, "listener other", "OUTBOUND", nil},
	{"default_filter_chain", []change{{"      filter_chains:\n", "      default_filter_chain:\n        filters:\n" + strings.ReplaceAll("\n"+managerTo("route: {cluster: upstream}"), "\n  ", "\n")[1:] + "      filter_chains:\n"}}, "envoy.listener.unprotected", Failure, "listener ingress, filter chain #1", "upstream", nil},
	{"upgrade", []change{{filterAt, "                upgrade_configs: [{upgrade_type: websocket, filters: [{name: envoy.filters.http.router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}]\n" + filterAt}}, "envoy.listener.unprotected", Failure, `upgrade_configs "websocket"`, "upstream", nil},
	{"no filter that asks the sidecar", []change{{"envoy_grpc: {cluster_name: jwt-bouncer}", "envoy_grpc: {cluster_name: opa}"}}, "envoy.listener.unprotected", Failure, "all listeners", "", func(n *Requirements) { n.Cluster = "jwt-bouncer" }},
	{"control plane", []change{{"static_resources:\n", "dynamic_resources: {lds_config: {ads: {}}}\nstatic_resources:\n"}}, "envoy.config", NotExamined, "lds_config", "", nil},
	{"ECDS in a file", []change{{filterAt, filterAt + "                  - name: far\n                    config_discovery: {config_source: {ads: {}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors]}\n"}}, "envoy.config", NotExamined, "listener ingress", "far", nil},

	{"HTTP/1", []change{{"http2_protocol_options:\n              # Detect a sidecar that vanished without closing.\n              connection_keepalive: {interval: 30s, timeout: 5s}", "http_protocol_options: {}"}}, "envoy.cluster.http2", Failure, "cluster jwt-bouncer", "", nil},
	{"keepalive", []change{{"              connection_keepalive: {interval: 30s, timeout: 5s}", "              max_concurrent_streams: 100"}}, "envoy.cluster.keepalive", Warning, "cluster jwt-bouncer", "", nil},
	{"breakers", []change{{"      circuit_breakers: {thresholds: [{max_requests: 65536, max_pending_requests: 65536}]}\n", ""}}, "envoy.cluster.circuit_breakers", Warning, "cluster jwt-bouncer", "max_requests is 1024, Envoy's default", nil},
	{"breakers of another priority", []change{{"[{max_requests", "[{priority: HIGH, max_requests"}}, "envoy.cluster.circuit_breakers", Warning, "cluster jwt-bouncer", "1024", nil},
	{"low breakers", []change{{"max_pending_requests: 65536", "max_pending_requests: 10"}}, "envoy.cluster.circuit_breakers", Warning, "cluster jwt-bouncer", "max_pending_requests is 10", nil},
	{"no TLS", []change{{`address: "127.0.0.1", port_value: 9191`, `address: "10.0.0.1", port_value: 9191`}}, "envoy.cluster.tls", Warning, "cluster jwt-bouncer", "10.0.0.1:9191", nil},
	{"TLS without trust", []change{{"    - name: jwt-bouncer\n", "    - name: jwt-bouncer\n      transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {}}}\n"}}, "envoy.cluster.tls", Warning, "cluster jwt-bouncer", "any certificate", nil},
	{"missing cluster", []change{{"    - name: jwt-bouncer\n", "    - name: renamed\n"}}, "envoy.cluster.http2", NotExamined, "cluster jwt-bouncer", "", nil},
}

func TestFindings(t *testing.T) {
	t.Parallel()
	for _, c := range findings {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text, n := sample(t), need
			for _, r := range c.changes {
				require.Contains(t, text, r.from)
				text = strings.Replace(text, r.from, r.to, 1)
			}
			if c.need != nil {
				c.need(&n)
			}
			var got []Result
			for _, r := range bad(examine(t, text, n)) {
				if r.ID == c.id && r.Status == c.status && strings.Contains(r.Where, c.where) && strings.Contains(r.Found, c.found) {
					got = append(got, r)
				}
			}
			assert.NotEmptyf(t, got, "%s %s is not among %+v", c.status, c.id, bad(examine(t, text, n)))
		})
	}
}

// sound are changes of the sample that the doctor must not object to.
var sound = []struct {
	name    string
	changes []change
}{
	{"settings of a route undo those of its virtual host", []change{{routeAt, perRoute(settingsRoute) + "                      typed_per_filter_config: {envoy.filters.http.ext_authz: " + disabledRoute + "}\n"}}},
	{"settings enable a disabled filter", []change{{"- name: envoy.filters.http.ext_authz\n", "- name: envoy.filters.http.ext_authz\n                    disabled: true\n"}, {routeAt, perRoute(settingsRoute)}}},
	{"another filter is disabled", []change{{routeAt, routeAt + "                          typed_per_filter_config: {cors: " + disabledFilter + "}\n"}}},
	{"a direct response is checked", []change{{"route: {cluster: upstream}", "direct_response: {status: 200}"}}},
	{"no route, but nothing selects one", []change{{`domains: ["*"]`, `domains: [api.example]`}}},
	{"deny_at_disable", []change{{"failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 50}}\n                      deny_at_disable: {default_value: true, runtime_key: a}"}}},
	{"cors before", []change{{filterAt, filterAt + httpFilterYAML("cors", "cors.v3.Cors")}}},
	{"mutation of another header after", []change{{routerAt, httpFilterYAML("m", "header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: x-other, value: a}}}, {remove: x-jwt-sub}]}") + routerAt}}},
	{"no timeout is 0.2s", []change{{"timeout: 0.2s", ""}}},
	{"TLS with trust", []change{{"    - name: jwt-bouncer\n", "    - name: jwt-bouncer\n      transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {validation_context: {trusted_ca: {filename: /ca.pem}}}}}\n"}, {`address: "127.0.0.1", port_value: 9191`, `address: "10.0.0.1", port_value: 9191`}}},
	{"a listener that forwards nothing", []change{{"  clusters:\n", listenerYAML("", managerTo("direct_response: {status: 200}")) + "  clusters:\n"}}},
	{"a filter as TypedStruct", []change{{`typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}`, `typed_config: {"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, value: {}}`}}},
}

func TestSound(t *testing.T) {
	t.Parallel()
	for _, c := range sound {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := sample(t)
			for _, r := range c.changes {
				require.Contains(t, text, r.from)
				text = strings.Replace(text, r.from, r.to, 1)
			}
			assert.Empty(t, bad(examine(t, text, need)))
		})
	}
}

// TestCatchAllRoute: what follows ext_authz may select routes if every request has
// one by then.
func TestCatchAllRoute(t *testing.T) {
	t.Parallel()
	text := strings.Replace(sample(t), "match: {prefix: /}", "match: {prefix: /v1}", 1)
	text = strings.Replace(text, routerAt, httpFilterYAML("script", lua)+routerAt, 1)
	none := func(text string) (out []Result) {
		for _, r := range bad(examine(t, text, need)) {
			if r.ID == "envoy.route.none" {
				out = append(out, r)
			}
		}
		return out
	}
	require.NotEmpty(t, none(text))
	after := "                          route: {cluster: upstream}\n"
	assert.Empty(t, none(strings.Replace(text, after, after+catchAllR, 1)))
}

// TestEveryProxyCheckIsTested: each check of a proxy has a test.
func TestEveryProxyCheckIsTested(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, f := range findings {
		tested[f.id] = true
	}
	for id := range catalog {
		if strings.HasPrefix(id, "envoy.") {
			assert.Truef(t, tested[id], "no test finds %s", id)
		}
	}
}

// TestDump: the sections of a config dump of Istio, where all but the bootstrap
// comes from a control plane.
func TestDump(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/istio.json")
	require.NoError(t, err)
	got := bad(examine(t, string(text), need))
	var lines []string
	for _, r := range got {
		lines = append(lines, fmt.Sprintf("%s %s | %s | %s", r.Status, r.ID, r.Where, r.Found))
	}
	golden, err := os.ReadFile("testdata/istio.golden")
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile("testdata/istio.golden", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	} else {
		require.NoError(t, err)
	}
	assert.Equal(t, string(golden), strings.Join(lines, "\n")+"\n")
}

// TestUnknownExtension: a dump with an extension that nobody here knows is read,
// and the filter is reported as not examined.
func TestUnknownExtension(t *testing.T) {
	t.Parallel()
	text := strings.Replace(sample(t), routerAt, "                  - name: theirs\n                    typed_config: {\"@type\": type.googleapis.com/acme.Filter, new_field: [1]}\n"+routerAt, 1)
	var r Report
	r.Proxy([]byte(text), need)
	found := bad(r.Results())
	require.Len(t, found, 1)
	assert.Equal(t, NotExamined, found[0].Status)
	assert.Contains(t, found[0].Found, "acme.Filter")
}

// TestUDPATypedStruct: a filter in the older envelope, which Istio writes.
func TestUDPATypedStruct(t *testing.T) {
	t.Parallel()
	name, fields := node{map[string]any{"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "x/acme.Filter", "value": map[string]any{"a": true}}}.message()
	assert.Equal(t, "acme.Filter", name)
	assert.True(t, fields.get("a").on())
}

func TestConfigurationThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", "[]", "a", "a: 1", "{}", `{"configs": 1}`, "\x00", "static_resources: 7", `{"configs":[null,{"@type":7},{"@type":"x/envoy.admin.v3.ListenersConfigDump","static_listeners":[{}, 3]}]}`} {
		var r Report
		r.Proxy([]byte(text), need) // must not panic
		assert.NotZerof(t, r.Count(Failure), "%q", text)
	}
}

func FuzzProxy(f *testing.F) {
	f.Add(sample(f))
	for _, c := range findings {
		text := sample(f)
		for _, r := range c.changes {
			text = strings.Replace(text, r.from, r.to, 1)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r Report
		r.Proxy([]byte(text), need)
		_, err := json.Marshal(r.Results())
		require.NoError(t, err)
	})
}
