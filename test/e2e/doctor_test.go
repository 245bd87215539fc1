package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/envoy"
	"jwtbouncer/test/harness"
)

// diagnosis is the output of `doctor -o json`.
type diagnosis struct {
	Summary map[string]int
	Results []struct{ ID, Status, Where, Found, Why, Do string }
	code    int
}

// doctor runs `jwt-bouncer doctor`.
func doctor(t *testing.T, config string, args ...string) diagnosis {
	t.Helper()
	r := harness.Run(t, "", append([]string{"--config", config, "doctor", "-o", "json"}, args...)...)
	d := diagnosis{code: r.Code}
	require.NoErrorf(t, json.Unmarshal([]byte(r.Stdout), &d), "%s%s", r.Stdout, r.Stderr)
	return d
}

// found returns the checks with results that are not OK, as "id status".
func (d diagnosis) found() []string {
	var out []string
	for _, r := range d.Results {
		if r.Status != "ok" {
			out = append(out, r.ID+" "+r.Status)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// replaced replaces pieces of the sample configuration: from, to, ….
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		require.Contains(t, text, pairs[i])
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

const (
	sampleRoute  = "                        - match: {prefix: /}\n                          route: {cluster: upstream}\n"
	sampleRouter = "                  - name: envoy.filters.http.router\n"
	sampleFilter = "                  - name: envoy.filters.http.ext_authz\n"
	perRouteType = `"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute`
	// A script that gives the request another path, and has its route selected again.
	rerouteScript = `                  - name: envoy.filters.http.lua
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          function envoy_on_request(h)
                            h:headers():replace(":path", "/served")
                            h:clearRouteCache()
                          end
`
)

// TestDoctorExaminesEnvoy: the sample passes, and what the doctor says about
// misconfigurations is what Envoy does with a request that has no token.
func TestDoctorExaminesEnvoy(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: "headers: {claims: {x-jwt-sub: sub}}\n"})
	sample, err := envoy.SampleConfig(envoy.Sample{Listen: "127.0.0.1:0", Service: r.Bouncer.GRPC, Upstream: r.Upstream.Addr})
	require.NoError(t, err)
	dir := harness.Dir(t)
	file := func(name, text string) string { return harness.WriteFile(t, dir, name, text) }
	for _, c := range []struct {
		name    string
		change  []string
		found   []string
		path    string
		status  int      // of a request without a token
		inFound []string // in the file, if the running Envoy knows more
	}{
		{name: "sample", status: 401},
		{name: "disabled route", status: 200,
			change: []string{sampleRoute, sampleRoute + "                          typed_per_filter_config: {envoy.filters.http.ext_authz: {" + perRouteType + ", disabled: true}}\n"},
			found:  []string{"envoy.route.disabled failure"}},
		{name: "settings of a route under a disabled virtual host", status: 401,
			change: []string{sampleRoute, sampleRoute + "                          typed_per_filter_config: {envoy.filters.http.ext_authz: {" + perRouteType + ", check_settings: {}}}\n" +
				"                      typed_per_filter_config: {envoy.filters.http.ext_authz: {" + perRouteType + ", disabled: true}}\n"}},
		{name: "disabled by FilterConfig at the virtual host", status: 200,
			change: []string{sampleRoute, sampleRoute + "                      typed_per_filter_config: {envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}\n"},
			found:  []string{"envoy.route.disabled failure"}},
		{name: "disabled until a route enables it", status: 401,
			change: []string{sampleFilter, "                  - name: envoy.filters.http.ext_authz/securitypolicy/default/jwt-bouncer\n                    disabled: true\n",
				sampleRoute, sampleRoute + "                          typed_per_filter_config: {envoy.filters.http.ext_authz/securitypolicy/default/jwt-bouncer: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {" + perRouteType + ", check_settings: {}}}}\n"}},
		{name: "disabled and never enabled", status: 200,
			change: []string{sampleFilter, sampleFilter + "                    disabled: true\n"},
			found:  []string{"envoy.route.disabled failure"}},
		{name: "weighted cluster", status: 200,
			change: []string{"route: {cluster: upstream}", "route: {weighted_clusters: {clusters: [{name: upstream, weight: 1, typed_per_filter_config: {envoy.filters.http.ext_authz: {" + perRouteType + ", disabled: true}}}]}}"},
			found:  []string{"envoy.route.disabled failure"}},
		{name: "filter_enabled", status: 200,
			change: []string{"failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 0}}"},
			found:  []string{"envoy.ext_authz.enabled failure"}},
		{name: "filter_enabled with deny_at_disable", status: 503,
			change: []string{"failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 0}}\n                      deny_at_disable: {default_value: true, runtime_key: a}"}},
		{name: "shadow_mode", status: 200,
			change: []string{"failure_mode_allow: false", "shadow_mode: true"},
			found:  []string{"envoy.ext_authz.shadow_mode failure"}},
		{name: "failure_mode_allow, and nobody answers", status: 200,
			change: []string{"failure_mode_allow: false", "failure_mode_allow: true", "port_value: " + port(r.Bouncer.GRPC), "port_value: 1"},
			found:  []string{"envoy.ext_authz.failure_mode_allow failure"}},
		{name: "short timeout", status: 401, change: []string{"timeout: 0.2s", "timeout: 0.189s"}, found: []string{"envoy.ext_authz.timeout failure"}},
		{name: "many at once", status: 401,
			change: []string{"status_on_error: {code: ServiceUnavailable}", "", "encode_raw_headers: true", "", "normalize_path: true", "", "merge_slashes: true", "",
				"path_with_escaped_slashes_action: REJECT_REQUEST", "", "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}", "",
				"      circuit_breakers: {thresholds: [{max_requests: 65536, max_pending_requests: 65536}]}\n", ""},
			found: []string{"envoy.cluster.circuit_breakers warning", "envoy.ext_authz.encode_raw_headers warning", "envoy.ext_authz.status_on_error warning", "envoy.headers_with_underscores warning",
				"envoy.path.escaped_slashes warning", "envoy.path.merge_slashes warning", "envoy.path.normalize_path warning"}},
		{name: "direct response", status: 401, change: []string{"route: {cluster: upstream}", "direct_response: {status: 200}"}},
		{name: "redirect", status: 401, change: []string{"route: {cluster: upstream}", "redirect: {path_redirect: /other}"}},
		{name: "no route", status: 404, path: "/other", change: []string{"match: {prefix: /}", "match: {prefix: /served}"}},
		{name: "no route until a script selects one", status: 200, path: "/other",
			change: []string{"match: {prefix: /}", "match: {prefix: /served}", sampleRouter, rerouteScript + sampleRouter},
			found:  []string{"envoy.order not_examined", "envoy.route.none failure"}},
		{name: "a script, and a route for everything", status: 401, path: "/other",
			change: []string{sampleRoute, "                        - match: {prefix: /served}\n                          route: {cluster: upstream}\n                        - match: {prefix: /}\n                          direct_response: {status: 404}\n", sampleRouter, rerouteScript + sampleRouter},
			found:  []string{"envoy.order not_examined"}},
		{name: "routes by RDS", status: 200,
			change: []string{"static_resources:\n", "node: {id: a, cluster: a}\nstatic_resources:\n", "                route_config:\n                  virtual_hosts:\n                    - name: all\n                      domains: [\"*\"]\n                      routes:\n" + sampleRoute,
				"                rds: {route_config_name: far, config_source: {resource_api_version: V3, path_config_source: {path: " + file("rds.yaml", `resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: far
  virtual_hosts: [{name: all, domains: ["*"], routes: [{name: open, match: {prefix: /}, route: {cluster: upstream}, typed_per_filter_config: {envoy.filters.http.ext_authz: {`+perRouteType+`, disabled: true}}}]}]
`) + "}}}\n"},
			found: []string{"envoy.route.disabled failure"}, inFound: []string{"envoy.route.disabled not_examined"}},
		{name: "scoped routes", status: 200,
			change: []string{"static_resources:\n", "node: {id: a, cluster: a}\nstatic_resources:\n", "                route_config:\n                  virtual_hosts:\n                    - name: all\n                      domains: [\"*\"]\n                      routes:\n" + sampleRoute,
				`                scoped_routes:
                  name: scopes
                  scope_key_builder: {fragments: [{header_value_extractor: {name: ":authority", index: 0}}]}
                  scoped_route_configurations_list: {scoped_route_configurations: [{name: one, key: {fragments: [{string_key: scoped.example}]}, route_configuration: {name: scoped, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: upstream}, typed_per_filter_config: {envoy.filters.http.ext_authz: {` + perRouteType + `, disabled: true}}}]}]}}]}
`},
			found: []string{"envoy.route.disabled failure"}},
		{name: "filter by ECDS", status: 200,
			change: []string{"static_resources:\n", "node: {id: a, cluster: a}\nstatic_resources:\n", sampleRouter, "                  - name: late\n                    config_discovery: {config_source: {resource_api_version: V3, path_config_source: {path: " + file("ecds.yaml", `resources:
- "@type": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig
  name: late
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: x-jwt-sub, value: root}}}]}}
`) + "}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation]}\n" + sampleRouter,
				sampleFilter, sampleFilter + "                    disabled: true\n"},
			found: []string{"envoy.order failure", "envoy.route.disabled failure"}, inFound: []string{"envoy.config not_examined", "envoy.order not_examined", "envoy.route.disabled failure"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := replaced(t, sample, c.change...)
			e := harness.Envoy(t, text)
			front := harness.FrontOf(t, e, "ingress")
			path := c.path
			if path == "" {
				path = "/"
			}
			reply, err := front.DoAs(t.Context(), "scoped.example", http.MethodGet, path)
			require.NoError(t, err)
			assert.Equalf(t, c.status, reply.Status, "without a token: %s", reply.Body)

			d := doctor(t, r.Bouncer.Config, "--only", "envoy", "--envoy-admin", "http://"+e.Admin)
			assert.Equalf(t, c.found, d.found(), "%+v", d.Results)
			want := 0
			for _, f := range c.found {
				if strings.HasSuffix(f, " failure") {
					want = 3
				}
			}
			assert.Equal(t, want, d.code, "exit code")

			// A file that holds the same dump says the same.
			dump := fetchDump(t, e.Admin)
			again := doctor(t, r.Bouncer.Config, "--only", "envoy", "--envoy-config-dump", harness.WriteFile(t, harness.Dir(t), "dump.json", dump))
			assert.Equal(t, d, again)

			// So does the bootstrap configuration, as far as it goes.
			fromFile := doctor(t, r.Bouncer.Config, "--only", "envoy", "--envoy-config-dump", harness.WriteFile(t, harness.Dir(t), "envoy.yaml", text))
			if c.inFound == nil {
				c.inFound = c.found
			}
			assert.Equalf(t, c.inFound, fromFile.found(), "%+v", fromFile.Results)
		})
	}
}

// TestDynamicForwardProxy: under dynamic_forward_proxy, the request itself names
// the upstream. Envoy does not ask about a request that has no route (envoy#44397),
// so with a filter that selects one later, every request needs a route from the
// beginning. docs/envoy.md says so.
func TestDynamicForwardProxy(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	sample, err := envoy.SampleConfig(envoy.Sample{Listen: "127.0.0.1:0", Service: r.Bouncer.GRPC, Upstream: r.Upstream.Addr})
	require.NoError(t, err)
	const cache = "dns_cache_config: {name: forward, dns_lookup_family: V4_ONLY}"
	sample = sample[:strings.Index(sample, "    - name: upstream\n")] + `    - name: upstream
      lb_policy: CLUSTER_PROVIDED
      cluster_type: {name: forward, typed_config: {"@type": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, ` + cache + "}}\n"
	sample = replaced(t, sample, sampleRouter, "                  - name: forward\n                    typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig, "+cache+"}\n"+sampleRouter)
	const tenant = "                        - match: {prefix: /, headers: [{name: x-tenant, present_match: true}]}\n                          route: {cluster: upstream}\n"
	script := strings.Replace(rerouteScript, `h:headers():replace(":path", "/served")`, `h:headers():replace("x-tenant", "a")`, 1)
	for _, c := range []struct {
		name   string
		change []string
		status int // without a token
		valid  int // with one
		found  []string
	}{
		{"a route for everything", nil, 401, 200, nil},
		{"no route", []string{sampleRoute, tenant}, 404, 404, nil},
		{"a script selects the route", []string{sampleRoute, tenant, sampleRouter, script + sampleRouter}, 200, 200, []string{"envoy.order not_examined", "envoy.route.none failure"}},
		{"and there is one before", []string{sampleRoute, tenant + "                        - match: {prefix: /}\n                          direct_response: {status: 404}\n", sampleRouter, script + sampleRouter}, 401, 200, []string{"envoy.order not_examined"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := harness.Envoy(t, replaced(t, sample, c.change...))
			front := harness.FrontOf(t, e, "ingress")
			for token, want := range map[string]int{"": c.status, "Bearer " + r.Token(nil): c.valid} {
				var header []string
				if token != "" {
					header = []string{"Authorization", token}
				}
				reply, err := front.DoAs(t.Context(), r.Upstream.Addr, http.MethodGet, "/", header...)
				require.NoError(t, err)
				assert.Equalf(t, want, reply.Status, "token %t: %s", token != "", reply.Body)
			}
			d := doctor(t, r.Bouncer.Config, "--only", "envoy", "--envoy-admin", "http://"+e.Admin)
			assert.Equalf(t, c.found, d.found(), "%+v", d.Results)
		})
	}
}

// TestDoctorKnowsWhoTakesTheToken: jwt_authn removes the token that it has
// verified, unless it is told to forward it.
func TestDoctorKnowsWhoTakesTheToken(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	sample, err := envoy.SampleConfig(envoy.Sample{Listen: "127.0.0.1:0", Service: r.Bouncer.GRPC, Upstream: r.Upstream.Addr})
	require.NoError(t, err)
	for forward, c := range map[string]struct {
		status int
		found  []string
	}{"true": {200, nil}, "false": {401, []string{"envoy.order warning"}}} {
		e := harness.Envoy(t, replaced(t, sample, sampleFilter, `                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers: {a: {issuer: "`+r.Issuer.Name+`", forward: `+forward+`, local_jwks: {inline_string: '`+string(r.Issuer.JWKS())+`'}}}
                      rules: [{match: {prefix: /}, requires: {provider_name: a}}]
`+sampleFilter))
		reply := harness.FrontOf(t, e, "ingress").Bearer(t, r.Token(nil))
		assert.Equalf(t, c.status, reply.Status, "forward: %s: %s", forward, reply.Body)
		d := doctor(t, r.Bouncer.Config, "--only", "envoy", "--envoy-admin", "http://"+e.Admin)
		assert.Equalf(t, c.found, d.found(), "%+v", d.Results)
	}
}

// port returns the port of host:port.
func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func fetchDump(t *testing.T, admin string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/config_dump", http.NoBody)
	require.NoError(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}
