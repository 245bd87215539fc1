package policy

import "slices"

const (
	// maxStates bounds the readings that are followed at the same time.
	maxStates = 64
	// maxSteps bounds the texts that are read for one request, over all routes: some
	// 20 ms. An ordinary path takes a few for each route that begins like it.
	maxSteps = 100_000
)

// pathState is how far the patterns of a route have matched a reading of a path.
// Readings that the patterns cannot tell apart share a state, so the cost of all
// readings grows with the length of the path and not with their number.
type pathState struct {
	segment int   // segments that have been read
	offset  int   // bytes of the current segment that have been read; 1 for any number if only variables are left
	skip    bool  // in the parameters of a segment
	alive   []int // patterns that match so far, not empty
	wild    bool  // all of them have a variable here, which has begun
}

func (s pathState) equal(o pathState) bool {
	return s.segment == o.segment && s.offset == o.offset && s.skip == o.skip && s.wild == o.wild && slices.Equal(s.alive, o.alive)
}

// pathMatcher matches all readings of a path with all patterns of a route at once.
type pathMatcher struct {
	patterns []pathPattern
	states   []pathState // of the readings that are undecided
	yes, no  bool        // there are readings that match, that do not match
}

// matchReadings returns matchYes if patterns match every reading of parts, matchNo
// if they match none, and matchUnclear if that takes more steps than are left.
func matchReadings(parts []pathPart, patterns []pathPattern, steps *int) match {
	m := pathMatcher{patterns: patterns}
	start := pathState{alive: make([]int, len(patterns))}
	for i, p := range patterns {
		start.alive[i] = i
		if p.rest && len(p.segments) == 0 {
			return matchYes
		}
	}
	m.read(start, parts[0][0][1:])
	for _, part := range parts[1:] {
		states := m.states
		m.states = nil
		for _, s := range states {
			for _, text := range part {
				m.read(s, text)
			}
		}
		*steps -= len(states) * len(part)
		if m.yes && m.no || len(m.states) > maxStates || *steps < 0 {
			return matchUnclear
		}
		if len(m.states) == 0 {
			break
		}
	}
	for _, s := range m.states {
		m.end(s)
	}
	switch {
	case m.yes && m.no:
		return matchUnclear
	case m.yes:
		return matchYes
	}
	return matchNo
}

// read follows the reading in state s through text.
func (m *pathMatcher) read(s pathState, text string) {
	for i := range len(text) {
		switch c := text[i]; {
		case c == markEnd:
			m.end(s)
			return
		case c == '/':
			if s.offset == 0 { // some servers merge the slashes
				m.read(pathState{segment: s.segment, alive: s.alive}, text[i+1:])
			}
			if s = m.nextSegment(s); s.alive == nil {
				return
			}
		case s.skip || s.wild && c > markParameters:
		case c == markParameters:
			s.skip = true
		case c == markAny:
			for _, next := range m.expected(s) {
				if t := m.nextByte(s, next); t.alive != nil {
					m.read(t, text[i+1:])
				}
			}
			return // that it is another character is a reading of its own, markOther
		default:
			if s = m.nextByte(s, c); s.alive == nil {
				m.no = true
				return
			}
		}
	}
	if !slices.ContainsFunc(m.states, s.equal) {
		m.states = append(m.states, s)
	}
}

// expected returns the bytes that the literal segments of patterns have next.
func (m *pathMatcher) expected(s pathState) []byte {
	var next []byte
	for _, i := range s.alive {
		if p := &m.patterns[i]; s.segment < len(p.segments) {
			if t := p.segments[s.segment]; !t.wild && s.offset < len(t.text) && !slices.Contains(next, t.text[s.offset]) {
				next = append(next, t.text[s.offset])
			}
		}
	}
	return next
}

// nextByte returns s after the byte c of a segment. It has no patterns if the
// reading cannot match any more.
func (m *pathMatcher) nextByte(s pathState, c byte) pathState {
	next := pathState{segment: s.segment, offset: s.offset + 1, wild: true, alive: make([]int, 0, len(s.alive))}
	for _, i := range s.alive {
		p := &m.patterns[i]
		if s.segment >= len(p.segments) {
			continue
		}
		if t := p.segments[s.segment]; t.wild || s.offset < len(t.text) && t.text[s.offset] == c {
			next.alive = append(next.alive, i)
			next.wild = next.wild && t.wild
		}
	}
	if len(next.alive) == 0 {
		return pathState{}
	}
	if next.wild {
		next.offset = 1
	}
	return next
}

// nextSegment returns s after the slash that ends a segment. It has no patterns if
// the reading is decided.
func (m *pathMatcher) nextSegment(s pathState) pathState {
	next := pathState{segment: s.segment + 1, alive: make([]int, 0, len(s.alive))}
	for _, i := range s.alive {
		p := &m.patterns[i]
		if !m.endsSegment(p, s) {
			continue
		}
		if p.rest && len(p.segments) == next.segment {
			m.yes = true
			return pathState{}
		}
		next.alive = append(next.alive, i)
	}
	if len(next.alive) == 0 {
		m.no = true
		return pathState{}
	}
	return next
}

// endsSegment reports whether p matches the current segment if it ends here.
func (*pathMatcher) endsSegment(p *pathPattern, s pathState) bool {
	if s.segment >= len(p.segments) {
		return false
	}
	t := p.segments[s.segment]
	return t.wild && s.offset > 0 || !t.wild && s.offset == len(t.text)
}

// end decides the reading in state s, which ends here.
func (m *pathMatcher) end(s pathState) {
	segments, slash := s.segment, s.segment > 0
	if s.offset > 0 {
		segments, slash = segments+1, false
	}
	matches := slices.ContainsFunc(s.alive, func(i int) bool {
		p := &m.patterns[i]
		return (s.offset == 0 || m.endsSegment(p, s)) && len(p.segments) == segments &&
			(p.rest || !p.strict || slash == p.slash || segments == 0)
	})
	m.yes, m.no = m.yes || matches, m.no || !matches
}
