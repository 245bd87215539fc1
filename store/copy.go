package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"jwtbouncer/authz"
)

// changeReader parses the binary COPY stream of authz.changes, which may be cut
// anywhere, and calls row for each revocation.
type changeReader struct {
	row      func(authz.Row)
	progress func()
	snapshot []string // from the one row that describes the snapshot
	rows     uint64

	rest    []byte // an incomplete row
	started bool
	ended   bool
}

var errCopy = errors.New("malformed COPY stream")

// The header of a binary COPY: signature, flags, length of an extension.
const (
	copySignature = "PGCOPY\n\xff\r\n\x00"
	copyHead      = len(copySignature) + 8
)

// Write implements io.Writer for pgconn's CopyTo.
func (c *changeReader) Write(b []byte) (int, error) {
	c.progress()
	n := len(b)
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	used, err := c.take(b)
	if err != nil {
		return 0, err
	}
	c.rest = append(c.rest[:0], b[used:]...)
	return n, nil
}

func (c *changeReader) take(b []byte) (used int, err error) {
	if !c.started {
		if len(b) < copyHead {
			return 0, nil
		}
		if string(b[:len(copySignature)]) != copySignature {
			return 0, errCopy
		}
		ext := int(binary.BigEndian.Uint32(b[copyHead-4:]))
		if ext > 1<<16 {
			return 0, errCopy
		}
		if len(b) < copyHead+ext {
			return 0, nil
		}
		c.started = true
		used = copyHead + ext
	}
	for {
		n, err := c.tuple(b[used:])
		if n == 0 || err != nil {
			return used, err
		}
		used += n
	}
}

// tuple reads one row and returns its length in bytes; 0: it is incomplete.
func (c *changeReader) tuple(b []byte) (int, error) {
	switch {
	case c.ended && len(b) > 0:
		return 0, errCopy
	case len(b) < 2:
		return 0, nil
	}
	fields := int16(binary.BigEndian.Uint16(b))
	if fields == -1 {
		c.ended = true
		return 2, nil
	}
	if fields != 5 {
		return 0, fmt.Errorf("%w: %d columns", errCopy, fields)
	}
	at := 2
	var field [5][]byte
	for i := range field {
		if len(b) < at+4 {
			return 0, nil
		}
		size := int32(binary.BigEndian.Uint32(b[at:]))
		at += 4
		if size == -1 {
			continue
		}
		if size < 0 || size > 1<<26 {
			return 0, errCopy
		}
		if len(b) < at+int(size) {
			return 0, nil
		}
		field[i] = b[at : at+int(size) : at+int(size)]
		at += int(size)
	}
	if field[4] != nil {
		if c.snapshot != nil {
			return 0, fmt.Errorf("%w: two snapshots", errCopy)
		}
		var err error
		c.snapshot, err = textArray(field[4])
		return at, err
	}
	if len(field[0]) != 16 || len(field[1]) != 8 || len(field[2]) != 8 || len(field[3]) != 8 {
		return 0, fmt.Errorf("%w: unexpected column lengths", errCopy)
	}
	number := func(i int) int64 { return int64(binary.BigEndian.Uint64(field[i])) }
	if number(3) < 0 {
		return 0, fmt.Errorf("%w: a negative transaction id", errCopy)
	}
	c.row(authz.Row{Entry: authz.Entry{Key: authz.Key(field[0]), NotBefore: number(1), Expires: number(2)}, XID: uint64(number(3))})
	c.rows++
	return at, nil
}

// empty reports whether a complete stream had not even the row that describes
// the snapshot.
func (c *changeReader) empty() bool { return c.ended && c.snapshot == nil && c.rows == 0 }

// end returns an error unless the stream was complete.
func (c *changeReader) end() error {
	if !c.ended || len(c.rest) > 0 || c.snapshot == nil {
		return fmt.Errorf("%w: it ends early", errCopy)
	}
	return nil
}

// textArray reads a one-dimensional text[] without nulls.
func textArray(b []byte) ([]string, error) {
	if len(b) < 20 || binary.BigEndian.Uint32(b) != 1 {
		return nil, fmt.Errorf("%w: not a one-dimensional array", errCopy)
	}
	n := int(binary.BigEndian.Uint32(b[12:]))
	b = b[20:]
	if n > len(b)/4 {
		return nil, fmt.Errorf("%w: array length", errCopy)
	}
	out := make([]string, 0, n)
	for range n {
		if len(b) < 4 {
			return nil, errCopy
		}
		size := int(binary.BigEndian.Uint32(b))
		if size < 0 || size > len(b)-4 {
			return nil, fmt.Errorf("%w: array element", errCopy)
		}
		out = append(out, string(b[4:4+size]))
		b = b[4+size:]
	}
	return out, nil
}

// blobReader parses the binary COPY stream of one bytea column, which may be cut
// anywhere, and calls blob with each value; nil: it is null. The value is valid
// during the call.
type blobReader struct {
	blob     func([]byte) error
	progress func()

	rest    []byte
	started bool
	ended   bool
}

// Write implements io.Writer for pgconn's CopyTo.
func (c *blobReader) Write(b []byte) (int, error) {
	c.progress()
	c.rest = append(c.rest, b...)
	at := 0
	for !c.ended {
		n, err := c.tuple(c.rest[at:])
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		at += n
	}
	c.rest = c.rest[:copy(c.rest, c.rest[at:])]
	return len(b), nil
}

// tuple reads the header or a row and returns its length; 0: it is incomplete.
func (c *blobReader) tuple(b []byte) (int, error) {
	if !c.started {
		if len(b) < copyHead {
			return 0, nil
		}
		if string(b[:len(copySignature)]) != copySignature || binary.BigEndian.Uint32(b[copyHead-4:]) != 0 {
			return 0, errCopy
		}
		c.started = true
		return copyHead, nil
	}
	if len(b) < 2 {
		return 0, nil
	}
	switch int16(binary.BigEndian.Uint16(b)) {
	case -1:
		c.ended = true
		return 2, nil
	case 1:
	default:
		return 0, errCopy
	}
	if len(b) < 6 {
		return 0, nil
	}
	size := int32(binary.BigEndian.Uint32(b[2:]))
	switch {
	case size == -1:
		return 6, c.blob(nil)
	case size < 0 || size > 1<<30:
		return 0, errCopy
	case len(b) < 6+int(size):
		return 0, nil
	}
	return 6 + int(size), c.blob(b[6 : 6+int(size)])
}

// end returns an error unless the stream was complete.
func (c *blobReader) end() error {
	if !c.ended || len(c.rest) > 0 {
		return fmt.Errorf("%w: it ends early", errCopy)
	}
	return nil
}
