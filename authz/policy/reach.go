package policy

import (
	"fmt"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

const (
	// unlisted is a segment, a label and a method that no route names.
	unlisted = "\x01"
	// maxSamples bounds the requests that are tried for one route. A route for which
	// they do not suffice gets no warning.
	maxSamples = 5000
)

// Warnings reports what is valid and probably a mistake: routes, and entries of
// their lists, that no request reaches, and scopes that a request evades because an
// earlier route without any rule decides it. Paths are relative to the list of
// routes, as those of ValidateRoutes.
//
// It tries one request of each kind that the conditions of the routes can tell
// apart, so it neither misses a kind nor reports what some request reaches.
func (p *Policy) Warnings(report authz.Report) {
	for i, r := range p.routes {
		s := sampler{policy: p, route: r}
		if s.run(); s.left > 0 {
			s.warn(i, report)
		}
	}
}

// sampler tries the requests of one route.
type sampler struct {
	policy *Policy
	route  *Route
	left   int // samples; 0: too many kinds
	paths  []pathSample

	reached  bool
	reachedH []bool           // per entry of hosts
	reachedP []bool           // per entry of paths
	reachedM []bool           // per entry of methods
	takers   []*Route         // routes that decide requests of this one, in order
	evasions map[string][]int // entries of paths by what is evaded
	order    []string         // keys of evasions
}

// pathSample is one path of each kind that the path conditions tell apart.
type pathSample struct {
	entry int // of the route's paths; 0 if it has none
	text  string
}

// sample is a value of a condition and the entry of the route's list that it is for.
type sample struct {
	entry int
	text  string
}

func (s *sampler) run() {
	c := &s.route.when
	s.left = maxSamples
	s.reachedH, s.reachedP, s.reachedM = make([]bool, len(c.hosts)), make([]bool, len(c.paths)), make([]bool, len(c.methods))
	s.evasions = map[string][]int{}
	s.samplePaths()
	hosts, methods, extras := s.hosts(), s.methods(), s.extras()
	if len(s.paths)*len(hosts)*len(methods)*len(extras) >= s.left {
		s.left = 0
		return
	}
	for entry := range max(1, len(c.paths)) {
		for _, h := range hosts {
			for _, m := range methods {
				s.try(entry, h, m, extras)
			}
		}
	}
}

// try sends the requests for one host, method and entry of paths.
func (s *sampler) try(entry int, h, m sample, extras []authz.Request) {
	var lax *Route // decides all requests without further headers
	all := true
	for n, extra := range extras {
		for _, path := range s.paths {
			if path.entry != entry {
				continue
			}
			req := extra
			req.Method = m.text
			got := s.policy.index.find(s.policy.routes, &target{req: &req, method: true, hostOK: true, host: h.text, path: requestPath{text: path.text}})
			if got == s.route {
				s.reached = true
				mark(s.reachedH, h.entry)
				mark(s.reachedP, entry)
				mark(s.reachedM, m.entry)
			} else if got != nil && !slices.Contains(s.takers, got) {
				s.takers = append(s.takers, got)
			}
			if n == 0 {
				all = all && got != nil && got != s.route && got.demandsNothing() && (lax == nil || got == lax) && s.broader(got, entry)
				lax = got
			}
		}
	}
	if all && lax != nil && len(s.route.RequiredScopes)+len(s.route.AnyScopes) > 0 {
		key := fmt.Sprintf("%s requests%s match the earlier route %q, which needs no scope", shown(m.text, "other"), onHost(h.text), lax.Name)
		if _, ok := s.evasions[key]; !ok {
			s.order = append(s.order, key)
		}
		if !slices.Contains(s.evasions[key], entry) {
			s.evasions[key] = append(s.evasions[key], entry)
		}
	}
}

func mark(reached []bool, entry int) {
	if len(reached) > 0 {
		reached[entry] = true
	}
}

func shown(text, otherwise string) string {
	if text == unlisted {
		return otherwise
	}
	return text
}

func onHost(host string) string {
	if strings.HasPrefix(host, unlisted) {
		return ""
	}
	return " to host " + host
}

// demandsNothing reports whether r has no rule beyond a valid token.
func (r *Route) demandsNothing() bool {
	return len(r.RequiredScopes)+len(r.AnyScopes)+len(r.allow)+len(r.Issuers)+len(r.Audiences) == 0 && r.require == ""
}

// broader reports whether e is for more paths than an entry of the route: a route
// for the same path or a part of it is an exception that is meant.
func (s *sampler) broader(e *Route, entry int) bool {
	if len(s.route.when.paths) == 0 {
		return len(e.when.paths) == 0
	}
	own := s.route.when.paths[entry]
	return !slices.ContainsFunc(e.when.paths, func(p pathPattern) bool { return own.covers(&p) })
}

func (s *sampler) warn(i int, report authz.Report) {
	at := func(path string) string { return authz.ItemPath("", i) + ".match" + path }
	var names []string
	for _, r := range s.takers {
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	if !s.reached {
		report(at(""), "no request reaches route %q: the earlier routes %s match all of its requests", s.route.Name, strings.Join(names, ", "))
		return
	}
	for _, list := range []struct {
		name    string
		reached []bool
	}{{".hosts", s.reachedH}, {".paths", s.reachedP}, {".methods", s.reachedM}} {
		for n, ok := range list.reached {
			if !ok {
				report(at(authz.ItemPath(list.name, n)), "no request reaches this entry of route %q: earlier routes (%s) match all of its requests", s.route.Name, strings.Join(names, ", "))
			}
		}
	}
	for _, what := range s.order {
		for _, entry := range s.evasions[what] {
			path := ""
			if len(s.reachedP) > 0 {
				if !s.reachedP[entry] {
					continue // reported above
				}
				path = authz.ItemPath(".paths", entry)
			}
			report(at(path), "route %q needs scopes, but %s; put the narrower route first", s.route.Name, what)
		}
	}
}

// hosts returns a host of each kind that the route matches.
func (s *sampler) hosts() []sample {
	var all []hostPattern
	for _, r := range s.policy.routes {
		for _, h := range r.when.hosts {
			if !slices.Contains(all, h) {
				all = append(all, h)
			}
		}
	}
	example := func(h hostPattern) string {
		if h.suffix {
			return unlisted + h.name
		}
		return h.name
	}
	var out []sample
	if len(s.route.when.hosts) == 0 {
		out = append(out, sample{text: unlisted})
		for _, h := range all {
			out = append(out, sample{text: example(h)})
		}
	}
	for entry, own := range s.route.when.hosts {
		for _, h := range all {
			if own.matches(example(h)) {
				out = append(out, sample{entry, example(h)})
			}
		}
	}
	return out
}

func (s *sampler) methods() []sample {
	var out []sample
	for entry, m := range s.route.when.methods {
		out = append(out, sample{entry, m})
	}
	if len(out) > 0 {
		return out
	}
	seen := []string{unlisted}
	for _, r := range s.policy.routes {
		for _, m := range r.when.methods {
			if !slices.Contains(seen, m) {
				seen = append(seen, m)
			}
		}
	}
	for _, m := range seen {
		out = append(out, sample{text: m})
	}
	return out
}

// extras returns requests with the route's headers and context extensions and with
// every combination of those of other routes, first without them; nil: there are
// too many.
func (s *sampler) extras() []authz.Request {
	own := &s.route.when
	out := []authz.Request{{Headers: own.headers, ContextExtensions: own.extensions}}
	add := func(h authz.Header, list func(*authz.Request) *[]authz.Header) {
		for _, req := range slices.Clone(out) {
			l := list(&req)
			if slices.ContainsFunc(*l, func(o authz.Header) bool { return o.Name == h.Name }) {
				continue
			}
			*l = append(slices.Clone(*l), h)
			out = append(out, req)
		}
	}
	var headers, extensions []authz.Header
	for _, r := range s.policy.routes {
		for _, h := range r.when.headers {
			if !slices.Contains(headers, h) && len(out) < maxSamples {
				headers = append(headers, h)
				add(h, func(r *authz.Request) *[]authz.Header { return &r.Headers })
			}
		}
		for _, h := range r.when.extensions {
			if !slices.Contains(extensions, h) && len(out) < maxSamples {
				extensions = append(extensions, h)
				add(h, func(r *authz.Request) *[]authz.Header { return &r.ContextExtensions })
			}
		}
	}
	return out
}

// samplePaths collects a path of each kind that the route matches.
func (s *sampler) samplePaths() {
	var all []pathPattern
	for _, r := range s.policy.routes {
		all = append(all, r.when.paths...)
	}
	if len(s.route.when.paths) == 0 {
		s.descend(0, pathPattern{rest: true}, all, "")
	}
	for entry, own := range s.route.when.paths {
		s.descend(entry, own, all, "")
	}
}

// descend adds the paths below text that own matches. others are the patterns that
// may match a path below it.
func (s *sampler) descend(entry int, own pathPattern, others []pathPattern, text string) {
	if len(s.paths) >= maxSamples {
		return
	}
	depth := strings.Count(text, "/")
	add := func(text string) {
		if own.matches(text) {
			s.paths = append(s.paths, pathSample{entry, text})
		}
	}
	if depth == 0 {
		add("/")
	} else {
		add(text)
		if own.strict && own.slash || slices.ContainsFunc(others, func(p pathPattern) bool { return p.strict && len(p.segments) == depth }) {
			add(text + "/")
		}
	}
	if depth >= len(own.segments) && !own.rest {
		return
	}
	deeper := slices.ContainsFunc(others, func(p pathPattern) bool { return len(p.segments) > depth || !p.rest && len(p.segments) == depth })
	if depth >= len(own.segments) && !deeper {
		return // whatever follows is of the same kind
	}
	var next []string
	if depth < len(own.segments) && !own.segments[depth].wild {
		next = []string{own.segments[depth].text}
	} else {
		next = []string{unlisted}
		for _, p := range others {
			if depth < len(p.segments) && !p.segments[depth].wild && !slices.Contains(next, p.segments[depth].text) {
				next = append(next, p.segments[depth].text)
			}
		}
	}
	for _, segment := range next {
		below := slices.DeleteFunc(slices.Clone(others), func(p pathPattern) bool {
			if depth >= len(p.segments) {
				return !p.rest
			}
			return !p.segments[depth].wild && p.segments[depth].text != segment
		})
		s.descend(entry, own, below, text+"/"+segment)
	}
}
