package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// routeTable is the route configurations of a connection manager.
type routeTable struct {
	configs []node
	where   []string // of each
	missing []string // why some are not known
	scoped  bool     // by a key of the request; without a match there is no route
}

// routesOf returns the routes of a chain, wherever they are.
func (p *proxy) routesOf(c chain) routeTable {
	var t routeTable
	add := func(where string, config node) {
		t.configs, t.where = append(t.configs, config), append(t.where, where)
	}
	byName := func(name string) {
		if config, ok := p.routes[name]; ok {
			add(fmt.Sprintf("%s, route configuration %s", c.where, name), config)
			return
		}
		t.missing = append(t.missing, fmt.Sprintf("route configuration %s (rds) is not in the configuration", name))
	}
	scope := func(s node) {
		if inline := s.get("route_configuration"); inline.exists() {
			add(fmt.Sprintf("%s, scope %s", c.where, s.get("name").str()), inline)
			return
		}
		byName(s.get("route_configuration_name").str())
	}
	m := c.manager
	if inline := m.get("route_config"); inline.exists() {
		add(c.where, inline)
	}
	if rds := m.get("rds"); rds.exists() {
		byName(rds.get("route_config_name").str())
	}
	if scoped := m.get("scoped_routes"); scoped.exists() {
		t.scoped = true
		inline := scoped.get("scoped_route_configurations_list", "scoped_route_configurations").list()
		dynamic, known := p.scopes[scoped.get("name").str()]
		if len(inline) == 0 {
			inline = dynamic
		}
		if len(inline) == 0 && !known {
			t.missing = append(t.missing, fmt.Sprintf("scoped routes %s (scoped_rds) are not in the configuration", scoped.get("name").str()))
		}
		for _, s := range inline {
			scope(s)
		}
	}
	return t
}

// clusters returns the names of all clusters that the routes forward to.
func (t routeTable) clusters() []string {
	all := map[string]bool{}
	for _, config := range t.configs {
		for _, vh := range config.get("virtual_hosts").list() {
			for _, r := range vh.get("routes").list() {
				a := r.get("route")
				if name := a.get("cluster").str(); name != "" {
					all[name] = true
				}
				for _, w := range a.get("weighted_clusters", "clusters").list() {
					if name := w.get("name").str(); name != "" {
						all[name] = true
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// perFilter is what the routes say about the filter at one place.
type perFilter struct {
	enabled  *bool // nil: not said. FilterConfig.disabled, or any configuration
	skip     *bool // nil: not said. ExtAuthzPerRoute.disabled
	service  node  // the per-route grpc_service or http_service
	http     bool
	settings bool // check_settings
	unknown  string
}

// perFilterOf reads typed_per_filter_config of a route configuration, virtual host,
// route or weighted cluster.
func perFilterOf(at node, name string) perFilter {
	entry, ok := at.get("typed_per_filter_config").fields()[name]
	if !ok {
		return perFilter{}
	}
	yes, no := true, false
	out := perFilter{enabled: &yes}
	typ, m := entry.message()
	if typ == typeFilterCfg {
		if m.get("disabled").on() {
			return perFilter{enabled: &no}
		}
		typ, m = m.get("config").message()
	}
	switch typ {
	case typePerRoute:
		off := m.get("disabled").on()
		out.skip = &off
		s := m.get("check_settings")
		out.settings = s.exists()
		out.service, out.http = s.get("grpc_service"), s.get("http_service").exists()
	case "":
	default:
		out.unknown = typ
	}
	return out
}

// examineRoutes looks for requests about which the filter does not ask the sidecar.
func (p *proxy) examineRoutes(c chain, at int, t routeTable) {
	for _, why := range t.missing {
		p.unknown("envoy.route.disabled", c.where, "%s", why)
	}
	for i, config := range t.configs {
		where := t.where[i]
		p.routeConfig(where, c, at, config)
		if config.get("vhds").exists() {
			p.unknown("envoy.route.disabled", where, "vhds: virtual hosts come from a control plane and are not all in the configuration")
		}
	}
	p.unrouted(c, at, t)
}

func (p *proxy) routeConfig(where string, c chain, at int, config node) {
	f := c.filters[at]
	p.misnamed(where, c, config)
	base := perFilterOf(config, f.name)
	p.headersAdded(where, config)
	for i, vh := range config.get("virtual_hosts").list() {
		at := fmt.Sprintf("%s, virtual host %s", where, cmp.Or(vh.get("name").str(), fmt.Sprintf("#%d", i)))
		host := perFilterOf(vh, f.name)
		p.headersAdded(at, vh)
		p.misnamed(at, c, vh)
		if vh.get("matcher").exists() {
			p.unknown("envoy.route.disabled", at, "matcher selects routes by a tree, which is not examined")
			eachMessage([]node{vh.get("matcher")}, &proxyConfig{}, func(name string, m node) {
				if name == "envoy.config.route.v3.Route" {
					p.route(at+", matcher", f, m, base, host)
				}
			})
		}
		for j, r := range vh.get("routes").list() {
			at := fmt.Sprintf("%s, route %s", at, cmp.Or(r.get("name").str(), fmt.Sprintf("#%d (%s)", j, matchText(r.get("match")))))
			p.misnamed(at, c, r)
			p.route(at, f, r, base, host)
		}
	}
}

// matchText shows which paths a route is for.
func matchText(m node) string {
	for _, field := range []string{"prefix", "path", "path_separated_prefix"} {
		if s := m.get(field).str(); s != "" {
			return field + " " + s
		}
	}
	if s := m.get("safe_regex", "regex").str(); s != "" {
		return "safe_regex " + s
	}
	for field := range m.fields() {
		if strings.HasSuffix(field, "matcher") || strings.HasSuffix(field, "policy") {
			return field
		}
	}
	return "any path"
}

// route examines one route. levels are what the route configuration and the
// virtual host say, the least specific first.
func (p *proxy) route(where string, f filter, r node, levels ...perFilter) {
	p.headersAdded(where, r)
	action := r.get("route")
	levels = append(levels, perFilterOf(r, f.name))
	clusters := action.get("weighted_clusters", "clusters").list()
	if len(clusters) == 0 {
		p.judge(where, f, levels)
	}
	for i, w := range clusters {
		at := fmt.Sprintf("%s, weighted cluster %s", where, cmp.Or(w.get("name").str(), fmt.Sprintf("#%d", i)))
		p.headersAdded(at, w)
		p.judge(at, f, append(slices.Clone(levels), perFilterOf(w, f.name)))
	}
	if name := action.get("cluster_header").str(); name != "" {
		p.find(Warning, "envoy.route.cluster_header", where, "route.cluster_header: the request header %s names the cluster", name)
	}
	p.expect(!action.get("internal_redirect_policy").exists() && !action.get("internal_redirect_action").is("HANDLE_INTERNAL_REDIRECT", 1),
		"envoy.route.internal_redirect", where, "route.internal_redirect_policy lets the upstream's answer choose another route")
	if action.get("inline_cluster_specifier_plugin").exists() || action.get("cluster_specifier_plugin").exists() {
		p.unknown("envoy.route.cluster_header", where, "a cluster specifier plugin chooses the cluster")
	}
	if cluster := action.get("cluster").str(); cluster != "" && p.sameCluster(cluster) && p.Cluster != "" {
		p.find(Warning, "envoy.route.to_sidecar", where, "route.cluster is the sidecar's own cluster %s", cluster)
	}
}

// misnamed looks for settings of ext_authz under a name that no filter of the
// chain has. Envoy ignores them.
func (p *proxy) misnamed(where string, c chain, at node) {
	for name, entry := range at.get("typed_per_filter_config").fields() {
		typ, m := entry.message()
		if typ == typeFilterCfg {
			typ, _ = m.get("config").message()
		}
		if typ == typePerRoute {
			known := slices.ContainsFunc(c.filters, func(f filter) bool { return f.name == name })
			p.expect(known, "envoy.route.misnamed", where, "typed_per_filter_config has an ExtAuthzPerRoute for %s, and no filter has that name", name)
		}
	}
}

// judge decides whether the filter asks the sidecar about the requests of a route.
// The most specific level that says something decides.
func (p *proxy) judge(where string, f filter, levels []perFilter) {
	const id = "envoy.route.disabled"
	on, skip := !f.disabled, false
	var grpc node
	http := false
	for _, l := range levels {
		if l.unknown != "" {
			p.unknown(id, where, "typed_per_filter_config %s is a %s", f.name, l.unknown)
		}
		if l.enabled != nil {
			on = *l.enabled
		}
		if l.skip != nil {
			skip = *l.skip
			grpc, http = l.service, l.http
		}
	}
	switch {
	case !on && f.disabled:
		p.find(Failure, id, where, "the filter %s is disabled in http_filters, and no typed_per_filter_config enables it here", f.name)
	case !on:
		p.find(Failure, id, where, "typed_per_filter_config: FilterConfig.disabled is true for %s", f.name)
	case skip:
		p.find(Failure, id, where, "typed_per_filter_config: ExtAuthzPerRoute.disabled is true for %s", f.name)
	default:
		p.pass(id, where)
	}
	switch name := grpc.get("envoy_grpc", "cluster_name").str(); {
	case http:
		p.find(Failure, "envoy.route.other_service", where, "check_settings.http_service sends checks elsewhere than to the sidecar")
	case grpc.exists() && (name == "" || p.Cluster != "" && !p.sameCluster(name)):
		p.find(Failure, "envoy.route.other_service", where, "check_settings.grpc_service sends checks to %s, not to the sidecar", cmp.Or(name, "another server"))
	case grpc.exists():
		p.service(where+", check_settings", grpc, node{})
	}
}

// headersAdded examines request_headers_to_add, which Envoy applies after the
// filters, and the settings of a header_mutation filter for this place.
func (p *proxy) headersAdded(where string, at node) {
	var names []string
	for _, h := range at.get("request_headers_to_add").list() {
		if name := h.get("header", "key").str(); p.guarded(name) {
			names = append(names, name)
		}
	}
	p.expect(len(names) == 0, "envoy.identity", where, "request_headers_to_add sets %s", strings.Join(names, ", "))
	for name, entry := range at.get("typed_per_filter_config").fields() {
		typ, m := entry.message()
		if typ == typeFilterCfg {
			typ, m = m.get("config").message()
		}
		if changed := p.mutated(m); typ == typeMutations && len(changed) > 0 {
			p.find(Failure, "envoy.identity", where, "typed_per_filter_config %s sets %s", name, strings.Join(changed, ", "))
		}
	}
}

// unrouted examines requests that match no route. The filter does not ask about
// them (envoy#44397), which is harmless as long as the router answers them 404.
func (p *proxy) unrouted(c chain, at int, t routeTable) {
	const id = "envoy.route.none"
	reroutes := c.reroutes(at)
	if len(reroutes) == 0 {
		p.pass(id, c.where)
		return
	}
	for i, config := range t.configs {
		if !t.scoped && catchesAll(config) {
			p.pass(id, t.where[i])
			continue
		}
		p.find(Failure, id, t.where[i], "a request may match no route, about which ext_authz does not ask, and %s after it may select a route or answer", strings.Join(reroutes, ", "))
	}
}

// catchesAll reports whether every request matches a route: the last route of every
// virtual host takes every path, and one virtual host every host.
func catchesAll(config node) bool {
	anyHost := false
	for _, vh := range config.get("virtual_hosts").list() {
		if !slices.ContainsFunc(vh.get("routes").list(), catchAll) {
			return false
		}
		for _, d := range vh.get("domains").list() {
			anyHost = anyHost || d.str() == "*"
		}
		if tls := vh.get("require_tls"); tls.exists() && !tls.is("NONE", 0) {
			continue // answers with a redirect, which is a route
		}
	}
	return anyHost
}

// catchAll reports whether a route takes every request of its virtual host.
func catchAll(r node) bool {
	m := r.get("match")
	for _, field := range []string{"headers", "query_parameters", "cookies", "grpc", "tls_context", "dynamic_metadata", "filter_state", "runtime_fraction"} {
		if m.get(field).exists() {
			return false
		}
	}
	return m.get("prefix").str() == "/"
}
