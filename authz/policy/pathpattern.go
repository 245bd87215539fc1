package policy

import (
	"fmt"
	"strings"
)

// pathPattern is one compiled `paths` entry of a route.
type pathPattern struct {
	segments []patternSegment
	rest     bool // any further segments may follow
	// slash tells whether an exact or template pattern ends in "/". Only strict
	// patterns compare it: most servers ignore the slash, so it must neither evade
	// a route that protects nor extend a public one.
	slash, strict bool
}

type patternSegment struct {
	text string
	wild bool // any segment that is not empty
}

// splitPath returns the segments of the path, separated by slashes, and whether it
// ends in a slash. Both "/" and "//" have an empty body.
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
	if err := checkSyntax(text, false); err != nil {
		return pathPattern{}, err
	}
	return readPattern(text, rest, strict)
}

// readPattern compiles a path without variables, whose syntax has been checked.
func readPattern(text string, rest, strict bool) (pathPattern, error) {
	p := pathPattern{rest: rest, strict: strict && !rest}
	path := readPath(text)
	if path.unclear != "" {
		return p, fmt.Errorf("%s; write a plain path, such as /v1/users", path.unclear)
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

// parseTemplate compiles a path with {name} segments. The last segment may be
// {name...}, which matches any number of segments, including none.
func parseTemplate(text string, strict bool) (pathPattern, error) {
	if err := checkSyntax(text, true); err != nil {
		return pathPattern{}, err
	}
	p, err := readPattern(text, false, strict)
	if err != nil {
		return p, err
	}
	names := map[string]bool{}
	// Variables are written without escapes: %7Bid%7D is the text {id}.
	written := strings.Split(text[1:], "/")
	for i := range p.segments {
		match := variable.FindStringSubmatch(written[i])
		if match == nil {
			continue
		}
		name := match[1]
		if names[name] {
			return p, fmt.Errorf("duplicate variable %q", name)
		}
		names[name] = true
		if match[2] != "" {
			if i != len(p.segments)-1 || p.slash {
				return p, fmt.Errorf("segment %q: only the last segment can match several segments", written[i])
			}
			p.segments, p.rest, p.strict = p.segments[:i], true, false
			return p, nil
		}
		p.segments[i] = patternSegment{wild: true}
	}
	return p, nil
}
