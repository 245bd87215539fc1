package wire

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// encodeResponse denies if the status contradicts the HTTP response.
func TestContradictionsAreDenied(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"OK with denied response": encodeResponse(codes.OK, responseDenied, nil, nil),
		"denied with OK response": encodeResponse(codes.PermissionDenied, responseOK, nil, nil),
		"OK with error response":  encodeResponse(codes.OK, 5, nil, nil),
	} {
		var r authv3.CheckResponse
		require.NoError(t, proto.Unmarshal(b, &r), name)
		assert.Equal(t, int32(codes.PermissionDenied), r.GetStatus().GetCode(), name)
		assert.NotNil(t, r.GetDeniedResponse(), name)
	}
}
