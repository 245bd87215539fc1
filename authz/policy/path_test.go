package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func TestReadPath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ raw, text, unclear string }{
		{"/", "/", ""},
		{"/v1/users", "/v1/users", ""},
		{"/v1/users?x=../y#z", "/v1/users", ""},
		{"/v1/users?x=%2e%2e", "/v1/users", ""},
		{"/.well-known/x", "/.well-known/x", ""},
		{"/a/...", "/a/...", ""},
		{"/a/..b", "/a/..b", ""},
		{"/%61dmin", "/admin", ""},
		{"/%41", "/A", ""},
		{"/a%20b", "/a b", ""},
		{"/100%25", "/100%", ""},
		{"/caf%C3%A9", "/café", ""},
		{"/caf%c3%a9", "/café", ""},
		{"/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,=", ""},
		{"", "", pathNotOrigin},
		{"*", "", pathNotOrigin},
		{"admin", "", pathNotOrigin},
		{"http://other.example/admin", "", pathNotOrigin},
		{"//other.example/admin", "", pathNotOrigin},
		{"?/admin", "", pathNotOrigin},
		{"/a/../admin", "", pathDotSegment},
		{"/a/./admin", "", pathDotSegment},
		{"/a/..", "", pathDotSegment},
		{"/..", "", pathDotSegment},
		{"/.", "", pathDotSegment},
		{"/a/%2e%2e/admin", "", pathDotSegment},
		{"/a/%2E./admin", "", pathDotSegment},
		{"/a/.%2e/admin", "", pathDotSegment},
		{"/a/%2e/admin", "", pathDotSegment},
		{"/a/..%2fadmin", "", pathDotSegment},
		{"/a%2f..%2fadmin", "", pathDotSegment},
		{"/a/..;/admin", "", pathDotSegment},
		{"/a/..;x=1/admin", "", pathDotSegment},
		{"/a/.;/admin", "", pathDotSegment},
		{"/a/..%3b/admin", "", pathDotSegment},
		{"/a/..%2f;x/admin", "", pathDotSegment},
		{"/a/;/../admin", "", pathDotSegment},
		{"/a//admin", "", pathEmptySegment},
		{"/a//", "", pathEmptySegment},
		{"/a%2fadmin", "", pathEncodedSlash},
		{"/a%2Fadmin", "", pathEncodedSlash},
		{"/%2fadmin", "", pathEncodedSlash},
		{"/a;x=1/admin", "", pathParameter},
		{"/a%3bx/admin", "", pathParameter},
		{`/a\admin`, "", pathBackslash},
		{`/a\..\admin`, "", pathDotSegment},
		{"/a%5cadmin", "", pathBackslash},
		{"/a%5C..%5Cadmin", "", pathDotSegment},
		{"/a#/../admin", "", pathDotSegment},
		{"/a%23", "", pathFragment},
		{"/a%3f", "", pathFragment},
		{"/a%3Fx=/../admin", "", pathDotSegment},
		{"/a\x00", "", pathControl},
		{"/a%00", "", pathControl},
		{"/a%00.png", "", pathControl},
		{"/a%0d%0aHost:x", "", pathControl},
		{"/a\tb", "", pathControl},
		{"/a b", "", pathControl},
		{"/a%7f", "", pathControl},
		{"/a%01b", "", pathControl},
		{"/a%", "", pathBadEscape},
		{"/a%2", "", pathBadEscape},
		{"/a%zz", "", pathBadEscape},
		{"/a%u002e", "", pathBadEscape},
		{"/a%%32%65", "", pathBadEscape},
		{"/a%252e%252e/admin", "", pathDoubleEscape},
		{"/a%25%32%65", "", pathDoubleEscape},
		{"/a%25%32%66admin", "", pathDoubleEscape},
		{"/a%252fadmin", "", pathDoubleEscape},
		{"/caf\xc3\xa9", "", pathNotASCII},
		{"/\xff", "", pathNotASCII},
		{"/a%c0%afadmin", "", pathBadUTF8},
		{"/a%c0%ae%c0%ae/admin", "", pathBadUTF8},
		{"/a%e0%80%af", "", pathBadUTF8},
		{"/a%ff", "", pathBadUTF8},
		{"/a%ed%a0%80", "", pathBadUTF8},
		{"/a%ef%bc%8fadmin", "", pathLookalike},       // U+FF0F fullwidth slash
		{"/%ef%bc%8e%ef%bc%8e/x", "", pathDotSegment}, // U+FF0E fullwidth full stop
		{"/.%e2%80%8d./x", "", pathDotSegment},        // U+200D zero width joiner
		{"/%e2%80%a5/x", "", pathDotSegment},          // U+2025 two dot leader
		{"/a%ef%bc%8f../x", "", pathDotSegment},
		{"/a/..%23x", "", pathDotSegment},
		{"/a/..%3fx", "", pathDotSegment},
		{"/%252e%252e/x", "", pathDotSegment},
		{"/%25252e", "", pathDoubleEscape},
		{"/%25%e2%80%8b2e", "", pathDoubleEscape}, // U+200B in an escape
		{"/%252%e2%80%8be", "", pathDoubleEscape},
		{"/%25%2532e", "", pathDoubleEscape},
		{"/%ef%bc%852e", "", pathLookalike},     // U+FF05 fullwidth percent sign
		{"/a%e2%88%95admin", "", pathLookalike}, // U+2215 division slash
		{"/%ef%bd%81dmin", "", pathLookalike},   // U+FF41 fullwidth a
		{"/%e2%84%aaey", "", pathLookalike},     // U+212A Kelvin sign
		{"/a%e2%80%8bdmin", "", pathLookalike},  // U+200B zero width space
		{"/a%c2%85", "", pathLookalike},         // C1 control
		{"/" + strings.Repeat("a", maxPath), "", pathTooLong},
	} {
		got := readPath(tt.raw)
		assert.Equalf(t, tt.unclear, got.unclear, "readPath(%q) = %q, unclear; want %q", tt.raw, got.text, tt.text)
		assert.Falsef(t, tt.unclear == "" && got.text != tt.text, "readPath(%q) = %q, unclear %q; want %q, %q", tt.raw, got.text, got.unclear, tt.text, tt.unclear)
	}
}

// Ordinary file names reach the route of their directory. A name of which one
// reading is another route's is refused.
func TestOrdinaryFileNames(t *testing.T) {
	t.Parallel()
	health := RouteConfig{Name: "health", Public: true, Match: MatchConfig{Paths: []PathConfig{{Exact: "/healthz"}}}}
	rest := RouteConfig{Name: "rest"}
	under := RouteConfig{Name: "files", Scopes: []string{"files"}, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/files"}}}}
	public := RouteConfig{Name: "public", Public: true, Match: MatchConfig{Paths: []PathConfig{{Prefix: "/files"}}}}
	template := RouteConfig{Name: "template", Match: MatchConfig{Paths: []PathConfig{{Template: "/files/{dir}/{name}"}}}}
	for _, name := range []string{
		"c%23", "Who%3F.pdf", "Screenshot%202026-08-28%20at%208.55.11%E2%80%AFPM.png", "Sn%C3%ADmek%20v%C2%A013.05.png", "Foo%E2%84%A2.pdf",
		"5%20m%C2%B2.pdf", "wait%E2%80%A6.pdf", "%F0%9F%91%A8%E2%80%8D%F0%9F%91%A9.png", "%D9%85%DB%8C%E2%80%8C%D8%AE.pdf", "%C2%BD%20cup.txt", "%C2%BD",
		"a%E2%80%8Bb", "R%C2%AE%20%C2%A9.txt", "%EF%BC%A1.txt",
	} {
		path := "/files/tags/" + name
		req := &authz.Request{Method: "GET", Host: "h", Path: path}
		assert.Equal(t, "rest", chosen(mustPolicy(t, health, rest), req), path)
		assert.Equal(t, "files", chosen(mustPolicy(t, health, under, rest), req), path)
		assert.Equal(t, "public", chosen(mustPolicy(t, public, rest), req), path)
		if name == "c%23" || name == "Who%3F.pdf" {
			assert.Equal(t, "template", chosen(mustPolicy(t, template, rest), req), path)
		}
	}
	for path, want := range map[string]string{
		"/healthz%23":               "malformed_request",
		"/healthz%3F":               "malformed_request",
		"/healthz%E2%80%8D":         "malformed_request",
		"/health%EF%BD%9A":          "malformed_request", // fullwidth z
		"/health%E2%84%A4":          "malformed_request", // double-struck Z, which may become z
		"/healthz%C2%BD":            "malformed_request",
		"/healt%E2%84%A2":           "rest",
		"/x%C2%A0healthz":           "rest",
		"/%E2%80%8Dhealthz/%23":     "rest", // longer than the public path
		"/files%EF%BC%8Fx":          "malformed_request",
		"/files%23":                 "malformed_request",
		"/files/%23":                "files",
		"/files%C2%A0/x":            "malformed_request",
		"/x%2Ffiles":                "rest",
		"/x%5Cfiles":                "rest",
		"/files/100%2525":           "malformed_request", // decoded three times, it may be anything
		"/files/a%2520b":            "files",
		"/fil%2565s/x":              "malformed_request",
		"/files/x;v=1/y":            "files",
		"/files/x%0dy":              "malformed_request",
		"/files/" + manyOdd("%23"):  "files",
		"/files/" + manyOdd("%23;"): "malformed_request", // more than are examined
	} {
		assert.Equal(t, want, chosen(mustPolicy(t, health, under, rest), &authz.Request{Path: path}), path)
	}
	// Where segments may differ, no reading makes a path public.
	for _, path := range []string{"/files//x", "/files/x;y", "/files/x%2Fy", "/files/x%5Cy", "/files/x#y", "/files/x%2520y"} {
		assert.Equal(t, "malformed_request", chosen(mustPolicy(t, public, rest), &authz.Request{Path: path}), path)
	}
}

// A hostile path must not hold a check, however many routes begin with a variable.
func TestReadingsAreBounded(t *testing.T) {
	t.Parallel()
	var routes []RouteConfig
	for i := range 1000 {
		routes = append(routes, RouteConfig{Name: fmt.Sprint("r", i), Match: MatchConfig{Paths: []PathConfig{{Template: fmt.Sprintf("/{a}/{b}/{c}/%d/{id}", i)}}}})
	}
	p := mustPolicy(t, append(routes, RouteConfig{Name: "rest"})...)
	target := target{req: &authz.Request{}, method: true, hostOK: true, steps: maxSteps, path: readPath("/x/" + strings.Repeat("%2f", 120) + strings.Repeat("a", 7000))}
	require.NotNil(t, target.path.parts)
	for _, r := range p.Routes() {
		if target.steps < 0 {
			break
		}
		r.test(&target)
	}
	assert.Negative(t, target.steps, "the readings took fewer steps than are allowed")
	assert.Equal(t, "malformed_request", chosen(p, &authz.Request{Path: "/x/" + strings.Repeat("%2f", 120) + strings.Repeat("a", 7000)}))
	assert.Equal(t, "rest", chosen(p, &authz.Request{Path: "/files/Foo%E2%84%A2%20%C2%BD.pdf"}))
}

func manyOdd(s string) string { return strings.Repeat(s, 200) }

func TestReadHost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		raw, host string
		ok        bool
	}{
		{"api.example", "api.example", true},
		{"API.Example:8443", "api.example", true},
		{"api.example.", "api.example", true},
		{"api.example.:443", "api.example", true},
		{"api.example:", "api.example", true},
		{"10.0.0.1:80", "10.0.0.1", true},
		{"[::1]:443", "[::1]", true},
		{"[0:0::1]", "[::1]", true},
		{"a_b", "a_b", true},
		{"", "", false},
		{".", "", false},
		{"a..b", "", false},
		{".a", "", false},
		{"a..", "", false},
		{"::1", "", false},
		{"[::1", "", false},
		{"[::1]x", "", false},
		{"[fe80::1%25eth0]", "", false},
		{"[1.2.3.4]", "", false},
		{"a:b", "", false},
		{"a:1:2", "", false},
		{"a:123456", "", false},
		{"user@a", "", false},
		{"a/b", "", false},
		{"a b", "", false},
		{"a,b", "", false},
		{"a\x00", "", false},
		{"ex\xc3\xa4mple", "", false},
		{"a%2eb", "", false},
		{strings.Repeat("a", 301), "", false},
	} {
		host, ok := readHost(tt.raw)
		assert.Equalf(t, tt.host, host, "readHost(%q), %v, %v", tt.raw, ok, tt.ok)
		assert.Equalf(t, tt.ok, ok, "readHost(%q) = %q; want %q", tt.raw, host, tt.host)
	}
}
