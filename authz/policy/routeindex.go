package policy

import (
	"slices"
	"strings"
)

// routeIndex finds the first route for a clear request in a time that depends on
// the number of segments, not of routes. Routes that differ only in method, headers
// or context extensions share a node and are tried in order.
type routeIndex struct {
	exact  map[string]*pathNode // by host
	suffix map[string]*pathNode // by ".example.com"
	any    *pathNode            // routes without hosts
}

// pathNode is one segment position in a tree of path patterns.
type pathNode struct {
	literal map[string]*pathNode
	wild    *pathNode
	within  []int     // routes with a pattern that matches everything from here on
	ends    []pathEnd // routes with a pattern that ends here
}

type pathEnd struct {
	route         int
	slash, strict bool
}

func (x *routeIndex) build(routes []*Route) {
	x.exact, x.suffix = map[string]*pathNode{}, map[string]*pathNode{}
	x.any = &pathNode{}
	for i, r := range routes {
		if len(r.when.hosts) == 0 {
			x.any.add(i, r.when.paths)
		}
		for _, h := range r.when.hosts {
			table := x.exact
			if h.suffix {
				table = x.suffix
			}
			if table[h.name] == nil {
				table[h.name] = &pathNode{}
			}
			table[h.name].add(i, r.when.paths)
		}
	}
}

func (n *pathNode) add(route int, paths []pathPattern) {
	if len(paths) == 0 {
		n.within = append(n.within, route)
		return
	}
	for _, p := range paths {
		at := n
		for _, s := range p.segments {
			at = at.child(s)
		}
		if p.rest {
			if !slices.Contains(at.within, route) {
				at.within = append(at.within, route)
			}
		} else {
			at.ends = append(at.ends, pathEnd{route: route, slash: p.slash, strict: p.strict})
		}
	}
}

func (n *pathNode) child(s patternSegment) *pathNode {
	if s.wild {
		if n.wild == nil {
			n.wild = &pathNode{}
		}
		return n.wild
	}
	if n.literal == nil {
		n.literal = map[string]*pathNode{}
	}
	if n.literal[s.text] == nil {
		n.literal[s.text] = &pathNode{}
	}
	return n.literal[s.text]
}

// find returns the first route that matches t, nil if none does. t must be clear.
func (x *routeIndex) find(routes []*Route, t *target) *Route {
	body, slash := splitPath(t.path.text)
	f := finder{routes: routes, t: t, best: len(routes), slash: slash, root: t.path.text == "/"}
	f.walk(x.any, body, f.root)
	if n := x.exact[t.host]; n != nil {
		f.walk(n, body, f.root)
	}
	for i := 1; i < len(t.host) && len(x.suffix) > 0; i++ {
		if t.host[i] != '.' {
			continue
		}
		if n := x.suffix[t.host[i:]]; n != nil {
			f.walk(n, body, f.root)
		}
	}
	if f.best == len(routes) {
		return nil
	}
	return routes[f.best]
}

type finder struct {
	routes      []*Route
	t           *target
	best        int
	root, slash bool
}

// walk tries the routes at n and below it. empty tells whether no segment is left;
// an empty body may also be an empty segment, as in "/a//".
func (f *finder) walk(n *pathNode, body string, empty bool) {
	for _, i := range n.within {
		if i >= f.best {
			break
		}
		f.try(i)
	}
	if empty {
		for _, e := range n.ends {
			if e.route >= f.best {
				break
			}
			if !e.strict || e.slash == f.slash || f.root {
				f.try(e.route)
			}
		}
		return
	}
	seg, rest, more := strings.Cut(body, "/")
	if c := n.literal[seg]; c != nil {
		f.walk(c, rest, !more)
	}
	if n.wild != nil && seg != "" {
		f.walk(n.wild, rest, !more)
	}
}

func (f *finder) try(i int) {
	c := &f.routes[i].when
	if f.t.methodMatch(c) == matchYes && c.matchesRest(f.t.req) {
		f.best = i
	}
}
