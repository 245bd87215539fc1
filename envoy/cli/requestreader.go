package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// requestReader reads a stream of JSON objects: one after another, with any
// line breaks, or as elements of arrays of any length.
type requestReader struct {
	dec   *jsontext.Decoder
	lines lineReader
	index int // of the next element; -1 outside of an array
}

func newRequestReader(in io.Reader) *requestReader {
	r := &requestReader{lines: lineReader{r: withoutMark(in)}, index: -1}
	// httpapi.DecodeRequests rejects duplicate names and invalid UTF-8, and
	// names the member.
	r.dec = jsontext.NewDecoder(&r.lines, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return r
}

// withoutMark skips a byte order mark, with which some editors begin a file (RFC
// 8259, section 8.1).
func withoutMark(in io.Reader) io.Reader {
	b := bufio.NewReader(in)
	const mark = "\ufeff"
	if head, _ := b.Peek(len(mark)); string(head) == mark { // an error comes back from Read
		_, _ = b.Discard(len(mark))
	}
	return b
}

// next returns the text of the next object and its position. The text is valid
// until the next call. At the end of the input the error is io.EOF.
func (r *requestReader) next() (text []byte, at position, err error) {
	for {
		switch kind := r.dec.PeekKind(); {
		case kind == '[' && r.index < 0:
			r.index = 0
		case kind == ']':
			r.index = -1
		case kind == '[':
			return nil, r.here(r.dec.InputOffset()), errors.New("is an array in an array; objects are needed")
		default:
			return r.object()
		}
		if _, err := r.dec.ReadToken(); err != nil {
			return nil, r.here(r.dec.InputOffset()), malformed(err)
		}
	}
}

func (r *requestReader) object() ([]byte, position, error) {
	v, err := r.dec.ReadValue()
	end := r.dec.InputOffset()
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntax):
		return nil, r.here(syntax.ByteOffset), malformed(err)
	case err != nil:
		return nil, r.here(end), err
	}
	at := r.here(end - int64(len(v)))
	if r.index >= 0 {
		r.index++
	}
	return v, at, nil
}

// malformed replaces the decoder's error, which quotes the input.
func malformed(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the input ends in the middle of its JSON")
	case errors.As(err, &syntax):
		return errors.New("is not well-formed JSON, or the value before it does not end")
	}
	return err
}

// here returns the position of offset. Offsets must not decrease.
func (r *requestReader) here(offset int64) position {
	return position{line: r.lines.line(offset), index: r.index}
}

// position is where a request begins in the input.
type position struct {
	line  int // from 1
	index int // in its array, from 0; -1: not in an array
}

func (p position) String() string {
	if p.index < 0 {
		return fmt.Sprintf("line %d", p.line)
	}
	return fmt.Sprintf("line %d, [%d]", p.line, p.index)
}

// lineReader knows the line of every byte that it has read.
type lineReader struct {
	r      io.Reader
	read   int64
	ends   []int64 // offsets of line feeds from passed on
	passed int     // line feeds before ends
}

func (l *lineReader) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	for i, c := range b[:n] {
		if c == '\n' {
			l.ends = append(l.ends, l.read+int64(i))
		}
	}
	l.read += int64(n)
	return n, err
}

// line returns the line of the byte at offset, from 1. Offsets must not decrease.
func (l *lineReader) line(offset int64) int {
	for len(l.ends) > 0 && l.ends[0] < offset {
		l.ends, l.passed = l.ends[1:], l.passed+1
	}
	return l.passed + 1
}
