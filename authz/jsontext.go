package authz

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string; without escapes it shares the memory of the input.
func (r *jsonReader) text() (string, error) {
	r.i++
	start := r.i
	for r.i < len(r.s) {
		switch c := r.s[r.i]; {
		case c == '"':
			r.i++
			return r.s[start : r.i-1], nil
		case c == '\\':
			return r.escaped(start)
		case c < 0x20:
			return "", r.fault("control character in string")
		default:
			r.i++
		}
	}
	return "", r.fault("string without end")
}

// escaped continues text at its first backslash.
func (r *jsonReader) escaped(start int) (string, error) {
	b := append(make([]byte, 0, 64), r.s[start:r.i]...)
	for r.i < len(r.s) {
		c := r.s[r.i]
		r.i++
		switch {
		case c == '"':
			return string(b), nil
		case c < 0x20:
			return "", r.fault("control character in string")
		case c != '\\':
			b = append(b, c)
		default:
			var err error
			if b, err = r.escape(b); err != nil {
				return "", err
			}
		}
	}
	return "", r.fault("string without end")
}

func (r *jsonReader) escape(b []byte) ([]byte, error) {
	c := r.peek()
	r.i++
	switch c {
	case '"', '\\', '/':
		return append(b, c), nil
	case 'b':
		return append(b, '\b'), nil
	case 'f':
		return append(b, '\f'), nil
	case 'n':
		return append(b, '\n'), nil
	case 'r':
		return append(b, '\r'), nil
	case 't':
		return append(b, '\t'), nil
	case 'u':
		u, ok := r.hex4()
		if ok && utf16.IsSurrogate(u) {
			var low rune
			if ok = strings.HasPrefix(r.s[r.i:], `\u`); ok {
				r.i += 2
				low, ok = r.hex4()
				u = utf16.DecodeRune(u, low)
				ok = ok && u != utf8.RuneError
			}
		}
		if !ok {
			return nil, r.fault("bad unicode escape")
		}
		return utf8.AppendRune(b, u), nil
	}
	return nil, r.fault("bad escape")
}

func (r *jsonReader) hex4() (rune, bool) {
	if len(r.s)-r.i < 4 {
		return 0, false
	}
	var u rune
	for _, c := range []byte(r.s[r.i : r.i+4]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		u = u<<4 | rune(c)
	}
	r.i += 4
	return u, true
}
