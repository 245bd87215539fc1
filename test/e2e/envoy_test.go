package e2e

import (
	"context"
	"errors"
	"net"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"jwtbouncer/test/harness"
)

// constant is an authorization service that always gives the same answer.
type constant struct {
	authv3.UnimplementedAuthorizationServer
	response *authv3.CheckResponse
	err      error
}

func (c constant) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return c.response, c.err
}

func serveConstant(t *testing.T, c constant) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// TestEnvoyBehaviour pins the behaviour of Envoy that the product relies on:
// which answers of an authorization service allow a request, and with which
// headers. If a new Envoy fails here, read docs/design.md before changing code.
func TestEnvoyBehaviour(t *testing.T) {
	t.Parallel()
	unavailable := &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable}}
	tests := []struct {
		name         string
		answer       constant
		closed, open int // HTTP status with failure_mode_allow off and on
	}{
		{name: "RPC error", answer: constant{err: status.Error(codes.Internal, "broken")}, closed: 403, open: 200},
		{name: "RPC error PERMISSION_DENIED", answer: constant{err: status.Error(codes.PermissionDenied, "no")}, closed: 403, open: 200},
		{name: "plain Go error", answer: constant{err: errors.New("broken")}, closed: 403, open: 200},
		{name: "error_response", closed: 503, open: 200, answer: constant{response: &authv3.CheckResponse{
			Status:       &rpcstatus.Status{Code: int32(codes.Unavailable)},
			HttpResponse: &authv3.CheckResponse_ErrorResponse{ErrorResponse: unavailable}}}},
		{name: "unset status", answer: constant{response: &authv3.CheckResponse{}}, closed: 200, open: 200},
		{name: "denied response whose status is unset", closed: 200, open: 200, answer: constant{response: &authv3.CheckResponse{
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: unavailable}}}},
		{name: "denied 503", closed: 503, open: 503, answer: constant{response: &authv3.CheckResponse{
			Status:       &rpcstatus.Status{Code: int32(codes.Unavailable)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: unavailable}}}},
		{name: "status without a denied response", closed: 403, open: 403, answer: constant{response: &authv3.CheckResponse{
			Status: &rpcstatus.Status{Code: int32(codes.Unavailable)}}}},
	}
	upstream := harness.Upstream(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			service := serveConstant(t, tt.answer)
			for _, mode := range []struct {
				allow bool
				want  int
			}{{false, tt.closed}, {true, tt.open}} {
				front := harness.NewFront(t, service, upstream.Addr, harness.FrontOptions{FailureModeAllow: mode.allow})
				r := front.Get(t, "X-Jwt-Sub", "spoofed")
				assert.Equalf(t, mode.want, r.Status, "failure_mode_allow %t: status", mode.allow)
				assert.Equalf(t, mode.want == 200, r.Upstream != nil, "failure_mode_allow %t: the request reached the upstream", mode.allow)
				if r.Upstream != nil {
					assert.Equalf(t, "spoofed", r.Upstream.Header.Get("X-Jwt-Sub"), "failure_mode_allow %t: Envoy removed the spoofed header, which it did not do so far", mode.allow)
				}
			}
		})
	}
}
