package authz

import (
	"fmt"
	"strings"
)

// Policy is the compiled list of routes. It is immutable.
//
// The first route that matches wins. A request that could match a route or
// not, depending on how a server reads its path, host or method, is refused
// unless an earlier route takes it whatever the reading (see readPath).
type Policy struct {
	routes []*Route
	index  routeIndex
	// first is set when routes[0] takes every request.
	first                          *Route
	usesHost, usesPath, usesMethod bool
}

// PolicyOptions are what routes may refer to.
type PolicyOptions struct {
	// Issuers are the configured ones, for checking a route's issuers. nil:
	// any issuer may be named.
	Issuers []string
	// Binding checks sender-constrained tokens; nil: those are refused.
	Binding *Binding
	// Introspectors by name, for routes with introspection.
	Introspectors map[string]Introspector
	// AllowRevocationUnknown is revocation.on_revocation_unknown: what routes without a word
	// of their own do when nothing can prove that a token is not revoked.
	// False denies.
	AllowRevocationUnknown bool
}

// NewPolicy returns a policy over compiled routes in order of precedence. No
// routes at all: every path needs a valid token.
func NewPolicy(routes ...*Route) *Policy {
	if len(routes) == 0 {
		routes = []*Route{{Name: "default"}}
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

// CompilePolicy checks and compiles routes; it has no side effects, so that a
// new file can be tried while the old policy serves. The error lists every
// fault with its path.
func CompilePolicy(routes []RouteConfig, o PolicyOptions) (*Policy, error) {
	var faults []string
	compiled := compileRoutes(routes, o, func(path, format string, args ...any) {
		faults = append(faults, path+": "+fmt.Sprintf(format, args...))
	}, wellRead)
	if len(faults) > 0 {
		return nil, fmt.Errorf("routes: %s", strings.Join(faults, "\nroutes: "))
	}
	if len(compiled) == 0 {
		compiled = []*Route{{Name: "default", binding: o.Binding, AllowRevocationUnknown: o.AllowRevocationUnknown}}
	}
	return NewPolicy(compiled...), nil
}

// Routes returns the routes in order of precedence.
func (p *Policy) Routes() []*Route { return p.routes }

// Match returns the first route that matches, nil when none does, and a
// failure when that depends on how the request is read.
func (p *Policy) Match(req *Request) (*Route, *Failure) {
	if p.first != nil {
		return p.first, nil
	}
	t := target{req: req, method: true, hostOK: true}
	if p.usesMethod {
		if t.method = clearMethod(req.Method); !t.method {
			t.unclear = "method is not written in capitals"
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
		return p.index.find(p.routes, &t), nil
	}
	for _, r := range p.routes {
		switch r.test(&t) {
		case matchYes:
			return r, nil
		case matchUnclear:
			return nil, &Failure{Reason: ReasonMalformedRequest, Detail: "route " + r.Name + " may or may not match: " + t.unclear}
		}
	}
	return nil, nil
}
