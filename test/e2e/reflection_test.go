package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"jwtbouncer/test/harness"
)

// TestReflection: a tool learns the methods of every service, the messages of the
// ext_authz API, and the extensions with which its files are annotated. The process
// has none of Envoy's generated types, as the binary that is shipped.
func TestReflection(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	conn, err := grpc.NewClient(r.Bouncer.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		require.NoError(t, stream.Send(r))
		answer, err := stream.Recv()
		require.NoError(t, err)
		require.Nilf(t, answer.GetErrorResponse(), "%v: %v", r, answer.GetErrorResponse())
		return answer
	}
	var services []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	assert.ElementsMatch(t, []string{"envoy.service.auth.v3.Authorization", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}, services)
	for _, name := range append(services, "envoy.service.auth.v3.CheckRequest", "envoy.config.core.v3.Metadata", "google.rpc.Status", "google.protobuf.Struct") {
		files := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}).GetFileDescriptorResponse().GetFileDescriptorProto()
		assert.NotEmptyf(t, files, "%s", name)
	}
	assert.NotEmpty(t, ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: "envoy/service/auth/v3/external_auth.proto"}}).GetFileDescriptorResponse().GetFileDescriptorProto())
	// validate.rules
	extension := &reflectionpb.ExtensionRequest{ContainingType: "google.protobuf.FieldOptions", ExtensionNumber: 1071}
	assert.NotEmpty(t, ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingExtension{FileContainingExtension: extension}}).GetFileDescriptorResponse().GetFileDescriptorProto())
	assert.Contains(t, ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: "google.protobuf.FieldOptions"}}).GetAllExtensionNumbersResponse().GetExtensionNumber(), int32(1071))
	require.NoError(t, stream.CloseSend())
}
