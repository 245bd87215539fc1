package envoy

import (
	"os"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"jwtbouncer/authz"
)

// TestAPIDescriptors: ext_authz.binpb has Envoy's descriptors. -update writes it.
func TestAPIDescriptors(t *testing.T) {
	var set descriptorpb.FileDescriptorSet
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(authv3.File_envoy_service_auth_v3_external_auth_proto)
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&set)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("ext_authz.binpb", want, 0o644))
	}
	text, err := os.ReadFile("ext_authz.binpb")
	require.NoError(t, err)
	var got descriptorpb.FileDescriptorSet
	require.NoError(t, proto.Unmarshal(text, &got))
	require.Lenf(t, got.File, len(set.File), "ext_authz.binpb is out of date; run go test ./envoy -run APIDescriptors -update")
	for i, f := range set.File {
		assert.Truef(t, proto.Equal(f, got.File[i]), "%s in ext_authz.binpb is out of date; run go test ./envoy -run APIDescriptors -update", f.GetName())
	}
}

// TestReflection: a tool learns the methods of every service, the messages of the
// ext_authz API, and the extensions with which its files are annotated.
func TestReflection(t *testing.T) {
	t.Parallel()
	r := run(t, decide(authz.Decision{}), testConfig(), Options{})
	stream, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
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

// TestAPIFiles: the embedded descriptors alone resolve what a tool asks about ext_authz.
// The binary that is shipped has no others, but this test binary does.
func TestAPIFiles(t *testing.T) {
	t.Parallel()
	a := loadAPI()
	for _, name := range []protoreflect.FullName{serviceName, "envoy.service.auth.v3.CheckResponse", "envoy.config.core.v3.Metadata", "google.rpc.Status", "google.protobuf.Struct"} {
		_, err := a.files.FindDescriptorByName(name)
		assert.NoErrorf(t, err, "%s", name)
	}
	for _, name := range []protoreflect.FullName{"validate.rules", "udpa.annotations.versioning", "xds.annotations.v3.file_status"} {
		_, err := a.types.FindExtensionByName(name)
		assert.NoErrorf(t, err, "%s", name)
	}
}
