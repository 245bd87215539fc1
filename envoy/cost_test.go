package envoy

import (
	"context"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// realistic is a request with 16 headers and a token of 766 bytes.
func realistic(t testing.TB) []byte {
	return marshal(t, checkRequest(map[string]string{
		":authority": "shop.example.com", ":method": "GET", ":path": "/api/v1/orders/48213?expand=items", ":scheme": "https",
		"accept": "application/json, text/plain, */*", "accept-encoding": "gzip, deflate, br, zstd", "accept-language": "en-GB,en;q=0.9,de;q=0.8",
		"authorization": "Bearer " + strings.Repeat("x", 766), "cookie": "theme=dark; consent=1", "referer": "https://shop.example.com/orders",
		"sec-fetch-mode": "cors", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
		"x-forwarded-for": "203.0.113.77", "x-forwarded-proto": "https", "x-request-id": "6f1c2d3e-4b5a-6978-8a9b-acbdcedf0011",
	}))
}

func costServer(t testing.TB, d authz.Decision) *Server {
	t.Helper()
	cfg := testConfig()
	cfg.DecisionLog.Decisions = logNone
	s, err := NewServer(decide(d), cfg, Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Drain(context.Background()))
	})
	return s
}

func allowed() authz.Decision {
	return authz.Decision{Reason: authz.ReasonAllowed, Token: testToken(), Credential: authz.Credential{Source: "authorization"}}
}

// stock does what every server with the generated types does, and nothing else.
func stock(t testing.TB, message []byte) {
	var req authv3.CheckRequest
	require.NoError(t, proto.Unmarshal(message, &req))
	_, err := proto.Marshal(&authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}})
	require.NoError(t, err)
}

// Allocations, unlike times, do not depend on the machine. The test is not parallel, because the
// allocations of other tests would count.
func TestAllocations(t *testing.T) {
	message := realistic(t)
	allow, deny := costServer(t, allowed()), costServer(t, authz.Decision{Reason: authz.ReasonBadSignature})
	var d wire.Decoder
	ctx := context.Background()
	for _, c := range []struct {
		name string
		most float64
		run  func()
	}{
		{"decode", 0, func() { _, _ = d.Decode(message) }},
		{"check, allowed", 1, func() { allow.check(ctx, message) }}, // its context
		{"check, denied", 1, func() { deny.check(ctx, message) }},
	} {
		assert.LessOrEqualf(t, testing.AllocsPerRun(200, c.run), c.most, "%s: allocations, at most %.0f are right", c.name, c.most)
	}
	ours, theirs := testing.AllocsPerRun(200, func() { allow.check(ctx, message) }), testing.AllocsPerRun(200, func() { stock(t, message) })
	assert.LessOrEqualf(t, ours*10, theirs, "a whole check makes %.0f allocations, the generated types alone %.0f: a tenth is the limit", ours, theirs)
}

func BenchmarkDecode(b *testing.B) {
	message := realistic(b)
	var d wire.Decoder
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeOfficial(b *testing.B) {
	message := realistic(b)
	b.ReportAllocs()
	for b.Loop() {
		var m authv3.CheckRequest
		if err := proto.Unmarshal(message, &m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck measures a check from message to response, without the Authorizer.
func BenchmarkCheck(b *testing.B) {
	for name, d := range map[string]authz.Decision{"allowed": allowed(), "denied": {Reason: authz.ReasonRevoked}} {
		b.Run(name, func(b *testing.B) {
			s, message, ctx := costServer(b, d), realistic(b), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				s.check(ctx, message)
			}
		})
	}
}

func BenchmarkStock(b *testing.B) {
	message := realistic(b)
	b.ReportAllocs()
	for b.Loop() {
		stock(b, message)
	}
}

func BenchmarkEncodeAllow(b *testing.B) {
	headers, token, req := headersOf(b, DefaultConfig().Headers), testToken(), &authz.Request{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := headers.build(token, authz.Credential{Source: "authorization"}, req); err != nil {
			b.Fatal(err)
		}
	}
}
