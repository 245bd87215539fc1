package envoy

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"jwtbouncer/authz"
)

// deciderFunc is an Authorizer that calls a function.
type deciderFunc func(ctx context.Context, req *authz.Request) authz.Decision

func (f deciderFunc) Authorize(ctx context.Context, req *authz.Request) authz.Decision {
	return f(ctx, req)
}

// decide returns an Authorizer that always decides d.
func decide(d authz.Decision) deciderFunc {
	return func(context.Context, *authz.Request) authz.Decision { return d }
}

func testToken() *authz.Token {
	return &authz.Token{
		Raw: "header.payload.signature", Issuer: "https://issuer.test", Subject: "alice",
		Claims: map[string]any{
			"iss": "https://issuer.test", "sub": "alice", "big": json.Number("9007199254740993"),
			"roles": []any{"a", "b"}, "realm": map[string]any{"name": "r1"}, "admin": true, "none": nil, "empty": "",
		},
	}
}

// running is a Server on a free port, with a client.
type running struct {
	server *Server
	conn   *grpc.ClientConn
	auth   authv3.AuthorizationClient
	addr   string
}

func run(t *testing.T, a Authorizer, cfg Config, o Options) *running {
	t.Helper()
	s, err := NewServer(a, cfg, o)
	require.NoError(t, err)
	l, err := Listen(cfg.Listen)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	target := l.Addr().String()
	if l.Addr().Network() == "unix" {
		target = "unix://" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, s.Drain(ctx))
		require.NoError(t, <-served)
	})
	return &running{server: s, conn: conn, auth: authv3.NewAuthorizationClient(conn), addr: l.Addr().String()}
}

func testConfig() Config {
	c := DefaultConfig()
	c.Listen.GRPC = "127.0.0.1:0"
	return c
}

func checkRequest(headers map[string]string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: "GET", Path: "/x?y=z", Host: "example.test", Scheme: "https", Protocol: "HTTP/2", Headers: headers,
		}},
		Source: &authv3.AttributeContext_Peer{Address: socket("10.0.0.1", 4711), Principal: "spiffe://a/b"},
	}}
}

func socket(ip string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: ip, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

func TestCheckAllows(t *testing.T) {
	t.Parallel()
	r := run(t, decide(authz.Decision{Reason: authz.ReasonAllowed, Token: testToken(), Credential: authz.Credential{Source: "authorization"}}), testConfig(), Options{})
	for range 3 {
		resp, err := r.auth.Check(t.Context(), checkRequest(map[string]string{"authorization": "Bearer x"}))
		require.NoError(t, err)
		require.Equal(t, int32(codes.OK), resp.GetStatus().GetCode())
		got := map[string]string{}
		for _, h := range resp.GetOkResponse().GetHeaders() {
			assert.Equal(t, core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, h.GetAppendAction())
			got[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
		}
		assert.Equal(t, map[string]string{"x-jwt-sub": "alice", "x-jwt-iss": "https://issuer.test"}, got)
		assert.Empty(t, resp.GetOkResponse().GetHeadersToRemove())
	}
}

func TestHealthFollowsReady(t *testing.T) {
	t.Parallel()
	r := run(t, decide(authz.Decision{}), testConfig(), Options{})
	health := healthpb.NewHealthClient(r.conn)
	for _, service := range []string{"", serviceName} {
		resp, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		require.NoError(t, err)
		assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, resp.GetStatus())
	}
	r.server.SetReady(true)
	resp, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: serviceName})
	require.NoError(t, err)
	assert.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.GetStatus())
}
