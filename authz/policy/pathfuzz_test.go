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

// upstreams are ways in which servers read a path. None may see one under a
// protected prefix where a public route took the request.
var upstreams = map[string]func(string) string{
	"as it is": func(p string) string { return p },
	"decoding": decodeLoosely,
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

// decodeLoosely decodes what it can and keeps the rest.
func decodeLoosely(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b.WriteByte(unhex(s[i+1])<<4 | unhex(s[i+2]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
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

// However a server behind reads the path, a request that a public route took
// is under the public prefix; and one that a looser rule took is not under the
// stricter one before it.
func FuzzNoWayIntoProtected(f *testing.F) {
	seedPaths(f)
	p := mustPolicy(f,
		RouteConfig{Name: "admin", Scopes: []string{"admin"}, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/admin"}}}},
		RouteConfig{Name: "public", Public: true, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/public"}}}},
		RouteConfig{Name: "any"},
	)
	under := func(s, prefix string) bool { return s == prefix || strings.HasPrefix(s, prefix+"/") }
	f.Fuzz(func(t *testing.T, raw string) {
		raw, _, _ = strings.Cut(raw, "?") // the query is nobody's path
		got := chosen(p, &authz.Request{Path: raw})
		for name, read := range upstreams {
			seen := read(raw)
			switch {
			case got == "public" && name == "as it is": // RFC 3986, section 2.3: what it does not decode, it does not have
				assert.Falsef(t, under(seen, "/admin"), "%q is public, but served as it is", raw)
			case got == "public" && !under(seen, "/public"):
				t.Errorf("%q is public, but a server (%s) serves %q", raw, name, seen)
			case got == "any" && under(seen, "/admin"):
				t.Errorf("%q is anybody's, but a server (%s) serves %q", raw, name, seen)
			}
		}
	})
}

// A clear path stays the same route when it is written in another, equivalent
// way (RFC 3986, section 6.2.2), and reading what was read changes nothing.
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
