package authz

// Policy is the compiled list of routes. It is immutable.
type Policy struct {
	routes []*Route
}

// NewPolicy returns a policy over compiled routes in order of precedence. No
// routes at all: every path needs a valid token.
func NewPolicy(routes ...*Route) *Policy {
	if len(routes) == 0 {
		routes = []*Route{{Name: "default"}}
	}
	return &Policy{routes: routes}
}

// Match returns the first route that matches, nil when none does.
func (p *Policy) Match(req *Request) *Route {
	for _, r := range p.routes {
		if r.matches(req) {
			return r
		}
	}
	return nil
}
