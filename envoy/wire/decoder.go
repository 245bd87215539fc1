package wire

import (
	"errors"
	"strings"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"jwtbouncer/authz"
)

// errMalformed covers every reason why a message is not a CheckRequest. Callers need no detail:
// Envoy's own encoder never produces such a message.
var errMalformed = errors.New("malformed CheckRequest")

// Decoder decodes CheckRequests. It agrees with proto.Unmarshal on every field that it reads:
// the last scalar wins, repeated messages merge, a map key occurs once, unknown fields are
// skipped, and strings must be valid UTF-8.
//
// The zero Decoder is ready for use. A Decoder reuses its memory, decodes one request at a time
// and must not be copied.
type Decoder struct {
	request    authz.Request
	rawHeaders []authz.Header // from header_map
	headers    mapIndex       // of request.Headers
	extensions mapIndex       // of request.ContextExtensions
	peer       *authz.Peer    // the peer that is being decoded
	used       bool           // since the last Reset
}

// Decode returns the request that is encoded in message. The request is valid until the next
// call of Decode or Reset. Its strings alias message, which must not be modified as long as any
// of them is in use. After an error the request is nil.
func (d *Decoder) Decode(message []byte) (*authz.Request, error) {
	if d.used {
		d.Reset()
	}
	d.used = true
	if err := d.message(message, (*Decoder).checkRequest); err != nil {
		return nil, err
	}
	// Envoy sends either the map "headers" or, with encode_raw_headers, the list "header_map".
	// Only the list keeps repeated headers apart, so it wins.
	if len(d.rawHeaders) > 0 {
		d.request.Headers, d.rawHeaders = d.rawHeaders, d.request.Headers
	}
	for i := range d.request.Headers {
		if name := d.request.Headers[i].Name; hasUpper(name) {
			d.request.Headers[i].Name = strings.ToLower(name)
		}
	}
	return &d.request, nil
}

// Reset drops all references to the last message and keeps the memory of the lists for the next
// one.
func (d *Decoder) Reset() {
	clear(d.request.Headers)
	clear(d.request.ContextExtensions)
	clear(d.rawHeaders)
	*d = Decoder{
		request: authz.Request{
			Headers:           d.request.Headers[:0],
			ContextExtensions: d.request.ContextExtensions[:0],
		},
		rawHeaders: d.rawHeaders[:0],
	}
}

// fieldFunc decodes one length-delimited field of a message.
type fieldFunc func(d *Decoder, num protowire.Number, value []byte) error

// message passes the fields of one message to field.
func (d *Decoder) message(b []byte, field fieldFunc) error {
	for len(b) > 0 {
		num, value, rest, ok := nextField(b)
		if !ok {
			return errMalformed
		}
		b = rest
		if num == 0 {
			continue
		}
		if err := field(d, num, value); err != nil {
			return err
		}
	}
	return nil
}

// The messages below name their fields after the .proto files of Envoy.

func (d *Decoder) checkRequest(num protowire.Number, v []byte) error {
	if num == 1 { // attributes
		return d.message(v, (*Decoder).attributeContext)
	}
	return nil
}

func (d *Decoder) attributeContext(num protowire.Number, v []byte) error {
	switch num {
	case 1: // source
		d.peer = &d.request.Source
		return d.message(v, (*Decoder).peerFields)
	case 2: // destination
		d.peer = &d.request.Destination
		return d.message(v, (*Decoder).peerFields)
	case 4: // request
		return d.message(v, (*Decoder).requestFields)
	case 10: // context_extensions
		return d.mapEntry(v, &d.request.ContextExtensions, &d.extensions)
	case 12: // tls_session
		return d.message(v, (*Decoder).tlsSession)
	}
	return nil
}

func (d *Decoder) peerFields(num protowire.Number, v []byte) error {
	switch num {
	case 1: // address
		return d.message(v, (*Decoder).address)
	case 4: // principal
		return text(&d.peer.Principal, v)
	case 5: // certificate
		return text(&d.peer.Certificate, v)
	}
	return nil
}

// address decodes a config.core.v3.Address. Its fields are one oneof, so a later pipe or
// internal address replaces an earlier socket address, which is the only kind with an IP.
func (d *Decoder) address(num protowire.Number, v []byte) error {
	switch num {
	case 1: // socket_address
		return d.message(v, (*Decoder).socketAddress)
	case 2, 3: // pipe, envoy_internal_address
		d.peer.Address = ""
	}
	return nil
}

func (d *Decoder) socketAddress(num protowire.Number, v []byte) error {
	if num == 2 { // address
		return text(&d.peer.Address, v)
	}
	return nil
}

func (d *Decoder) tlsSession(num protowire.Number, v []byte) error {
	if num == 1 { // sni
		return text(&d.request.ServerName, v)
	}
	return nil
}

func (d *Decoder) requestFields(num protowire.Number, v []byte) error {
	if num == 2 { // http
		return d.message(v, (*Decoder).httpRequest)
	}
	return nil
}

func (d *Decoder) httpRequest(num protowire.Number, v []byte) error {
	switch num {
	case 2: // method
		return text(&d.request.Method, v)
	case 3: // headers
		return d.mapEntry(v, &d.request.Headers, &d.headers)
	case 4: // path
		return text(&d.request.Path, v)
	case 5: // host
		return text(&d.request.Host, v)
	case 6: // scheme
		return text(&d.request.Scheme, v)
	case 10: // protocol
		return text(&d.request.Protocol, v)
	case 13: // header_map
		return d.message(v, (*Decoder).headerMap)
	}
	return nil
}

func (d *Decoder) headerMap(num protowire.Number, v []byte) error {
	if num != 1 { // headers
		return nil
	}
	var name, value, raw string
	for len(v) > 0 {
		num, field, rest, ok := nextField(v)
		if !ok {
			return errMalformed
		}
		v = rest
		switch num {
		case 1: // key
			if err := text(&name, field); err != nil {
				return err
			}
		case 2: // value
			if err := text(&value, field); err != nil {
				return err
			}
		case 3: // raw_value: bytes, because HTTP does not require UTF-8
			raw = alias(field)
		}
	}
	if raw != "" {
		value = raw
	}
	d.rawHeaders = append(d.rawHeaders, authz.Header{Name: name, Value: value})
	return nil
}

// mapEntry adds one entry of a map<string, string> to list.
func (d *Decoder) mapEntry(b []byte, list *[]authz.Header, index *mapIndex) error {
	var key, value string
	for len(b) > 0 {
		num, field, rest, ok := nextField(b)
		if !ok {
			return errMalformed
		}
		b = rest
		switch num {
		case 1:
			if err := text(&key, field); err != nil {
				return err
			}
		case 2:
			if err := text(&value, field); err != nil {
				return err
			}
		}
	}
	index.set(list, key, value)
	return nil
}

// mapIndex finds the entry of a key in a list. A real request has a handful of entries, for
// which comparing is cheaper than hashing. The map keeps the cost of a hostile request from
// growing with the square of its size.
type mapIndex struct{ at map[string]int }

// mapIndexFrom is the number of entries from which on a map finds them.
const mapIndexFrom = 48

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

// nextField returns the first field of the message b, which must not be empty, and the rest of
// b. num is 0 for a field of another wire type than length-delimited: Decoder reads no such
// field, and the official decoder treats one with a known number as unknown. ok is false if b
// is malformed.
func nextField(b []byte) (num protowire.Number, value, rest []byte, ok bool) {
	num, typ, n := consumeTag(b)
	if n < 0 {
		return 0, nil, nil, false
	}
	b = b[n:]
	if typ != protowire.BytesType {
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return 0, nil, nil, false
		}
		return 0, nil, b[n:], true
	}
	value, n = consumeBytes(b)
	if n < 0 {
		return 0, nil, nil, false
	}
	return num, value, b[n:], true
}

// consumeTag is protowire.ConsumeTag with the official decoder's upper limit of field numbers
// and a short path for one-byte tags, which nearly all are.
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

// consumeBytes is protowire.ConsumeBytes with a short path for values of less than 128 bytes.
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

// text sets to to v, which must be valid UTF-8.
func text(to *string, v []byte) error {
	if !utf8.Valid(v) {
		return errMalformed
	}
	*to = alias(v)
	return nil
}

// alias returns v as a string without copying it: to copy 20 strings per request would cost
// more than the rest of the decoder.
func alias(v []byte) string {
	return unsafe.String(unsafe.SliceData(v), len(v)) //nolint:gosec // Decode requires that nobody modifies v
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}
