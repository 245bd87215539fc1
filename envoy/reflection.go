package envoy

import (
	_ "embed"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	alphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// apiDescriptors is a serialized FileDescriptorSet: external_auth.proto of
// envoy.service.auth.v3 and every file that it imports. The server needs no more of
// Envoy's API, because envoy/wire reads the messages. The generated Go types of these
// files would add 4 MB to the binary.
//
//go:embed ext_authz.binpb
var apiDescriptors []byte

// registerReflection serves gRPC reflection, which describes the services of s to tools
// such as grpcurl. The descriptors are parsed when the first tool asks.
func registerReflection(s *grpc.Server) {
	lazy := &apiFiles{load: sync.OnceValue(loadAPI)}
	options := reflection.ServerOptions{Services: s, DescriptorResolver: lazy, ExtensionResolver: lazy}
	reflectionpb.RegisterServerReflectionServer(s, reflection.NewServerV1(options))
	alphapb.RegisterServerReflectionServer(s, reflection.NewServer(options))
}

// api are the parsed descriptors and the extensions that they define.
type api struct {
	files *protoregistry.Files
	types *protoregistry.Types
}

// loadAPI parses apiDescriptors. It panics if they are damaged, which the build
// excludes: TestAPIDescriptors compares them with Envoy's.
func loadAPI() api {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(apiDescriptors, &set); err != nil {
		panic(fmt.Sprintf("envoy: ext_authz.binpb: %v", err))
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		panic(fmt.Sprintf("envoy: ext_authz.binpb: %v", err))
	}
	a := api{files: files, types: new(protoregistry.Types)}
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Extensions().Len() {
			err = a.types.RegisterExtension(dynamicpb.NewExtensionType(f.Extensions().Get(i)))
			if err != nil {
				panic(fmt.Sprintf("envoy: ext_authz.binpb: %v", err))
			}
		}
		return true
	})
	return a
}

// apiFiles resolves names in the API's descriptors first and then in those of the
// binary, which has the services for health and reflection.
type apiFiles struct{ load func() api }

func (a *apiFiles) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if f, err := a.load().files.FindFileByPath(path); err == nil {
		return f, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (a *apiFiles) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := a.load().files.FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

func (a *apiFiles) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return a.load().types.FindExtensionByName(name)
}

func (a *apiFiles) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return a.load().types.FindExtensionByNumber(message, number)
}

func (a *apiFiles) RangeExtensionsByMessage(message protoreflect.FullName, f func(protoreflect.ExtensionType) bool) {
	a.load().types.RangeExtensionsByMessage(message, f)
}
