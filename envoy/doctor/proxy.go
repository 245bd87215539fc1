package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Names of the messages that the checks know.
const (
	typeManager     = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	typeTCPProxy    = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	typeExtAuthz    = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
	typePerRoute    = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
	typeFilterCfg   = "envoy.config.route.v3.FilterConfig"
	typeMutations   = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
	typeConditional = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
	typeHTTPOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// Requirements is what a sidecar needs of the proxy in front of it.
type Requirements struct {
	AnswerTime      time.Duration // within which the sidecar always answers
	Certificate     bool          // a route requires the client's certificate
	DPoP            bool          // a route requires a DPoP proof
	Metadata        bool          // headers.metadata names claims
	ForwardedCert   bool          // binding.trust_forwarded_certificate
	IdentityHeaders []string      // that the sidecar sets, in lower case
	Credentials     []string      // request headers that may hold the token, in lower case
	Cluster         string        // name of the sidecar's cluster in Envoy; empty: found out
	GRPC            string        // listen.grpc
}

// proxy examines the configuration of one Envoy.
type proxy struct {
	*proxyConfig
	*Report
	Requirements
	protected map[string]bool // addresses of upstreams behind a listener that asks the sidecar
	exposed   []exposure      // upstreams that other listeners reach
	sidecars  map[string]bool // clusters of the sidecar that have been examined
	asked     int             // connection managers that ask the sidecar
}

// exposure is a place that forwards requests without asking the sidecar.
type exposure struct {
	where, id, found string
	clusters         []string
}

// Proxy examines the configuration of an Envoy: the output of /config_dump, or a
// bootstrap configuration.
func (r *Report) Proxy(text []byte, need Requirements) {
	c, err := readProxy(text)
	if err != nil {
		r.find(Failure, "envoy.config", "", "the configuration cannot be read: %v", err)
		return
	}
	p := &proxy{proxyConfig: c, Report: r, Requirements: need, protected: map[string]bool{}, sidecars: map[string]bool{}}
	p.pass("envoy.config", fmt.Sprintf("%d listener(s), %d cluster(s)", len(c.listeners), len(c.clusters)))
	p.findSidecar()
	for _, name := range c.rejected {
		p.unknown("envoy.config", "listener "+name, "Envoy has refused its newest version, so that an older one or none is in force")
	}
	for i, l := range c.listeners {
		p.listener(i, l)
	}
	p.judgeExposures()
	p.admin()
	elsewhere := false // a control plane may add what the file does not have
	for _, field := range []string{"lds_config", "cds_config", "ads_config"} {
		if c.file && c.bootstrap.get("dynamic_resources", field).exists() {
			elsewhere = true
			p.unknown("envoy.config", "dynamic_resources."+field, "a control plane adds configuration that is not in the file")
		}
	}
	if p.asked == 0 && !elsewhere {
		p.find(Failure, "envoy.listener.unprotected", "all listeners", "no HTTP connection manager has an ext_authz filter that asks the sidecar")
	}
}

// filter is one entry of http_filters.
type filter struct {
	name     string
	typ      string // empty: unknown
	cfg      node
	disabled bool // unless a route enables it
	matched  bool // runs for some requests only (ExtensionWithMatcher)
	optional bool
}

// chain is an HTTP connection manager, with one of its lists of filters.
type chain struct {
	where   string
	manager node
	filters []filter
}

func (p *proxy) listener(index int, l node) {
	where := "listener " + cmp.Or(l.get("name").str(), fmt.Sprintf("#%d", index))
	if l.get("traffic_direction").is("OUTBOUND", 2) {
		p.unknown("envoy.listener.unprotected", where, "traffic_direction is OUTBOUND: it carries the workload's own requests, which the sidecar does not judge")
		return
	}
	if l.get("internal_listener").exists() {
		where = "internal " + where
	}
	chains := l.get("filter_chains").list()
	if d := l.get("default_filter_chain"); d.exists() {
		chains = append(chains, d)
	}
	if l.get("fcds_config").exists() {
		p.unknown("envoy.config", where, "fcds_config: filter chains come from a control plane and are not in the configuration")
	}
	if api := l.get("api_listener", "api_listener"); api.exists() {
		p.network(where+", api_listener", api)
	}
	for i, c := range chains {
		at := where
		if len(chains) > 1 {
			at += ", filter chain " + cmp.Or(c.get("name").str(), fmt.Sprintf("#%d", i))
		}
		for _, f := range c.get("filters").list() {
			if f.get("config_discovery").exists() {
				p.unknown("envoy.config", at, "network filter %s comes by config_discovery and is not in the configuration", f.get("name").str())
				continue
			}
			p.network(at, f.get("typed_config"))
		}
	}
}

// network examines a network filter.
func (p *proxy) network(where string, config node) {
	switch name, cfg := config.message(); name {
	case typeManager:
		p.manager(where, cfg)
	case typeTCPProxy:
		clusters := []string{cfg.get("cluster").str()}
		for _, w := range cfg.get("weighted_clusters", "clusters").list() {
			clusters = append(clusters, w.get("name").str())
		}
		p.exposed = append(p.exposed, exposure{where, "envoy.listener.unprotected", "tcp_proxy forwards bytes and has no ext_authz filter", clusters})
	}
}

// manager examines an HTTP connection manager and the filter chains of upgrades.
func (p *proxy) manager(where string, m node) {
	p.chain(chain{where, m, p.httpFilters(where, m.get("http_filters").list())})
	for _, u := range m.get("upgrade_configs").list() {
		if filters := u.get("filters").list(); len(filters) > 0 && (!u.get("enabled").exists() || u.get("enabled").on()) {
			at := fmt.Sprintf("%s, upgrade_configs %q", where, u.get("upgrade_type").str())
			p.chain(chain{at, m, p.httpFilters(at, filters)})
		}
	}
}

func (p *proxy) httpFilters(where string, entries []node) []filter {
	var out []filter
	for _, e := range entries {
		f := filter{name: e.get("name").str(), disabled: e.get("disabled").on(), optional: e.get("is_optional").on()}
		config := e.get("typed_config")
		if e.get("config_discovery").exists() {
			config = p.filters[f.name]
			if !config.exists() {
				config = e.get("config_discovery", "default_config")
			}
			if !config.exists() {
				p.unknown("envoy.config", where, "HTTP filter %s comes by config_discovery and is not in the configuration", f.name)
			}
		}
		f.typ, f.cfg = config.message()
		if f.typ == typeConditional {
			f.matched = true
			f.typ, f.cfg = f.cfg.get("extension_config", "typed_config").message()
		}
		out = append(out, f)
	}
	return out
}

// chain examines one list of HTTP filters with its connection manager.
func (p *proxy) chain(c chain) {
	at := slices.IndexFunc(c.filters, func(f filter) bool { return p.asksSidecar(f) })
	routes := p.routesOf(c)
	if at < 0 {
		if others := slices.ContainsFunc(c.filters, func(f filter) bool { return f.typ == typeExtAuthz }); others {
			p.exposed = append(p.exposed, exposure{c.where, "envoy.listener.unprotected", "no ext_authz filter of its http_filters asks the sidecar", routes.clusters()})
		} else {
			p.exposed = append(p.exposed, exposure{c.where, "envoy.listener.unprotected", "its http_filters have no ext_authz filter", routes.clusters()})
		}
		return
	}
	p.asked++
	f := c.filters[at]
	where := fmt.Sprintf("%s, http_filters[%d] %s", c.where, at, f.name)
	for i, other := range c.filters {
		if i != at && other.typ == typeExtAuthz {
			p.find(Warning, "envoy.ext_authz.several", c.where, "http_filters[%d] %s is another ext_authz filter beside %s", i, other.name, f.name)
			if p.asksSidecar(other) { // as the several providers of Istio
				p.extAuthz(fmt.Sprintf("%s, http_filters[%d] %s", c.where, i, other.name), other)
			}
		}
	}
	p.extAuthz(where, f)
	p.connection(c.where, c.manager)
	p.order(c, at)
	p.examineRoutes(c, at, routes)
	p.upstreamFilters(c.where, routes)
	for _, name := range routes.clusters() {
		for _, address := range p.addresses(name) {
			p.protected[address] = true
		}
	}
}

// judgeExposures compares what unprotected listeners reach with what is behind the
// sidecar.
func (p *proxy) judgeExposures() {
	for _, e := range p.exposed {
		shared := ""
		for _, name := range e.clusters {
			if slices.ContainsFunc(p.addresses(name), func(a string) bool { return p.protected[a] }) {
				shared = name
			}
		}
		switch {
		case shared != "":
			p.find(Failure, e.id, e.where, "%s, and cluster %s is an upstream that is behind the sidecar elsewhere", e.found, shared)
		case len(slices.DeleteFunc(slices.Clone(e.clusters), func(s string) bool { return s == "" })) > 0:
			p.find(Warning, e.id, e.where, "%s; it forwards to %s", e.found, strings.Join(e.clusters, ", "))
		default:
			p.pass(e.id, e.where+" forwards nothing")
		}
	}
}

// addresses returns what identifies the upstream of a cluster: its endpoints, or
// its name if the configuration does not have them (EDS).
func (p *proxy) addresses(cluster string) []string {
	c, ok := p.clusters[cluster]
	if !ok || cluster == "" {
		return []string{"cluster " + cluster}
	}
	var out []string
	for _, e := range c.get("load_assignment", "endpoints").list() {
		for _, lb := range e.get("lb_endpoints").list() {
			out = append(out, addressText(lb.get("endpoint", "address")))
		}
	}
	if len(out) == 0 {
		out = []string{"cluster " + cmp.Or(c.get("eds_cluster_config", "service_name").str(), cluster)}
	}
	return out
}

func addressText(a node) string {
	if path := a.get("pipe", "path").str(); path != "" {
		return "unix://" + path
	}
	if name := a.get("envoy_internal_address", "server_listener_name").str(); name != "" {
		return "internal " + name
	}
	port, _ := a.get("socket_address", "port_value").number()
	return fmt.Sprintf("%s:%d", strings.ToLower(a.get("socket_address", "address").str()), int(port))
}

// admin examines Envoy's admin interface: whoever reaches it can read the
// configuration, and change runtime settings.
func (p *proxy) admin() {
	a := p.bootstrap.get("admin", "address")
	if !a.exists() {
		return
	}
	host := a.get("socket_address", "address").str()
	p.expect(host == "" || isLoopback(host), "envoy.admin", "admin", "admin.address is %s", addressText(a))
}
