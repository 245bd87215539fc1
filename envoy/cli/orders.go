package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// orders reads a stream of JSON objects: one after another, however they are
// spread over lines, or the elements of arrays of any length.
type orders struct {
	dec   *jsontext.Decoder
	lines lineReader
	index int // of the element read last; -1 outside of an array
}

func newOrders(in io.Reader) *orders {
	o := &orders{lines: lineReader{r: in}, index: -1}
	// What else is wrong with an object, its reader says, by the names of members.
	o.dec = jsontext.NewDecoder(&o.lines, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return o
}

// next returns the text of the next object, good until the next call, and where
// it is. The error at the end is io.EOF.
func (o *orders) next() (text []byte, at place, err error) {
	for {
		switch kind := o.dec.PeekKind(); {
		case kind == '[' && o.index < 0:
			o.index = 0
		case kind == ']':
			o.index = -1
		case kind == '[':
			return nil, o.here(o.dec.InputOffset()), errors.New("is an array in an array; objects are needed")
		default:
			return o.object()
		}
		if _, err := o.dec.ReadToken(); err != nil {
			return nil, o.here(o.dec.InputOffset()), malformed(err)
		}
	}
}

func (o *orders) object() ([]byte, place, error) {
	v, err := o.dec.ReadValue()
	end := o.dec.InputOffset()
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntax):
		return nil, o.here(syntax.ByteOffset), malformed(err)
	case err != nil:
		return nil, o.here(end), err
	}
	at := o.here(end - int64(len(v)))
	if o.index >= 0 {
		o.index++
	}
	return v, at, nil
}

// malformed replaces the decoder's error, which repeats parts of the input.
func malformed(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the input ends in the middle of its JSON")
	case errors.As(err, &syntax):
		return errors.New("is not well-formed JSON, or what stands before it has no end")
	}
	return err
}

// here is the place of offset, which must not be less than that of the call before.
func (o *orders) here(offset int64) place { return place{line: o.lines.line(offset), index: o.index} }

// place is where an order stands in the input.
type place struct {
	line  int // from 1
	index int // in its array, from 0; -1: in none
}

func (p place) String() string {
	if p.index < 0 {
		return fmt.Sprintf("line %d", p.line)
	}
	return fmt.Sprintf("line %d, [%d]", p.line, p.index)
}

// lineReader knows on which line each byte is that went through it.
type lineReader struct {
	r      io.Reader
	read   int64
	ends   []int64 // offsets of line feeds that line has not passed yet
	passed int
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

// line returns the line of the byte at offset. Offsets must not go back.
func (l *lineReader) line(offset int64) int {
	for len(l.ends) > 0 && l.ends[0] < offset {
		l.ends, l.passed = l.ends[1:], l.passed+1
	}
	return l.passed + 1
}
