package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// claimTemplate is a header value with claims in it.
type claimTemplate struct{ parts []claimPart }

// claimPart is literal text or, if path is not nil, a claim.
type claimPart struct {
	literal string
	path    []string
}

// parseClaimTemplate parses the value of a headers.claims entry. It is a claim path, or text with
// claim paths in braces, in which literal braces are doubled.
func parseClaimTemplate(s string) (claimTemplate, error) {
	if !strings.ContainsAny(s, "{}") {
		path, err := parseClaimPath(s)
		return claimTemplate{parts: []claimPart{{path: path}}}, err
	}
	var t claimTemplate
	var literal strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c:
			literal.WriteByte(c)
			i++
		case c == '}':
			return t, fmt.Errorf("%q: unmatched '}'; write }} for a literal brace", s)
		case c == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return t, fmt.Errorf("%q: unmatched '{'; write {{ for a literal brace", s)
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
			i += end
		default:
			literal.WriteByte(c)
		}
	}
	if len(t.parts) == 0 {
		return t, fmt.Errorf("%q: the template contains no claim; put a claim path in braces", s)
	}
	if literal.Len() > 0 {
		t.parts = append(t.parts, claimPart{literal: literal.String()})
	}
	for _, p := range t.parts {
		if !headerText(p.literal) {
			return t, fmt.Errorf("%q: a header value must not contain control characters", s)
		}
	}
	return t, nil
}

// parseClaimPath parses the path of a claim: a JSON Pointer (RFC 6901) if it starts with a slash,
// a single name if it contains "://", as collision-resistant claim names do (RFC 7519, section
// 4.2), and otherwise names separated by dots.
func parseClaimPath(s string) ([]string, error) {
	var path []string
	switch {
	case s == "":
		return nil, fmt.Errorf("claim name required")
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
			return nil, fmt.Errorf("%q: empty name in claim path; write /a.b for a claim with a dot in its name", s)
		}
	}
	return path, nil
}

// unfitClaimError is a claim that a header cannot carry unaltered.
type unfitClaimError struct{ detail string }

func (e *unfitClaimError) Error() string { return e.detail }

// expand appends the header value for claims to b. ok is false if a claim of the template is
// missing, null or empty; the header is not set then.
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
	case !headerText(text):
		return b[:start], false, &unfitClaimError{"a claim contains control characters"}
	case text[0] == ' ' || text[len(text)-1] == ' ':
		// HTTP strips the space (RFC 9110, section 5.5), so the upstream would see
		// another value.
		return b[:start], false, &unfitClaimError{"a claim starts or ends with a space"}
	}
	return b, true, nil
}

// lookupClaim follows path through objects by name and through arrays by index. It returns nil
// if there is no such claim.
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

// appendClaim appends a claim as header text: a string unchanged, a number with the digits of
// the token, an array or object as JSON, and null as nothing.
func appendClaim(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return b, nil
	case string:
		if !utf8.ValidString(v) {
			return b, &unfitClaimError{"a claim is not UTF-8"}
		}
		return append(b, v...), nil
	default:
		return appendJSON(b, v)
	}
}

// appendJSON appends v as compact JSON with members sorted by name and as few escapes as
// possible.
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
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
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
	return b, &unfitClaimError{fmt.Sprintf("a claim has the unexpected type %T", v)}
}

func appendJSONString(b []byte, s string) ([]byte, error) {
	if quotable(s) {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"'), nil
	}
	if !utf8.ValidString(s) {
		return b, &unfitClaimError{"a claim is not UTF-8"}
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return b, &unfitClaimError{"a claim cannot be written as JSON"}
	}
	out := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	// JSON may contain an unescaped DEL, a header may not.
	return append(b, bytes.ReplaceAll(out, []byte{0x7f}, []byte(`\u007f`))...), nil
}

// headerText reports whether s contains no control characters (RFC 9110, section 5.5). It counts
// Tab as one, which no identifier needs.
func headerText[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}
