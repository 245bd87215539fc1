package envoy

import (
	"errors"
	"strings"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"jwtbouncer/authz"
)

// errWire is any reason why bytes are not a CheckRequest. Which one does not
// matter to anybody: Envoy's own encoder does not produce them.
var errWire = errors.New("not a CheckRequest")

// requestDecoder reads from the wire form of envoy.service.auth.v3.CheckRequest
// what a decision may depend on. It agrees with proto.Unmarshal on those
// fields: the last scalar wins, messages merge, a map key occurs once, unknown
// fields are skipped, text must be UTF-8.
type requestDecoder struct {
	req        authz.Request
	raw        []authz.Header // header_map
	headers    mapIndex
	extensions mapIndex
	peer       *authz.Peer // the end that is being read
}

// reset forgets the last request and keeps the memory of its lists.
func (d *requestDecoder) reset() {
	clear(d.req.Headers)
	clear(d.req.ContextExtensions)
	clear(d.raw)
	*d = requestDecoder{
		req: authz.Request{Headers: d.req.Headers[:0], ContextExtensions: d.req.ContextExtensions[:0]},
		raw: d.raw[:0],
	}
}

// decode fills d.req, whose strings alias wire: it must not be changed
// afterwards. d must be fresh or reset.
func (d *requestDecoder) decode(wire []byte) error {
	if err := d.message(wire, (*requestDecoder).checkRequest); err != nil {
		return err
	}
	// header_map comes with encode_raw_headers and tells repeated headers
	// apart, which headers cannot. Envoy never sends both.
	if len(d.raw) > 0 {
		d.req.Headers, d.raw = d.raw, d.req.Headers
	}
	for i := range d.req.Headers {
		if name := d.req.Headers[i].Name; hasUpper(name) {
			d.req.Headers[i].Name = strings.ToLower(name)
		}
	}
	return nil
}

// fieldFunc handles one length-delimited field of a message.
type fieldFunc func(d *requestDecoder, num protowire.Number, value []byte) error

// message walks the length-delimited fields of one message. None of the fields
// read here has another wire type; one that comes with another is unknown, as
// it is to the official decoder.
func (d *requestDecoder) message(b []byte, field fieldFunc) error {
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errWire
			}
			b = b[n:]
			continue
		}
		v, n := consumeBytes(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if err := field(d, num, v); err != nil {
			return err
		}
	}
	return nil
}

func (d *requestDecoder) checkRequest(num protowire.Number, v []byte) error {
	if num == 1 {
		return d.message(v, (*requestDecoder).attributes)
	}
	return nil
}

func (d *requestDecoder) attributes(num protowire.Number, v []byte) error {
	switch num {
	case 1:
		d.peer = &d.req.Source
		return d.message(v, (*requestDecoder).peerField)
	case 2:
		d.peer = &d.req.Destination
		return d.message(v, (*requestDecoder).peerField)
	case 4:
		return d.message(v, (*requestDecoder).request)
	case 10:
		return d.mapEntry(v, &d.req.ContextExtensions, &d.extensions)
	case 12:
		return d.message(v, (*requestDecoder).tlsSession)
	}
	return nil
}

func (d *requestDecoder) peerField(num protowire.Number, v []byte) error {
	switch num {
	case 1:
		return d.message(v, (*requestDecoder).address)
	case 4:
		return text(&d.peer.Principal, v)
	case 5:
		return text(&d.peer.Certificate, v)
	}
	return nil
}

// address reads config.core.v3.Address, of whose kinds only a socket address
// has an IP. The kinds are one oneof: a later other kind replaces it.
func (d *requestDecoder) address(num protowire.Number, v []byte) error {
	switch num {
	case 1:
		return d.message(v, (*requestDecoder).socketAddress)
	case 2, 3:
		d.peer.Address = ""
	}
	return nil
}

func (d *requestDecoder) socketAddress(num protowire.Number, v []byte) error {
	if num == 2 {
		return text(&d.peer.Address, v)
	}
	return nil
}

func (d *requestDecoder) tlsSession(num protowire.Number, v []byte) error {
	if num == 1 {
		return text(&d.req.ServerName, v)
	}
	return nil
}

func (d *requestDecoder) request(num protowire.Number, v []byte) error {
	if num == 2 {
		return d.message(v, (*requestDecoder).http)
	}
	return nil
}

func (d *requestDecoder) http(num protowire.Number, v []byte) error {
	switch num {
	case 1:
		return text(&d.req.ID, v)
	case 2:
		return text(&d.req.Method, v)
	case 3:
		return d.mapEntry(v, &d.req.Headers, &d.headers)
	case 4:
		return text(&d.req.Path, v)
	case 5:
		return text(&d.req.Host, v)
	case 6:
		return text(&d.req.Scheme, v)
	case 10:
		return text(&d.req.Protocol, v)
	case 13:
		return d.message(v, (*requestDecoder).headerMap)
	}
	return nil
}

func (d *requestDecoder) headerMap(num protowire.Number, v []byte) error {
	if num != 1 {
		return nil
	}
	var name, value, raw string
	for b := v; len(b) > 0; {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errWire
			}
			b = b[n:]
			continue
		}
		v, n := consumeBytes(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		switch num {
		case 1:
			if err := text(&name, v); err != nil {
				return err
			}
		case 2:
			if err := text(&value, v); err != nil {
				return err
			}
		case 3:
			raw = alias(v) // bytes: HTTP does not promise UTF-8
		}
	}
	if raw != "" {
		value = raw
	}
	d.raw = append(d.raw, authz.Header{Name: name, Value: value})
	return nil
}

// mapEntry reads one entry of a map<string, string> into list.
func (d *requestDecoder) mapEntry(b []byte, list *[]authz.Header, index *mapIndex) error {
	var key, value string
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if typ != protowire.BytesType || num > 2 {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errWire
			}
			b = b[n:]
			continue
		}
		v, n := consumeBytes(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		to := &key
		if num == 2 {
			to = &value
		}
		if err := text(to, v); err != nil {
			return err
		}
	}
	index.set(list, key, value)
	return nil
}

// mapIndex finds the entry of a key in a list. Real requests have a handful of
// entries, for which comparing beats hashing; the map keeps a hostile one from
// costing the square of its size.
type mapIndex struct{ at map[string]int }

const mapIndexFrom = 48 // entries; above, a map finds them

func (x *mapIndex) set(list *[]authz.Header, key, value string) {
	l := *list
	if x.at == nil {
		for i := range l {
			if l[i].Name == key {
				l[i].Value = value
				return
			}
		}
		if len(l) >= mapIndexFrom {
			x.at = make(map[string]int, 2*mapIndexFrom)
			for i := range l {
				x.at[l[i].Name] = i
			}
			x.at[key] = len(l)
		}
	} else {
		if i, ok := x.at[key]; ok {
			l[i].Value = value
			return
		}
		x.at[key] = len(l)
	}
	*list = append(l, authz.Header{Name: key, Value: value})
}

// consumeTag is protowire.ConsumeTag with the official decoder's upper limit
// on field numbers, and short for the one-byte tags that nearly all are.
func consumeTag(b []byte) (protowire.Number, protowire.Type, int) {
	if c := b[0]; c < 0x80 && c >= 8 {
		return protowire.Number(c >> 3), protowire.Type(c & 7), 1
	}
	num, typ, n := protowire.ConsumeTag(b)
	if n >= 0 && num > protowire.MaxValidNumber {
		return 0, 0, -1
	}
	return num, typ, n
}

// consumeBytes is protowire.ConsumeBytes, short for values below 128 bytes.
func consumeBytes(b []byte) ([]byte, int) {
	if len(b) > 0 && b[0] < 0x80 {
		end := 1 + int(b[0])
		if end > len(b) {
			return nil, -1
		}
		return b[1:end], end
	}
	return protowire.ConsumeBytes(b)
}

func text(to *string, v []byte) error {
	if !utf8.Valid(v) {
		return errWire
	}
	*to = alias(v)
	return nil
}

// alias returns v as a string without copying it: 20 strings a request would
// cost more than all the rest of the decoding.
func alias(v []byte) string {
	return unsafe.String(unsafe.SliceData(v), len(v)) //nolint:gosec // v is ours alone, and nobody writes to it
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}
