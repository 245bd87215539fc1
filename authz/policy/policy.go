package policy

import (
	"fmt"
	"strings"

	"jwtbouncer/authz"
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
type Options struct {
	// Issuers are the configured ones, for checking a route's issuers. nil:
	// any issuer may be named.
	Issuers []string
	// Binding checks sender-constrained tokens; nil: those are refused.
	Binding *Binding
	// Introspectors by name, for routes with introspection.
	Introspectors map[string]authz.Introspector
	// AllowRevocationUnknown is revocation.on_revocation_unknown: what routes without a word
	// of their own do when nothing can prove that a token is not revoked.
	// False denies.
	AllowRevocationUnknown bool
}

// NewPolicy returns a policy over compiled routes in order of precedence. No
// routes at all: every path needs a valid token.
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

// CompilePolicy checks and compiles routes; it has no side effects, so that a
// new file can be tried while the old policy serves. The error lists every
// invalid value with its path.
func Compile(routes []RouteConfig, o Options) (*Policy, error) {
	var messages []string
	compiled := compileRoutes(routes, o, func(path, format string, args ...any) {
		messages = append(messages, path+": "+fmt.Sprintf(format, args...))
	}, allValid)
	if len(messages) > 0 {
		return nil, fmt.Errorf("routes: %s", strings.Join(messages, "\nroutes: "))
	}
	if len(compiled) == 0 {
		compiled = []*Route{{RouteRule: authz.RouteRule{Name: "default", AllowRevocationUnknown: o.AllowRevocationUnknown}, binding: o.Binding}}
	}
	return New(compiled...), nil
}

// Routes returns the routes in order of precedence.
func (p *Policy) Routes() []*Route { return p.routes }

// Match returns the first route that matches, nil when none does, and a
// failure when that depends on how the request is read.
func (p *Policy) Match(req *authz.Request) (authz.Route, *authz.Failure) {
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
		if r := p.index.find(p.routes, &t); r != nil {
			return r, nil
		}
		return nil, nil // not a nil *CompiledRoute in the interface
	}
	for _, r := range p.routes {
		switch r.test(&t) {
		case matchYes:
			return r, nil
		case matchUnclear:
			return nil, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: "route " + r.Name + " may or may not match: " + t.unclear}
		}
	}
	return nil, nil
}

// WithAssumptions returns a copy of p for tests of a policy, which have neither
// keys nor issuers to ask. Introspection is answered by i. proven lists the
// members of cnf that count as proven: "dpop", "mtls". Used DPoP proofs are
// not recorded.
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
