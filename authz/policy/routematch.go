package policy

import (
	"slices"

	"jwtbouncer/authz"
)

// match tells whether a route matches a request. matchUnclear means that it depends
// on how another server reads the request. The minimum of several conditions
// applies.
type match uint8

const (
	matchNo match = iota
	matchUnclear
	matchYes
)

// conditions determine which requests a route matches. An empty one always holds.
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

// target is the part of a request that conditions compare, parsed once.
type target struct {
	req     *authz.Request
	host    string
	hostOK  bool
	method  bool // every server reads the method alike
	path    requestPath
	unclear string // why the request is unclear; empty: it is clear
	steps   int    // that may still be spent on the readings of an unclear path
}

func (t *target) hostMatch(c *conditions) match {
	switch {
	case len(c.hosts) == 0:
		return matchYes
	case !t.hostOK:
		return matchUnclear
	case slices.ContainsFunc(c.hosts, func(p hostPattern) bool { return p.matches(t.host) }):
		return matchYes
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
	case t.path.unclear != "":
		if t.path.parts == nil {
			return matchUnclear
		}
		m := matchReadings(t.path.parts, c.paths, &t.steps)
		if m == matchYes && public && t.path.reshaped {
			return matchUnclear
		}
		return m
	case slices.ContainsFunc(c.paths, func(p pathPattern) bool { return p.matches(t.path.text) }):
		return matchYes
	}
	return matchNo
}

// matchesRest checks the conditions that every server reads alike.
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

// clearMethod reports whether every server reads the method alike, even one that
// ignores case.
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

// covers reports whether c holds for every request for which o holds.
func (c *conditions) covers(o *conditions) bool {
	return coversAll(c.hosts, o.hosts, func(a, b hostPattern) bool { return a.covers(b) }) &&
		coversAll(c.paths, o.paths, func(a, b pathPattern) bool { return a.covers(&b) }) &&
		coversAll(c.methods, o.methods, func(a, b string) bool { return a == b }) &&
		subset(c.extensions, o.extensions) && subset(c.headers, o.headers)
}

// coversAll reports whether every alternative in o is covered by one in c. No
// alternatives mean everything.
func coversAll[T any](c, o []T, covers func(a, b T) bool) bool {
	if len(c) == 0 {
		return true
	}
	return len(o) > 0 && !slices.ContainsFunc(o, func(b T) bool {
		return !slices.ContainsFunc(c, func(a T) bool { return covers(a, b) })
	})
}

func subset(of, in []authz.Header) bool {
	return !slices.ContainsFunc(of, func(h authz.Header) bool { return !slices.Contains(in, h) })
}
