package policy

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"

	"jwtbouncer/authz"
)

// upstreams are ways in which servers read a path. In none of them may a request
// that matched a public route have a path below a protected prefix.
var upstreams = map[string]func(string) string{
	"unchanged": func(p string) string { return p },
	"decoding":  decodeLoosely,
	"decoding and cleaning": func(p string) string {
		return path.Clean(decodeLoosely(p))
	},
	"cleaning, then decoding": func(p string) string { return decodeLoosely(path.Clean(p)) },
	"decoding twice":          func(p string) string { return path.Clean(decodeLoosely(decodeLoosely(p))) },
	"backslashes":             func(p string) string { return path.Clean(strings.ReplaceAll(decodeLoosely(p), `\`, "/")) },
	"parameters": func(p string) string {
		return path.Clean(stripParameters(decodeLoosely(p)))
	},
	"parameters, then decoding": func(p string) string { return path.Clean(decodeLoosely(stripParameters(p))) },
	"fragment": func(p string) string {
		p, _, _ = strings.Cut(decodeLoosely(p), "#")
		return path.Clean(p)
	},
	"C strings": func(p string) string {
		p, _, _ = strings.Cut(decodeLoosely(p), "\x00")
		return path.Clean(p)
	},
	"URL library": func(p string) string {
		u, err := url.Parse("http://h" + p)
		if err != nil {
			return "/"
		}
		return path.Clean("/" + u.Path)
	},
	"decoding three times": func(p string) string { return path.Clean(decodeLoosely(decodeLoosely(decodeLoosely(p)))) },
	"backslashes, decoded twice": func(p string) string {
		return path.Clean(strings.ReplaceAll(decodeLoosely(decodeLoosely(p)), `\`, "/"))
	},
	"delimiters": func(p string) string {
		p = decodeLoosely(p)
		if i := strings.IndexAny(p, "?#"); i >= 0 {
			p = p[:i]
		}
		return path.Clean(p)
	},
	"delimiters, decoded twice": func(p string) string {
		p = decodeLoosely(decodeLoosely(p))
		if i := strings.IndexAny(p, "?#"); i >= 0 {
			p = p[:i]
		}
		return path.Clean(stripParameters(p))
	},
	"compatibility": func(p string) string {
		return path.Clean(strings.ReplaceAll(norm.NFKC.String(decodeLoosely(p)), "\u2044", "/"))
	},
	"compatibility, then decoding": func(p string) string {
		return path.Clean(stripParameters(decodeLoosely(norm.NFKC.String(decodeLoosely(p)))))
	},
	"compatibility, then delimiters": func(p string) string {
		p = norm.NFKC.String(decodeLoosely(p))
		if i := strings.IndexAny(p, "?#;"); i >= 0 && p[i] != ';' {
			p = p[:i]
		}
		return path.Clean(p)
	},
	"invisible dropped":                func(p string) string { return path.Clean(dropInvisible(decodeLoosely(p))) },
	"invisible dropped, then decoding": func(p string) string { return path.Clean(decodeLoosely(dropInvisible(decodeLoosely(p)))) },
	"best fit": func(p string) string {
		return path.Clean(strings.Map(func(r rune) rune {
			switch r {
			case '\u2215', '\u29f8', '\u2044':
				return '/'
			case '\u2216', '\u29f5':
				return '/'
			case '\u2122':
				return 'T'
			case '\u00a0', '\u202f':
				return ' '
			}
			return r
		}, decodeLoosely(p)))
	},
	"reference": func(p string) string {
		u, err := url.Parse(p)
		if err != nil {
			return "/"
		}
		return path.Clean("/" + u.Path)
	},
}

// decodeLoosely decodes valid escapes and keeps the others.
func decodeLoosely(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c, escaped := unescape(s[i:])
		if !escaped {
			b.WriteByte(s[i])
			continue
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String()
}

// dropInvisible removes format and control characters.
func dropInvisible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cf, unicode.Cc) {
			return -1
		}
		return r
	}, s)
}

// stripParameters removes the parameters of every segment: ";" and what follows.
func stripParameters(s string) string {
	segments := strings.Split(s, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

func seedPaths(f *testing.F) {
	f.Helper()
	for _, s := range []string{
		"/", "/public", "/public/x", "/public/../admin", "/public/%2e%2e/admin", "/public/..%2fadmin", "/public%2f..%2fadmin", "/public/..;/admin",
		"/public;/../admin", "/public/x;y=/../../admin", `/public\..\admin`, "/public/%5c../admin", "//admin", "/public//../admin", "/public/%252e%252e/admin",
		"/public/%00/../admin", "/public#/../../admin", "/public?/../admin", "/%70ublic/x", "/public/.%2e/admin", "/public/%c0%ae%c0%ae/admin", "/admin/%2e%2e/public",
		"/public/%25%32%65%25%32%65/admin", "*", "", "public", "http://h/public", "/public/\xef\xbc\x8f..", "/public/%ef%bc%8e%ef%bc%8e/admin", "/a%2fpublic",
	} {
		f.Add(s)
	}
}

// However an upstream reads the path, a request that matched a public route is below
// the public prefix, and a request that matched a less strict route is not below the
// prefix of the stricter route before it.
func FuzzNoWayIntoProtected(f *testing.F) {
	seedPaths(f)
	p := mustPolicy(f,
		RouteConfig{Name: "admin", Scopes: []string{"admin"}, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/admin"}}}},
		RouteConfig{Name: "public", Public: true, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/public"}}}},
		RouteConfig{Name: "any"},
	)
	under := func(s, prefix string) bool { return s == prefix || strings.HasPrefix(s, prefix+"/") }
	f.Fuzz(func(t *testing.T, raw string) {
		raw, _, _ = strings.Cut(raw, "?") // no server reads the query as a path
		got := chosen(p, &authz.Request{Path: raw})
		for name, read := range upstreams {
			seen := read(raw)
			switch {
			case got == "public" && name == "unchanged": // a server that does not decode escapes serves no such path (RFC 3986, section 2.3)
				assert.Falsef(t, under(seen, "/admin"), "%q is public, but served unchanged", raw)
			case got == "public" && !under(seen, "/public"):
				t.Errorf("%q is public, but a server (%s) serves %q", raw, name, seen)
			case got == "any" && under(seen, "/admin"):
				t.Errorf("%q matches the route any, but a server (%s) serves %q", raw, name, seen)
			}
		}
	})
}

// readingPolicies are policies whose routes depend on paths in different ways.
func readingPolicies(t testing.TB) []*Policy {
	t.Helper()
	var prefixes []RouteConfig
	for i, name := range []string{"public", "admin", "public2", "a"} {
		prefixes = append(prefixes, RouteConfig{Name: name, Public: i == 0, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/" + name}}}})
	}
	rest := RouteConfig{Name: "any"}
	return []*Policy{
		mustPolicy(t, append(prefixes, rest)...),
		mustPolicy(t, RouteConfig{Name: "two", Match: MatchConfig{Paths: []PathConfig{{Template: "/{a}/{b}"}, {Exact: "/admin"}}}}, rest),
		mustPolicy(t,
			RouteConfig{Name: "deep", Match: MatchConfig{Paths: []PathConfig{{Template: "/public/{a}/x/{rest...}"}, {Exact: "/public/x"}, {Exact: "/public/c"}}}},
			RouteConfig{Name: "tail", Match: MatchConfig{Paths: []PathConfig{{Template: "/{a}/admin"}, {Prefix: "/admin/x"}, {Exact: "/"}}}},
			rest),
	}
}

// requireOneRoute fails unless the route of a request is the route of every
// reading: whichever server serves the path, it serves one that matches the same
// route. It returns the route. A server that decodes nothing is left out, because
// it serves no such path (RFC 3986, section 2.3).
func requireOneRoute(t *testing.T, p *Policy, raw string) string {
	t.Helper()
	got := chosen(p, &authz.Request{Path: raw})
	if got == "malformed_request" {
		return got
	}
	for name, read := range upstreams {
		if name == "unchanged" || name == "URL library" || name == "reference" { // the last two refuse paths, and read the others like the rest
			continue
		}
		seen, want := read(raw), "any"
		for _, r := range p.Routes() {
			if slices.ContainsFunc(r.when.paths, func(pattern pathPattern) bool { return pattern.matches(seen) }) {
				want = r.Name
				break
			}
		}
		require.Equalf(t, want, got, "a server (%s) serves %q as %q", name, raw, seen)
	}
	return got
}

func FuzzSameRouteInEveryReading(f *testing.F) {
	seedPaths(f)
	policies := readingPolicies(f)
	f.Fuzz(func(t *testing.T, raw string) {
		raw, _, _ = strings.Cut(raw, "?")
		for _, p := range policies {
			requireOneRoute(t, p, raw)
		}
	})
}

// The property of the fuzz target above on paths that consist of odd parts.
func TestSameRouteInEveryReading(t *testing.T) {
	t.Parallel()
	odd := []string{
		"%23", "%3f", "%2f", "%5c", `\`, ";", "%3b", ";v=1", "//", "/./", "/../", "..", "%2e", "%252e", "%252f", "%2523", "%25", "%2561", "%61", "%255c", "2e", "2f",
		"%E2%80%8B", "%E2%80%8D", "%C2%A0", "%E2%84%A2", "%C2%BD", "%EF%BC%8E", "%EF%BC%8F", "%EF%BC%A1", "%EF%BD%81", "%EF%BC%85", "%EF%BC%9B", "%EF%BC%9F", "%E2%84%80",
		"%E2%80%A5", "%E2%80%A4", "%E2%81%84", "%E2%88%95", "%E2%81%87", "#", "%20", "%C3%A9", "%F0%9F%91%A8",
	}
	plain := []string{"/public", "/admin", "/a", "/x", "/c", "/public2", "/", "x", "dmin", "ublic", "p", "ad", "/pub", "/adm", "lic", "in"}
	rng := rand.New(rand.NewPCG(5, 6))
	policies := readingPolicies(t)
	routes := map[string]int{}
	for range 15_000 {
		var raw strings.Builder
		for range 1 + rng.IntN(3) {
			raw.WriteString(plain[rng.IntN(len(plain))])
			for range rng.IntN(3) {
				raw.WriteString(odd[rng.IntN(len(odd))])
			}
		}
		raw.WriteString(plain[rng.IntN(len(plain))])
		for _, p := range policies {
			routes[requireOneRoute(t, p, raw.String())]++
		}
	}
	for _, name := range []string{"public", "admin", "a", "two", "deep", "tail", "any", "malformed_request"} {
		assert.Greater(t, routes[name], 5, "%s: the test tries no such paths", name)
	}
}

// All readings of a path, written out one by one, match a route's patterns like all
// of them at once.
func TestReadingsEqualEnumeration(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	outcomes := map[match]int{}
	for range 10_000 {
		var raw strings.Builder
		for range 1 + rng.IntN(4) {
			raw.WriteString("/" + pick("a", "b", "", "ab") + pick("", "", "%23", "%2f", ";", "%5c", "%C2%BD", "%E2%80%8D", "%2561", "%EF%BC%A1", "//", "%e2%84%80") + pick("", "", "a", "b"))
		}
		path := readPath(raw.String())
		if path.parts == nil {
			continue
		}
		var patterns []pathPattern
		for range 1 + rng.IntN(3) {
			var b strings.Builder
			for i := range 1 + rng.IntN(3) {
				b.WriteString("/" + pick("a", "b", "ab", fmt.Sprintf("{x%d}", i)))
			}
			p, err := parseTemplate(b.String()+pick("", "", "/"), rng.IntN(2) == 0)
			require.NoError(t, err)
			p.rest = rng.IntN(4) == 0
			patterns = append(patterns, p)
		}
		some, all := false, true
		for _, text := range enumerate(path.parts) {
			for _, s := range []string{text, merged(text)} {
				matches := slices.ContainsFunc(patterns, func(p pathPattern) bool { return p.matches(s) })
				some, all = some || matches, all && matches
			}
		}
		steps := maxSteps
		want := matchNo
		if all {
			want = matchYes
		} else if some {
			want = matchUnclear
		}
		require.Equalf(t, want, matchReadings(path.parts, patterns, &steps), "%q with %+v", raw.String(), patterns)
		outcomes[want]++
	}
	for _, m := range []match{matchNo, matchUnclear, matchYes} {
		assert.Greater(t, outcomes[m], 100, "the test tries no such paths")
	}
}

func merged(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

// enumerate returns every text that parts stand for.
func enumerate(parts []pathPart) []string {
	all := []string{""}
	for _, part := range parts {
		var longer []string
		for _, s := range all {
			for _, text := range part {
				if strings.IndexByte(text, markAny) >= 0 {
					longer = append(longer, s+"a", s+"b")
				} else {
					longer = append(longer, s+text)
				}
			}
		}
		all = longer
	}
	for i, s := range all {
		s, _, _ = strings.Cut(s, string(rune(markEnd)))
		for {
			before, rest, dropped := strings.Cut(s, string(rune(markParameters)))
			if !dropped {
				break
			}
			if slash := strings.IndexByte(rest, '/'); slash >= 0 {
				before += rest[slash:]
			}
			s = before
		}
		all[i] = s
	}
	return all
}

// An equivalent spelling of a clear path (RFC 3986, section 6.2.2) reads the same and
// matches the same route.
func FuzzEquivalentEncodings(f *testing.F) {
	seedPaths(f)
	p := mustPolicy(f,
		RouteConfig{Name: "public", Public: true, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/public"}}}},
		RouteConfig{Name: "template", Match: MatchConfig{Paths: []PathConfig{{Template: "/{a}/{b}"}}}},
		RouteConfig{Name: "any"},
	)
	f.Fuzz(func(t *testing.T, raw string) {
		one := readPath(raw)
		if one.unclear != "" {
			require.Emptyf(t, one.text, "%q is unclear but has a text", raw)
			return
		}
		var all strings.Builder
		for i := range len(one.text) {
			if c := one.text[i]; c == '/' {
				all.WriteByte('/')
			} else {
				fmt.Fprintf(&all, "%%%02x", c)
			}
		}
		two := readPath(all.String())
		require.Falsef(t, two.unclear != "" && two.unclear != pathTooLong || two.unclear == "" && two.text != one.text, "%q reads %q, but written as %q it reads %q (%s)", raw, one.text, all.String(), two.text, two.unclear)
		if two.unclear == "" {
			a, b := chosen(p, &authz.Request{Path: raw}), chosen(p, &authz.Request{Path: all.String()})
			require.Equalf(t, b, a, "%q, %q", raw, all.String())
		}
	})
}
