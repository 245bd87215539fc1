package authz

import "slices"

// answer is whether a route is for a request. unclear: it depends on which of
// several readings of the request another server takes.
type answer uint8

const (
	no answer = iota
	unclear
	yes
)

// conditions are what a route is chosen by. Empty ones hold for everything.
type conditions struct {
	hosts      []hostPattern
	paths      []pathPattern
	methods    []string
	extensions []Header
	headers    []Header
}

func (c *conditions) empty() bool {
	return len(c.hosts) == 0 && len(c.paths) == 0 && len(c.methods) == 0 && len(c.extensions) == 0 && len(c.headers) == 0
}

// target is what of a request routes are chosen by, read once.
type target struct {
	req     *Request
	host    string
	hostOK  bool
	method  bool // the method means the same to everybody
	path    requestPath
	unclear string // the first thing that is unclear
}

func (t *target) hostAnswer(c *conditions) answer {
	switch {
	case len(c.hosts) == 0:
		return yes
	case !t.hostOK:
		return unclear
	}
	for _, p := range c.hosts {
		if p.matches(t.host) {
			return yes
		}
	}
	return no
}

func (t *target) methodAnswer(c *conditions) answer {
	switch {
	case len(c.methods) == 0:
		return yes
	case !t.method:
		return unclear
	case slices.Contains(c.methods, t.req.Method):
		return yes
	}
	return no
}

func (t *target) pathAnswer(c *conditions, public bool) answer {
	switch {
	case len(c.paths) == 0:
		return yes
	case t.path.unclear == "":
		if c.matchesPath(t.path.text) {
			return yes
		}
		return no
	case t.path.readings == nil:
		return unclear
	}
	matched := 0
	for _, reading := range t.path.readings {
		if c.matchesPath(reading) {
			matched++
		}
	}
	switch {
	case matched == 0:
		return no
	case matched == len(t.path.readings) && !public:
		return yes
	}
	return unclear
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
func (c *conditions) matchesRest(req *Request) bool {
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

func (r *Route) test(t *target) answer {
	c := &r.when
	if !c.matchesRest(t.req) {
		return no
	}
	return min(t.methodAnswer(c), t.hostAnswer(c), t.pathAnswer(c, r.Public))
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

func subset(of, in []Header) bool {
	for _, h := range of {
		if !slices.Contains(in, h) {
			return false
		}
	}
	return true
}
