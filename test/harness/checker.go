package harness

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// Checker sends a sidecar the gRPC checks that Envoy sends. It is faster than
// Envoy and shows what Envoy hides, such as RPC errors.
type Checker struct {
	client authv3.AuthorizationClient
}

// NewChecker connects to a sidecar's gRPC address.
func NewChecker(t testing.TB, addr string) *Checker {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond}, MinConnectTimeout: time.Second}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &Checker{authv3.NewAuthorizationClient(conn)}
}

// Answer is the result of a check as Envoy would act on it.
type Answer struct {
	Status int   // HTTP status for the client; 200 means that the request is allowed
	Err    error // an RPC error
	Took   time.Duration
	Detail string // body of a denial
}

// Check sends the check of a GET request with a bearer token. An answer without
// a status counts as 200, because Envoy allows the request.
func (c *Checker) Check(ctx context.Context, token string) Answer {
	start := time.Now()
	resp, err := c.client.Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "192.0.2.7"}}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: http.MethodGet, Path: "/orders/17?full=1", Host: "api.example", Scheme: "https", Protocol: "HTTP/1.1",
			Headers: map[string]string{
				":authority": "api.example", ":method": "GET", ":path": "/orders/17?full=1", ":scheme": "https",
				"accept": "application/json", "user-agent": "test/1.0", "x-request-id": "0b1d6cbe-8a84-4f3e-9d3a-111111111111",
				"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https", "authorization": "Bearer " + token,
			},
		}},
	}})
	a := Answer{Took: time.Since(start), Err: err}
	switch {
	case err != nil:
	case codes.Code(resp.GetStatus().GetCode()) == codes.OK:
		a.Status = http.StatusOK
	case resp.GetDeniedResponse() != nil:
		a.Status = int(resp.GetDeniedResponse().GetStatus().GetCode())
		a.Detail = resp.GetDeniedResponse().GetBody()
	default:
		a.Status = http.StatusForbidden
	}
	return a
}

// Percentile returns the p-th percentile of d, or 0 if d is empty. It sorts d.
func Percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(float64(len(d))*p/100))]
}
