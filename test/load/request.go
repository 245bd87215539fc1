package load

import (
	"math/rand/v2"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// Wire returns the CheckRequest that Envoy sends for a browser's request with
// this bearer token: 16 headers, both ends of the connection.
func Wire(token string) []byte {
	headers := map[string]string{
		":authority":        "shop.example.com",
		":method":           "GET",
		":path":             "/api/v1/orders/48213?expand=items,customer&page=2",
		":scheme":           "https",
		"accept":            "application/json, text/plain, */*",
		"accept-encoding":   "gzip, deflate, br, zstd",
		"accept-language":   "en-GB,en;q=0.9,de;q=0.8",
		"authorization":     "Bearer " + token,
		"cookie":            "theme=dark; consent=1; _sid=3f2a9c1e7b4d4f6e8a1b",
		"referer":           "https://shop.example.com/orders",
		"sec-fetch-mode":    "cors",
		"traceparent":       "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"user-agent":        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
		"x-forwarded-for":   "203.0.113.77",
		"x-forwarded-proto": "https",
		"x-request-id":      "6f1c2d3e-4b5a-6978-8a9b-acbdcedf0011",
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address("203.0.113.77", 51442)},
		Destination: &authv3.AttributeContext_Peer{Address: address("10.0.12.7", 8443), Principal: "spiffe://cluster.local/ns/shop/sa/orders"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1423847623847", Method: "GET", Path: headers[":path"], Host: headers[":authority"], Scheme: "https", Protocol: "HTTP/2", Headers: headers,
		}},
	}})
	if err != nil {
		panic(err) // constant input
	}
	return b
}

func address(ip string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: ip, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

// InTurn returns the checks one after the other, repeatedly.
func InTurn(checks []Check) Source {
	return func(n int64) Check { return checks[n%int64(len(checks))] }
}

// Zipf returns checks by popularity: the share of the k-th is proportional to
// 1/k^1.1.
func Zipf(checks []Check, seed uint64) Source {
	r := rand.New(rand.NewPCG(seed, 1))
	z := rand.NewZipf(r, 1.1, 1, uint64(len(checks)-1))
	order := make([]uint32, 1<<20)
	for i := range order {
		order[i] = uint32(z.Uint64())
	}
	return func(n int64) Check { return checks[order[n%int64(len(order))]] }
}
