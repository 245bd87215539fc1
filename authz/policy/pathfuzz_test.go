package policy

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
