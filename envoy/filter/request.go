package filter

import (
	"encoding/binary"
	"net"
	"unsafe"

	"jwtbouncer/authz"
)

// attributes is the number of texts before the headers.
const attributes = 7

// ParseRequest reads a request as envoy/module/shim.c gathers it: texts, each with its
// length (32 bits, in the machine's order) in front. The attributes come first: protocol,
// source and destination (IP:port), server name, SHA-256 of the client certificate in
// hex, and the principals of source and destination. Then come name and value of each
// header. The strings of the request are parts of b.
//
// If b is anything else, the request has no method, and is denied as malformed.
func ParseRequest(b []byte) *authz.Request {
	texts := make([]string, 0, 64)
	for len(b) > 0 {
		if len(b) < 4 {
			return &authz.Request{}
		}
		n := int(binary.NativeEndian.Uint32(b))
		if b = b[4:]; n > len(b) {
			return &authz.Request{}
		}
		texts = append(texts, unsafe.String(unsafe.SliceData(b), n)) //nolint:gosec // n bytes of b, which nobody changes
		b = b[n:]
	}
	if len(texts) < attributes || (len(texts)-attributes)%2 != 0 {
		return &authz.Request{}
	}
	req := &authz.Request{
		Protocol:    texts[0],
		Source:      authz.Peer{Address: ip(texts[1]), CertificateSHA256: texts[4], Principal: texts[5]},
		Destination: authz.Peer{Address: ip(texts[2]), Principal: texts[6]},
		ServerName:  texts[3],
		Headers:     make([]authz.Header, 0, (len(texts)-attributes)/2),
	}
	for i := attributes; i < len(texts); i += 2 {
		addHeader(req, texts[i], texts[i+1])
	}
	return req
}

func addHeader(req *authz.Request, name, value string) {
	req.Headers = append(req.Headers, authz.Header{Name: name, Value: value})
	switch name {
	case ":method":
		req.Method = value
	case ":path":
		req.Path = value
	case ":authority":
		req.Host = value
	case ":scheme":
		req.Scheme = value
	}
}

// ip returns the address of IP:port, and nothing for the path of a Unix socket.
func ip(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil || net.ParseIP(host) == nil {
		return ""
	}
	return host
}
