package policy

import "jwtbouncer/authz"

// Policy is the compiled list of routes. It is immutable.
//
// The first route that matches applies. If it is unclear whether a route matches,
// because servers read the path, host or method differently, the request is denied
// unless an earlier route matches in every reading (see readPath).
type Policy struct {
	routes []*Route
	index  routeIndex
	// first is set if routes[0] matches every request.
	first                          *Route
	usesHost, usesPath, usesMethod bool
}

// Options are what routes may refer to.
type Options struct {
	// Issuers are the names of all configured issuers. nil, and no Templates: routes
	// may name any issuer.
	Issuers []string
	// Templates are names with authz.TenantPlaceholder, which routes may use as well:
	// the names of the listed tenants. nil: every tenant's, which routes may also
	// name themselves.
	Templates map[string][]string
	// Binding checks sender-constrained tokens. nil: such tokens are denied.
	Binding *Binding
	// Introspectors by name, for routes with introspection.
	Introspectors map[string]authz.Introspector
	// AllowRevocationUnknown is revocation.on_revocation_unknown, the default of
	// routes: whether a token is allowed if nothing can prove that it is not
	// revoked.
	AllowRevocationUnknown bool
	// Audiences returns the audiences that are configured for an issuer, which
	// messages name. nil: they name none.
	Audiences func(issuer string) []string
}

// New returns a policy with compiled routes in order of precedence. Without
// routes, every path needs a valid token.
func New(routes ...*Route) *Policy {
	if len(routes) == 0 {
		routes = []*Route{{RouteRule: authz.RouteRule{Name: "default"}}}
	}
	p := &Policy{routes: routes}
	if routes[0].when.empty() {
		p.first = routes[0]
	}
	for _, r := range routes {
		p.usesHost = p.usesHost || len(r.when.hosts) > 0
		p.usesPath = p.usesPath || len(r.when.paths) > 0
		p.usesMethod = p.usesMethod || len(r.when.methods) > 0
	}
	p.index.build(routes)
	return p
}

// Compile validates and compiles routes. It has no side effects, so that a new file
// can be tried while the old policy is in use. The error lists every invalid value
// with its path.
func Compile(routes []RouteConfig, o Options) (*Policy, error) {
	var compiled []*Route
	err := authz.ValidationErrors("routes", func(report authz.Report) { compiled = compileRoutes(routes, o, report, nil) })
	if err != nil {
		return nil, err
	}
	if len(compiled) == 0 {
		compiled = []*Route{{RouteRule: authz.RouteRule{Name: "default", AllowRevocationUnknown: o.AllowRevocationUnknown}, binding: o.Binding}}
	}
	for _, r := range compiled {
		r.issuerAudiences = o.Audiences
	}
	return New(compiled...), nil
}

// Routes returns the routes in order of precedence.
func (p *Policy) Routes() []*Route { return p.routes }

// Match returns the first route that matches, nil if none does, and a failure if
// that depends on how a server reads the request.
func (p *Policy) Match(req *authz.Request) (authz.Route, *authz.Failure) {
	if p.first != nil {
		return p.first, nil
	}
	t := target{req: req, method: true, hostOK: true, steps: maxSteps}
	if p.usesMethod {
		if t.method = clearMethod(req.Method); !t.method {
			t.unclear = "method is not in upper case"
		}
	}
	if p.usesHost {
		if t.host, t.hostOK = readHost(req.Host); !t.hostOK {
			t.unclear = "host is missing or malformed"
		}
	}
	if p.usesPath {
		if t.path = readPath(req.Path); t.path.unclear != "" {
			t.unclear = t.path.unclear
		}
	} else {
		t.path.text = "/"
	}
	if t.unclear == "" {
		if r := p.index.find(p.routes, &t); r != nil {
			return r, nil
		}
		return nil, nil // not a nil *Route in the interface
	}
	for _, r := range p.routes {
		switch r.test(&t) {
		case matchYes:
			return r, nil
		case matchUnclear:
			return nil, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: "unclear whether route " + r.Name + " matches: " + t.unclear}
		}
	}
	return nil, nil
}

// WithAssumptions returns a copy of p for tests of a policy, which have neither
// keys nor introspection endpoints. All introspections use i. proven lists the
// bindings that count as proven: "dpop", "mtls". Used DPoP proofs are not recorded.
func (p *Policy) WithAssumptions(i authz.Introspector, proven []string) *Policy {
	routes := make([]*Route, len(p.routes))
	for n, r := range p.routes {
		r := *r
		if r.Introspector != nil {
			r.Introspector = i
		}
		if r.binding != nil {
			b := *r.binding
			b.assume = append([]string{""}, proven...)
			b.replay = Unrecorded{}
			r.binding = &b
		}
		routes[n] = &r
	}
	return New(routes...)
}
