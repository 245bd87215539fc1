package policy

import (
	"fmt"
	"strings"
)

// pathPattern is one compiled `paths` entry of a route.
type pathPattern struct {
	segments []patternSegment
	rest     bool // any further segments may follow
	// slash: an exact or template pattern ended in "/". It is compared only
	// where strict: a rule that protects must not be evaded by a slash that
	// most servers ignore, and a public one must not be widened by it.
	slash, strict bool
}

type patternSegment struct {
	text string
	wild bool // one segment that is not empty
}

// splitPath returns the path's segments one by one. "/" has none; a slash at
// the end is no segment.
func splitPath(path string) (body string, slash bool) {
	body = path[1:]
	if strings.HasSuffix(body, "/") {
		return body[:len(body)-1], true
	}
	return body, false
}

func (p *pathPattern) matches(path string) bool {
	body, slash := splitPath(path)
	empty := path == "/"
	for i := range p.segments {
		if empty {
			return false
		}
		seg, rest, more := strings.Cut(body, "/")
		if p.segments[i].wild && seg == "" || !p.segments[i].wild && seg != p.segments[i].text {
			return false
		}
		body, empty = rest, !more
	}
	if p.rest {
		return true
	}
	return empty && (!p.strict || slash == p.slash || path == "/")
}

func (p *pathPattern) covers(o *pathPattern) bool {
	if len(p.segments) > len(o.segments) || !p.rest && (o.rest || len(p.segments) != len(o.segments)) {
		return false
	}
	for i, s := range p.segments {
		if t := o.segments[i]; !s.wild && (t.wild || s.text != t.text) {
			return false
		}
	}
	return p.rest || !p.strict || o.strict && p.slash == o.slash
}

// parsePath compiles a literal path.
func parsePath(text string, rest, strict bool) (pathPattern, error) {
	p := pathPattern{rest: rest, strict: strict && !rest}
	path := readPath(text)
	if path.unclear != "" || strings.ContainsAny(text, "?#") {
		why := path.unclear
		if why == "" {
			why = "path has a query or a fragment"
		}
		return p, fmt.Errorf("%s: write the path as a server sees it, such as /v1/users", why)
	}
	if path.text == "/" {
		return p, nil
	}
	body, slash := splitPath(path.text)
	p.slash = slash
	for seg := range strings.SplitSeq(body, "/") {
		p.segments = append(p.segments, patternSegment{text: seg})
	}
	return p, nil
}

// parseTemplate compiles a path with {name} segments; {name...} as the last
// one stands for all that follow, or none.
func parseTemplate(text string, strict bool) (pathPattern, error) {
	p, err := parsePath(text, false, strict)
	if err != nil {
		return p, err
	}
	names := map[string]bool{}
	for i := range p.segments {
		s := &p.segments[i]
		if !strings.ContainsAny(s.text, "{}") {
			continue
		}
		name, ok := strings.CutPrefix(s.text, "{")
		if ok {
			name, ok = strings.CutSuffix(name, "}")
		}
		name, rest := strings.CutSuffix(name, "...")
		if !ok || !isName(name) {
			return p, fmt.Errorf("segment %q: a variable takes a whole segment, such as {id} or, last, {rest...}", s.text)
		}
		if names[name] {
			return p, fmt.Errorf("variable %q occurs twice", name)
		}
		names[name] = true
		if rest {
			if i != len(p.segments)-1 || p.slash {
				return p, fmt.Errorf("segment %q: only the last segment can stand for several", s.text)
			}
			p.segments, p.rest, p.strict = p.segments[:i], true, false
			return p, nil
		}
		*s = patternSegment{wild: true}
	}
	return p, nil
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
