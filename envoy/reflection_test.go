package envoy

import (
	"os"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
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
