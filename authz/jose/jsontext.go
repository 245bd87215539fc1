package jose

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string; without escapes it shares the memory of the input.
func (r *jsonReader) text() (string, error) {
	plain, unescaped, err := r.span()
	if unescaped != nil {
		return string(unescaped), err
	}
	return plain, err
}

// span reads a string without allocating: as it stands or, when there are
// escapes in it, in bytes that are good until the next one.
func (r *jsonReader) span() (plain string, unescaped []byte, err error) {
	r.i++
	start := r.i
	for r.i < len(r.s) {
		switch c := r.s[r.i]; {
		case c == '"':
			r.i++
			return r.s[start : r.i-1], nil, nil
		case c == '\\':
			unescaped, err = r.unescape(start)
			return "", unescaped, err
		case c < 0x20:
			return "", nil, r.fault("control character in string")
		default:
			r.i++
		}
	}
	return "", nil, r.fault("string without end")
}

// unescape continues span at its first backslash.
func (r *jsonReader) unescape(start int) (_ []byte, err error) {
	if r.buf == nil {
		r.buf = make([]byte, 0, 64)
	}
	b := append(r.buf[:0], r.s[start:r.i]...)
	defer func() { r.buf = b }() // it may have grown
	for r.i < len(r.s) {
		c := r.s[r.i]
		r.i++
		switch {
		case c == '"':
			return b, nil
		case c < 0x20:
			return nil, r.fault("control character in string")
		case c != '\\':
			b = append(b, c)
		default:
			grown, err := r.escape(b)
			if err != nil {
				return nil, err
			}
			b = grown
		}
	}
	return nil, r.fault("string without end")
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
