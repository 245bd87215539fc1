package filter_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/filter"
)

func gathered(texts ...string) []byte {
	var b []byte
	for _, t := range texts {
		b = append(binary.NativeEndian.AppendUint32(b, uint32(len(t))), t...)
	}
	return b
}

func TestParseRequest(t *testing.T) {
	t.Parallel()
	got := filter.ParseRequest(gathered("HTTP/2", "[2001:db8::7]:4711", "192.0.2.1:443", "api.example", "ab12", "spiffe://client", "spiffe://front",
		":method", "GET", ":path", "/a?b", ":authority", "api.example", ":scheme", "https", "x", "1", "x", ""))
	assert.Equal(t, &authz.Request{
		Method: "GET", Path: "/a?b", Host: "api.example", Scheme: "https", Protocol: "HTTP/2", ServerName: "api.example",
		Source:      authz.Peer{Address: "2001:db8::7", CertificateSHA256: "ab12", Principal: "spiffe://client"},
		Destination: authz.Peer{Address: "192.0.2.1", Principal: "spiffe://front"},
		Headers:     []authz.Header{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/a?b"}, {Name: ":authority", Value: "api.example"}, {Name: ":scheme", Value: "https"}, {Name: "x", Value: "1"}, {Name: "x"}},
	}, got)
	assert.Empty(t, filter.ParseRequest(gathered("HTTP/1.1", "/run/front.sock", "", "", "", "", "")).Source.Address, "a Unix socket has no address")
}

// What is no gathered request is a request without a method, which is denied.
func FuzzParseRequest(f *testing.F) {
	whole := gathered("HTTP/1.1", "192.0.2.7:1", "192.0.2.1:443", "", "", "", "", ":method", "GET")
	f.Add(whole)
	f.Add([]byte{})
	for _, cut := range []int{1, 4, 9, len(whole) - 3, len(whole) - 7} {
		f.Add(whole[:cut])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := filter.ParseRequest(append([]byte(nil), b...))
		if len(b) < len(whole)-7 && req.Method != "" && len(req.Headers) == 0 {
			t.Errorf("a method without a header: %v", b)
		}
	})
}

func TestTruncatedRequest(t *testing.T) {
	t.Parallel()
	whole := gathered("HTTP/1.1", "192.0.2.7:1", "192.0.2.1:443", "", "", "", "", ":method", "GET")
	for n := range whole {
		assert.Empty(t, filter.ParseRequest(whole[:n]).Method, n)
	}
	assert.Equal(t, "GET", filter.ParseRequest(whole).Method)
}
