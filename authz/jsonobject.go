package authz

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what parseObject builds. The size of the text is bounded by the
// caller.
const (
	maxJSONDepth  = 16   // nested objects and arrays
	maxJSONValues = 2000 // values in total
	maxJSONNumber = 40   // bytes of one number
)

// parseObject decodes text that is exactly one JSON object (RFC 8259), with
// nothing before or after it but white space. Values are string, bool, nil,
// json.Number, []any and map[string]any. Unlike encoding/json it refuses what
// two readers could understand differently: duplicate member names at any
// depth, invalid UTF-8, lone surrogates; and what is out of bounds. Errors say
// where, never what.
//
// A decoder of our own, because the standard library's accepts all of these
// and its successor is still an experiment.
func parseObject(text string) (map[string]any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not valid UTF-8")
	}
	r := jsonReader{s: text}
	r.space()
	if r.peek() != '{' {
		return nil, errors.New("not a JSON object")
	}
	m, err := r.object()
	if err != nil {
		return nil, err
	}
	if r.space(); r.i != len(r.s) {
		return nil, r.fault("text after the object")
	}
	return m, nil
}

// jsonReader walks over valid UTF-8.
type jsonReader struct {
	s      string
	i      int
	depth  int
	values int
}

func (r *jsonReader) fault(what string) error {
	return fmt.Errorf("%s at byte %d", what, r.i)
}

// peek returns the next byte, 0 at the end (a NUL in the text is no token of
// JSON either).
func (r *jsonReader) peek() byte {
	if r.i < len(r.s) {
		return r.s[r.i]
	}
	return 0
}

func (r *jsonReader) space() {
	for r.i < len(r.s) {
		switch r.s[r.i] {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return
		}
	}
}

func (r *jsonReader) enter() error {
	if r.depth++; r.depth > maxJSONDepth {
		return r.fault("nested too deeply")
	}
	r.i++
	r.space()
	return nil
}

func (r *jsonReader) object() (map[string]any, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	m := make(map[string]any, 8)
	if r.peek() == '}' {
		r.i++
		r.depth--
		return m, nil
	}
	for {
		if r.peek() != '"' {
			return nil, r.fault("member name expected")
		}
		name, err := r.text()
		if err != nil {
			return nil, err
		}
		if _, twice := m[name]; twice {
			return nil, r.fault("duplicate member")
		}
		r.space()
		if r.peek() != ':' {
			return nil, r.fault("colon expected")
		}
		r.i++
		r.space()
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		m[name] = v
		r.space()
		switch r.peek() {
		case ',':
			r.i++
			r.space()
		case '}':
			r.i++
			r.depth--
			return m, nil
		default:
			return nil, r.fault("comma or end of object expected")
		}
	}
}

func (r *jsonReader) array() ([]any, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	a := []any{}
	if r.peek() == ']' {
		r.i++
		r.depth--
		return a, nil
	}
	for {
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		a = append(a, v)
		r.space()
		switch r.peek() {
		case ',':
			r.i++
			r.space()
		case ']':
			r.i++
			r.depth--
			return a, nil
		default:
			return nil, r.fault("comma or end of array expected")
		}
	}
}

func (r *jsonReader) value() (any, error) {
	if r.values++; r.values > maxJSONValues {
		return nil, r.fault("too many values")
	}
	switch c := r.peek(); {
	case c == '"':
		return r.text()
	case c == '{':
		return r.object()
	case c == '[':
		return r.array()
	case c == '-', c >= '0' && c <= '9':
		return r.number()
	default:
		return r.word()
	}
}

func (r *jsonReader) word() (any, error) {
	rest := r.s[r.i:]
	switch {
	case strings.HasPrefix(rest, "true"):
		r.i += 4
		return true, nil
	case strings.HasPrefix(rest, "false"):
		r.i += 5
		return false, nil
	case strings.HasPrefix(rest, "null"):
		r.i += 4
		return nil, nil
	}
	return nil, r.fault("value expected")
}

func (r *jsonReader) digits() bool {
	start := r.i
	for r.i < len(r.s) && r.s[r.i] >= '0' && r.s[r.i] <= '9' {
		r.i++
	}
	return r.i > start
}

func (r *jsonReader) number() (any, error) {
	start := r.i
	if r.peek() == '-' {
		r.i++
	}
	if r.peek() == '0' {
		r.i++
	} else if !r.digits() {
		return nil, r.fault("digit expected")
	}
	if r.peek() == '.' {
		r.i++
		if !r.digits() {
			return nil, r.fault("digit expected")
		}
	}
	exponent := r.peek() == 'e' || r.peek() == 'E'
	if exponent {
		r.i++
		if c := r.peek(); c == '+' || c == '-' {
			r.i++
		}
		if !r.digits() {
			return nil, r.fault("digit expected")
		}
	}
	text := r.s[start:r.i]
	if len(text) > maxJSONNumber {
		return nil, r.fault("number too long")
	}
	if exponent {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return nil, r.fault("number out of range")
		}
	}
	return json.Number(text), nil
}
