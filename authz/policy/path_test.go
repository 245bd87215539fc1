package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
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
		{`/a\..\admin`, "", pathBackslash},
		{"/a%5cadmin", "", pathBackslash},
		{"/a%5C..%5Cadmin", "", pathBackslash},
		{"/a#/../admin", "", pathFragment},
		{"/a%23", "", pathFragment},
		{"/a%3f", "", pathFragment},
		{"/a%3Fx=/../admin", "", pathFragment},
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
		{"/a%ef%bc%8fadmin", "", pathLookalike},      // U+FF0F fullwidth slash
		{"/%ef%bc%8e%ef%bc%8e/x", "", pathLookalike}, // U+FF0E fullwidth full stop
		{"/a%e2%88%95admin", "", pathLookalike},      // U+2215 division slash
		{"/%ef%bd%81dmin", "", pathLookalike},        // U+FF41 fullwidth a
		{"/%e2%84%aaey", "", pathLookalike},          // U+212A Kelvin sign
		{"/a%e2%80%8bdmin", "", pathLookalike},       // U+200B zero width space
		{"/a%c2%85", "", pathLookalike},              // C1 control
		{"/" + strings.Repeat("a", maxPath), "", pathTooLong},
	} {
		got := readPath(tt.raw)
		assert.Equalf(t, tt.unclear, got.unclear, "readPath(%q) = %q, unclear; want %q", tt.raw, got.text, tt.text)
		assert.Falsef(t, tt.unclear == "" && got.text != tt.text, "readPath(%q) = %q, unclear %q; want %q, %q", tt.raw, got.text, got.unclear, tt.text, tt.unclear)
	}
}

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
