package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"jwtbouncer/authz"
)

func decodeWire(wire []byte) (*authz.Request, error) {
	var d Decoder
	return d.Decode(wire)
}

// official decodes with the generated types and copies the fields that Decoder reads.
func official(t testing.TB, wire []byte) (*authz.Request, error) {
	t.Helper()
	var m authv3.CheckRequest
	if err := proto.Unmarshal(wire, &m); err != nil {
		return nil, err
	}
	a := m.GetAttributes()
	h := a.GetRequest().GetHttp()
	r := &authz.Request{
		Method: h.GetMethod(), Scheme: h.GetScheme(), Host: h.GetHost(), Path: h.GetPath(), Protocol: h.GetProtocol(),
		Source: peer(a.GetSource()), Destination: peer(a.GetDestination()), ServerName: a.GetTlsSession().GetSni(),
	}
	for _, k := range slices.Sorted(maps.Keys(a.GetContextExtensions())) {
		r.ContextExtensions = append(r.ContextExtensions, authz.Header{Name: k, Value: a.GetContextExtensions()[k]})
	}
	if list := h.GetHeaderMap().GetHeaders(); len(list) > 0 {
		for _, e := range list {
			v := e.GetValue()
			if raw := e.GetRawValue(); len(raw) > 0 {
				v = string(raw)
			}
			r.Headers = append(r.Headers, authz.Header{Name: strings.ToLower(e.GetKey()), Value: v})
		}
		return r, nil
	}
	for _, k := range slices.Sorted(maps.Keys(h.GetHeaders())) {
		r.Headers = append(r.Headers, authz.Header{Name: strings.ToLower(k), Value: h.GetHeaders()[k]})
	}
	return r, nil
}

func peer(p *authv3.AttributeContext_Peer) authz.Peer {
	return authz.Peer{Address: p.GetAddress().GetSocketAddress().GetAddress(), Principal: p.GetPrincipal(), Certificate: p.GetCertificate()}
}

// sortMaps sorts the lists that come from maps.
func sortMaps(r *authz.Request, headersToo bool) {
	byName := func(a, b authz.Header) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Value, b.Value)
	}
	slices.SortFunc(r.ContextExtensions, byName)
	if headersToo {
		slices.SortFunc(r.Headers, byName)
	}
}

// pruned is CheckRequest with only the fields that Decoder reads. To the official decoder of this
// message, as to Decoder, all other fields are unknown. So the two must agree on errors, too.
var pruned = func() protoreflect.MessageDescriptor {
	keep := map[string][]int32{
		"envoy.service.auth.v3.CheckRequest":                              {1},
		"envoy.service.auth.v3.AttributeContext":                          {1, 2, 4, 10, 12},
		"envoy.service.auth.v3.AttributeContext.Peer":                     {1, 4, 5},
		"envoy.service.auth.v3.AttributeContext.Request":                  {2},
		"envoy.service.auth.v3.AttributeContext.HttpRequest":              {1, 2, 3, 4, 5, 6, 10, 13},
		"envoy.service.auth.v3.AttributeContext.TLSSession":               {1},
		"envoy.service.auth.v3.AttributeContext.ContextExtensionsEntry":   {1, 2},
		"envoy.service.auth.v3.AttributeContext.HttpRequest.HeadersEntry": {1, 2},
		"envoy.config.core.v3.HeaderMap":                                  {1},
		"envoy.config.core.v3.HeaderValue":                                {1, 2, 3},
		"envoy.config.core.v3.Address":                                    {1, 2, 3},
		"envoy.config.core.v3.SocketAddress":                              {2},
	}
	out := &descriptorpb.FileDescriptorProto{Name: proto.String("pruned.proto"), Package: proto.String("pruned"), Syntax: proto.String("proto3")}
	rename := strings.NewReplacer("envoy.service.auth.v3.", "pruned.", "envoy.config.core.v3.", "pruned.")
	var prune func(m *descriptorpb.DescriptorProto, full string) *descriptorpb.DescriptorProto
	prune = func(m *descriptorpb.DescriptorProto, full string) *descriptorpb.DescriptorProto {
		p := &descriptorpb.DescriptorProto{Name: m.Name}
		if m.GetOptions().GetMapEntry() {
			p.Options = &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)}
		}
		for _, f := range m.Field {
			if !slices.Contains(keep[full], f.GetNumber()) {
				continue
			}
			f = proto.CloneOf(f)
			f.Options = nil
			if f.TypeName != nil {
				f.TypeName = proto.String(rename.Replace(f.GetTypeName()))
			}
			if full == "envoy.config.core.v3.Address" && f.GetNumber() > 1 {
				// Decoder does not decode the other kinds of address.
				f.Type, f.TypeName = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum(), nil
			}
			if f.OneofIndex != nil {
				p.OneofDecl = m.OneofDecl
			}
			p.Field = append(p.Field, f)
		}
		for _, n := range m.NestedType {
			if _, ok := keep[full+"."+n.GetName()]; ok {
				p.NestedType = append(p.NestedType, prune(n, full+"."+n.GetName()))
			}
		}
		return p
	}
	for _, name := range []string{"CheckRequest", "AttributeContext"} {
		m, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("envoy.service.auth.v3." + name))
		if err != nil {
			panic(err)
		}
		md, _ := m.(protoreflect.MessageDescriptor)
		out.MessageType = append(out.MessageType, prune(protodesc.ToDescriptorProto(md), string(md.FullName())))
	}
	for _, name := range []string{"HeaderMap", "HeaderValue", "Address", "SocketAddress"} {
		m, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("envoy.config.core.v3." + name))
		if err != nil {
			panic(err)
		}
		md, _ := m.(protoreflect.MessageDescriptor)
		out.MessageType = append(out.MessageType, prune(protodesc.ToDescriptorProto(md), string(md.FullName())))
	}
	for _, m := range out.MessageType {
		for _, o := range m.OneofDecl {
			o.Options = nil
		}
	}
	f, err := protodesc.NewFile(out, nil)
	if err != nil {
		panic(err)
	}
	return f.Messages().ByName("CheckRequest")
}()

// errPanic means that the official decoder panicked, as that of dynamic messages does if a map
// entry repeats its key with another wire type (protobuf-go 1.36.12). That of generated types, which
// official uses, does not.
var errPanic = errors.New("panic")

func unmarshalPruned(wire []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errPanic
		}
	}()
	return proto.Unmarshal(wire, dynamicpb.NewMessage(pruned))
}

func compareDecoders(t *testing.T, wire []byte) {
	t.Helper()
	before := slices.Clone(wire)
	got, err := decodeWire(wire)
	require.Equal(t, before, wire, "the decoder modified the message")
	if errPruned := unmarshalPruned(wire); !errors.Is(errPruned, errPanic) {
		require.Equal(t, errPruned == nil, err == nil, "Decoder: %v, official: %v", err, errPruned)
	}
	want, errOfficial := official(t, wire)
	if errOfficial != nil {
		return // of a field that Decoder does not read, or both fail
	}
	require.NoError(t, err)
	var m authv3.CheckRequest
	require.NoError(t, proto.Unmarshal(wire, &m))
	fromMap := len(m.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders()) == 0
	sortMaps(got, fromMap)
	sortMaps(want, fromMap)
	if len(got.Headers) == 0 {
		got.Headers = nil
	}
	require.Equal(t, want, got)
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

func fullRequest() *authv3.CheckRequest {
	r := checkRequest(map[string]string{":method": "GET", ":path": "/x", "authorization": "Bearer abc", "X-Upper": "Ü", "accept": strings.Repeat("a", 300)})
	a := r.GetAttributes()
	a.Destination = &authv3.AttributeContext_Peer{Address: socket("::1", 443), Certificate: "-----BEGIN%20", Service: "s", Labels: map[string]string{"a": "b"}}
	a.ContextExtensions = map[string]string{"route": "admin", "": "empty"}
	a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: "sni.test"}
	h := a.GetRequest().GetHttp()
	h.Body, h.RawBody, h.Query, h.Fragment, h.Size = "body", []byte{0xff}, "q", "f", -1
	return r
}

func rawRequest() *authv3.CheckRequest {
	r := checkRequest(nil)
	r.GetAttributes().GetRequest().GetHttp().HeaderMap = &core.HeaderMap{Headers: []*core.HeaderValue{
		{Key: ":method", RawValue: []byte("GET")},
		{Key: "Authorization", RawValue: []byte("Bearer a")},
		{Key: "authorization", RawValue: []byte("Bearer b")},
		{Key: "x-latin", RawValue: []byte{0xe4, 0xf6}},
		{Key: "x-value", Value: "v"},
		{Key: "x-both", Value: "v", RawValue: []byte("r")},
		{},
	}}
	return r
}

func wireSeeds(t testing.TB) map[string][]byte {
	full, raw := marshal(t, fullRequest()), marshal(t, rawRequest())
	pipe := marshal(t, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{
		Address: &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: "/p"}}},
	}}})
	other := checkRequest(map[string]string{"authorization": "Bearer other", "x-new": "1"})
	other.GetAttributes().GetRequest().GetHttp().Method = "POST"
	field := func(path []protowire.Number, leaf []byte) []byte {
		for _, num := range slices.Backward(path) {
			leaf = appendMessage(nil, num, leaf)
		}
		return leaf
	}
	many := map[string]string{}
	for i := range 3 * mapIndexFrom {
		many[fmt.Sprintf("x-%d", i)] = "v"
	}
	http := []protowire.Number{1, 4, 2}
	return map[string][]byte{
		"empty":                 {},
		"empty attributes":      {0x0a, 0x00},
		"full":                  full,
		"raw headers":           raw,
		"map and raw headers":   slices.Concat(full, raw),
		"merged":                slices.Concat(full, marshal(t, other)),
		"address replaced":      slices.Concat(full, pipe),
		"address set again":     slices.Concat(pipe, full),
		"many headers":          marshal(t, checkRequest(many)),
		"many headers twice":    slices.Concat(marshal(t, checkRequest(many)), marshal(t, checkRequest(many))),
		"truncated":             full[:len(full)-3],
		"bad UTF-8 in method":   field(http, appendBytes(nil, 2, "\xff")),
		"bad UTF-8 in body":     field(http, appendBytes(nil, 11, "\xff")),
		"bad UTF-8 in key":      field(append(slices.Clone(http), 3), appendBytes(nil, 1, "\xff")),
		"bad UTF-8 in value":    field(append(slices.Clone(http), 3), appendBytes(nil, 2, "\xff")),
		"bad UTF-8 in skipped":  field([]protowire.Number{1, 1}, appendBytes(nil, 2, "\xff")),
		"method as varint":      field(http, appendUint(nil, 2, 7)),
		"attributes as varint":  {0x08, 0x01},
		"map entry empty":       field(append(slices.Clone(http), 3), nil),
		"map key twice":         field(append(slices.Clone(http), 3), appendBytes(appendBytes(appendBytes(nil, 1, "a"), 1, "b"), 2, "v")),
		"map key as varint":     field(append(slices.Clone(http), 3), appendUint(appendBytes(appendBytes(nil, 1, "a"), 2, "v"), 1, 1)),
		"map value as varint":   field(append(slices.Clone(http), 3), appendUint(appendBytes(nil, 1, "a"), 2, 1)),
		"map entry extra":       field(append(slices.Clone(http), 3), appendBytes(appendBytes(nil, 1, "a"), 9, "v")),
		"group skipped":         {0x1b, 0x08, 0x01, 0x1c},
		"group unterminated":    {0x1b, 0x08, 0x01},
		"group end alone":       {0x1c},
		"field number 0":        {0x02, 0x00},
		"field number too high": protowire.AppendBytes(protowire.AppendVarint(nil, (1<<29)<<3|2), nil),
		"reserved wire type":    {0x0f},
		"overlong tag":          {0x8a, 0x80, 0x80, 0x00, 0x00},
		"overlong length":       {0x0a, 0x80, 0x00},
		"length overflow":       {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"port as fixed32":       field([]protowire.Number{1, 1, 1, 1}, []byte{0x1d, 1, 2, 3, 4}),
	}
}

func TestDecoderAgreesWithOfficial(t *testing.T) {
	t.Parallel()
	for name, wire := range wireSeeds(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareDecoders(t, wire)
		})
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, wire := range wireSeeds(f) {
		f.Add(wire)
	}
	f.Fuzz(compareDecoders)
}

func TestDecoderIsReusedClean(t *testing.T) {
	t.Parallel()
	var d Decoder
	decode := func(message []byte) *authz.Request {
		req, err := d.Decode(message)
		require.NoError(t, err)
		return req
	}
	for i := range 6 {
		decode(marshal(t, rawRequest()))
		if i%2 == 0 { // Decode must not depend on the call
			d.Reset()
		}
		decode(marshal(t, fullRequest()))
		_, err := d.Decode([]byte{0xff})
		require.Error(t, err)
		req := decode(nil)
		assert.Empty(t, req.Headers)
		assert.Empty(t, req.ContextExtensions)
		assert.Empty(t, req.Method+req.Path+req.Host+req.Source.Address+req.ServerName)
		for _, list := range [][]authz.Header{req.Headers, req.ContextExtensions, d.rawHeaders} {
			for _, h := range list[:cap(list)] {
				assert.Zero(t, h, "a header of an earlier request is still referenced")
			}
		}
	}
}

func TestHeaderNamesAreLowerCase(t *testing.T) {
	t.Parallel()
	req, err := decodeWire(marshal(t, rawRequest()))
	require.NoError(t, err)
	_, n := req.Header("authorization")
	assert.Equal(t, 2, n, "both spellings are one header")
}
