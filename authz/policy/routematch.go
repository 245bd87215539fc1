package policy

import (
	"slices"

	"jwtbouncer/authz"
)

// match is whether a route is for a request. matchUnclear: it depends on which
// of several readings of the request another server takes. Ordered so that of
// several conditions the least decides.
type match uint8

const (
	matchNo match = iota
	matchUnclear
	matchYes
)

// conditions are what a route is chosen by. Empty ones hold for everything.
type conditions struct {
	hosts      []hostPattern
	paths      []pathPattern
	methods    []string
	extensions []authz.Header
	headers    []authz.Header
}

func (c *conditions) empty() bool {
	return len(c.hosts) == 0 && len(c.paths) == 0 && len(c.methods) == 0 && len(c.extensions) == 0 && len(c.headers) == 0
}

// target is what of a request routes are chosen by, read once.
type target struct {
	req     *authz.Request
	host    string
	hostOK  bool
	method  bool // the method means the same to everybody
	path    requestPath
	unclear string // the first thing that is unclear
}

func (t *target) hostMatch(c *conditions) match {
	switch {
	case len(c.hosts) == 0:
		return matchYes
	case !t.hostOK:
		return matchUnclear
	}
	for _, p := range c.hosts {
		if p.matches(t.host) {
			return matchYes
		}
	}
	return matchNo
}

func (t *target) methodMatch(c *conditions) match {
	switch {
	case len(c.methods) == 0:
		return matchYes
	case !t.method:
		return matchUnclear
	case slices.Contains(c.methods, t.req.Method):
		return matchYes
	}
	return matchNo
}

func (t *target) pathMatch(c *conditions, public bool) match {
	switch {
	case len(c.paths) == 0:
		return matchYes
	case t.path.unclear == "":
		if c.matchesPath(t.path.text) {
			return matchYes
		}
		return matchNo
	case t.path.readings == nil:
		return matchUnclear
	}
	matched := 0
	for _, reading := range t.path.readings {
		if c.matchesPath(reading) {
			matched++
		}
	}
	switch {
	case matched == 0:
		return matchNo
	case matched == len(t.path.readings) && !public:
		return matchYes
	}
	return matchUnclear
}

func (c *conditions) matchesPath(path string) bool {
	for i := range c.paths {
		if c.paths[i].matches(path) {
			return true
		}
	}
	return false
}

// matchesRest checks what has one reading only.
func (c *conditions) matchesRest(req *authz.Request) bool {
	for _, want := range c.extensions {
		if v, ok := req.Extension(want.Name); !ok || v != want.Value {
			return false
		}
	}
	for _, want := range c.headers {
		if v, n := req.Header(want.Name); n != 1 || v != want.Value {
			return false
		}
	}
	return true
}

func (r *Route) test(t *target) match {
	c := &r.when
	if !c.matchesRest(t.req) {
		return matchNo
	}
	return min(t.methodMatch(c), t.hostMatch(c), t.pathMatch(c, r.Public))
}

// clearMethod reports whether no server can take the method for another one by
// folding its case.
func clearMethod(m string) bool {
	if m == "" {
		return false
	}
	for i := range len(m) {
		if c := m[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// covers reports whether c holds for every request that o holds for.
func (c *conditions) covers(o *conditions) bool {
	return coversAll(c.hosts, o.hosts, func(a, b hostPattern) bool { return a.covers(b) }) &&
		coversAll(c.paths, o.paths, func(a, b pathPattern) bool { return a.covers(&b) }) &&
		coversAll(c.methods, o.methods, func(a, b string) bool { return a == b }) &&
		subset(c.extensions, o.extensions) && subset(c.headers, o.headers)
}

// coversAll reports whether each of o's alternatives is within one of c's. No
// alternatives mean everything.
func coversAll[T any](c, o []T, covers func(a, b T) bool) bool {
	if len(c) == 0 {
		return true
	}
	for _, b := range o {
		if !slices.ContainsFunc(c, func(a T) bool { return covers(a, b) }) {
			return false
		}
	}
	return len(o) > 0
}

func subset(of, in []authz.Header) bool {
	for _, h := range of {
		if !slices.Contains(in, h) {
			return false
		}
	}
	return true
}
