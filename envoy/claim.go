package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// claimTemplate is the text of a header with the claims that go into it.
type claimTemplate struct{ parts []claimPart }

// claimPart is literal text, or a claim when path is not empty.
type claimPart struct {
	literal string
	path    []string
}

// parseClaimTemplate reads the value of a headers.claims entry: a claim path,
// or a template: text with claim paths in braces, braces themselves doubled.
func parseClaimTemplate(s string) (claimTemplate, error) {
	if !strings.ContainsAny(s, "{}") {
		path, err := parseClaimPath(s)
		return claimTemplate{parts: []claimPart{{path: path}}}, err
	}
	var (
		t       claimTemplate
		literal strings.Builder
		claims  int
	)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c:
			literal.WriteByte(c)
			i++
		case c == '}':
			return t, fmt.Errorf("%q: a closing brace without an opening one; write }} for a brace", s)
		case c == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return t, fmt.Errorf("%q: an opening brace without a closing one; write {{ for a brace", s)
			}
			path, err := parseClaimPath(s[i+1 : i+end])
			if err != nil {
				return t, err
			}
			if literal.Len() > 0 {
				t.parts = append(t.parts, claimPart{literal: literal.String()})
				literal.Reset()
			}
			t.parts = append(t.parts, claimPart{path: path})
			claims++
			i += end
		default:
			literal.WriteByte(c)
		}
	}
	if claims == 0 {
		return t, fmt.Errorf("%q: a template needs a claim in braces; a constant says nothing about the caller", s)
	}
	if literal.Len() > 0 {
		t.parts = append(t.parts, claimPart{literal: literal.String()})
	}
	for _, p := range t.parts {
		if !headerText(p.literal) {
			return t, fmt.Errorf("%q: control characters cannot stand in a header", s)
		}
	}
	return t, nil
}

// parseClaimPath reads a path to a claim: a JSON Pointer (RFC 6901) when it
// begins with a slash; one name when it holds "://", as collision-resistant
// claim names do (RFC 7519, section 4.2); else names separated by dots.
func parseClaimPath(s string) ([]string, error) {
	var path []string
	switch {
	case s == "":
		return nil, fmt.Errorf("the name of a claim is missing")
	case s[0] == '/':
		for name := range strings.SplitSeq(s[1:], "/") {
			path = append(path, strings.NewReplacer("~1", "/", "~0", "~").Replace(name))
		}
	case strings.Contains(s, "://"):
		return []string{s}, nil
	default:
		path = strings.Split(s, ".")
	}
	for _, name := range path {
		if name == "" {
			return nil, fmt.Errorf("%q: an empty name in a claim path; write /a.b for a claim whose name holds a dot", s)
		}
	}
	return path, nil
}

// errUnfit is a claim that cannot be passed on faithfully in a header.
type errUnfit struct{ why string }

func (e *errUnfit) Error() string { return e.why }

// expand appends the template's text for claims to b. ok=false: a claim is
// missing, null or empty, so there is nothing to say.
func (t claimTemplate) expand(b []byte, claims map[string]any) (out []byte, ok bool, err error) {
	start := len(b)
	for _, p := range t.parts {
		if p.path == nil {
			b = append(b, p.literal...)
			continue
		}
		before := len(b)
		if b, err = appendClaim(b, lookupClaim(claims, p.path)); err != nil {
			return b[:start], false, err
		}
		if len(b) == before {
			return b[:start], false, nil
		}
	}
	switch text := b[start:]; {
	case !headerBytes(text):
		return b[:start], false, &errUnfit{"a claim holds control characters"}
	case text[0] == ' ' || text[len(text)-1] == ' ':
		// HTTP strips it (RFC 9110, section 5.5): the upstream would see
		// somebody else.
		return b[:start], false, &errUnfit{"a claim begins or ends with a space"}
	}
	return b, true, nil
}

// lookupClaim follows path through objects, and through arrays by index.
func lookupClaim(claims map[string]any, path []string) any {
	var at any = claims
	for _, name := range path {
		switch v := at.(type) {
		case map[string]any:
			at = v[name]
		case []any:
			i, err := strconv.ParseUint(name, 10, 31)
			if err != nil || i >= uint64(len(v)) || (len(name) > 1 && name[0] == '0') {
				return nil
			}
			at = v[i]
		default:
			return nil
		}
	}
	return at
}

// appendClaim appends a claim as header text: strings as they are, numbers
// with the digits the issuer wrote, arrays and objects as JSON. nil appends
// nothing.
func appendClaim(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return b, nil
	case string:
		if !utf8.ValidString(v) {
			return b, &errUnfit{"a claim is not UTF-8"}
		}
		return append(b, v...), nil
	case json.Number:
		return append(b, v...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	default:
		return appendJSON(b, v)
	}
}

// appendJSON appends v as compact JSON, members sorted by name, nothing
// escaped that need not be.
func appendJSON(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case json.Number:
		return append(b, v...), nil
	case string:
		return appendJSONString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendJSON(b, e); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		sort.Strings(names)
		b = append(b, '{')
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendJSONString(b, name); err != nil {
				return b, err
			}
			if b, err = appendJSON(append(b, ':'), v[name]); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
	return b, &errUnfit{fmt.Sprintf("a claim has the unexpected type %T", v)}
}

func appendJSONString(b []byte, s string) ([]byte, error) {
	if plainJSON(s) {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"'), nil
	}
	if !utf8.ValidString(s) {
		return b, &errUnfit{"a claim is not UTF-8"}
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return b, &errUnfit{"a claim cannot be written as JSON"}
	}
	out := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	// JSON lets DEL stand as it is, a header does not.
	return append(b, bytes.ReplaceAll(out, []byte{0x7f}, []byte(`\u007f`))...), nil
}

func plainJSON(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// headerText reports whether s holds no control bytes (RFC 9110, section 5.5).
// Tab is one here: nothing that identifies anybody holds it.
func headerText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func headerBytes(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}
