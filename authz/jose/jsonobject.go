package jose

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
	maxJSONDepth    = 16   // nested objects and arrays
	maxJSONValues   = 2000 // values in total
	maxHeaderValues = 64   // values in total of a JOSE header, which is read before anything is verified
	maxJSONNumber   = 40   // bytes of one number
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
func ParseObject(text string) (map[string]any, error) { return parseObjectOf(text, maxJSONValues) }

// parseObjectOf is parseObject of at most so many values.
func parseObjectOf(text string, values int) (map[string]any, error) {
	r := jsonReader{s: text, values: values}
	if err := r.begin(); err != nil {
		return nil, err
	}
	m, err := r.object()
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// jsonReader walks over valid UTF-8.
type jsonReader struct {
	s      string
	i      int
	depth  int
	values int    // that may still come
	buf    []byte // of unescape
}

// begin moves to the object that the text has to be.
func (r *jsonReader) begin() error {
	if !utf8.ValidString(r.s) {
		return errors.New("not valid UTF-8")
	}
	if r.space(); r.peek() != '{' {
		return errors.New("not a JSON object")
	}
	return nil
}

// end reports what stands behind the object.
func (r *jsonReader) end() error {
	if r.space(); r.i != len(r.s) {
		return r.fault("text after the object")
	}
	return nil
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

// more moves to the next item of the object or array that was entered last, or
// past its closing bracket.
func (r *jsonReader) more(bracket byte, first bool) (bool, error) {
	if !first {
		r.space()
		if r.peek() == ',' {
			r.i++
			r.space()
			return true, nil
		}
	}
	switch {
	case r.peek() == bracket:
		r.i++
		r.depth--
		return false, nil
	case first:
		return true, nil
	}
	return false, r.fault("comma or " + string(bracket) + " expected")
}

func (r *jsonReader) object() (map[string]any, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	m := make(map[string]any, 8)
	for first := true; ; first = false {
		if more, err := r.more('}', first); !more {
			return m, err
		}
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
		if err = r.colon(); err != nil {
			return nil, err
		}
		if m[name], err = r.value(); err != nil {
			return nil, err
		}
	}
}

func (r *jsonReader) colon() error {
	r.space()
	if r.peek() != ':' {
		return r.fault("colon expected")
	}
	r.i++
	r.space()
	return nil
}

func (r *jsonReader) array() ([]any, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	a := []any{}
	for first := true; ; first = false {
		if more, err := r.more(']', first); !more {
			return a, err
		}
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
}

// count takes one value off those that may still come.
func (r *jsonReader) count() error {
	if r.values--; r.values < 0 {
		return r.fault("too many values")
	}
	return nil
}

func (r *jsonReader) value() (any, error) {
	if err := r.count(); err != nil {
		return nil, err
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
	text, exponent, err := r.numeral()
	if err != nil {
		return nil, err
	}
	if exponent {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return nil, r.fault("number out of range")
		}
	}
	return json.Number(text), nil
}

// numeral reads a number's text.
func (r *jsonReader) numeral() (text string, exponent bool, err error) {
	start := r.i
	if r.peek() == '-' {
		r.i++
	}
	if r.peek() == '0' {
		r.i++
	} else if !r.digits() {
		return "", false, r.fault("digit expected")
	}
	if r.peek() == '.' {
		r.i++
		if !r.digits() {
			return "", false, r.fault("digit expected")
		}
	}
	exponent = r.peek() == 'e' || r.peek() == 'E'
	if exponent {
		r.i++
		if c := r.peek(); c == '+' || c == '-' {
			r.i++
		}
		if !r.digits() {
			return "", false, r.fault("digit expected")
		}
	}
	if text = r.s[start:r.i]; len(text) > maxJSONNumber {
		return "", false, r.fault("number too long")
	}
	return text, exponent, nil
}
