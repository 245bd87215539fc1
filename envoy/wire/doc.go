// Package wire translates between the protobuf messages of Envoy's ext_authz API
// (envoy.service.auth.v3) and the types of the core: Decoder reads a CheckRequest,
// OKResponse and DeniedResponse write a CheckResponse, and Codec connects both to gRPC.
//
// The generated types allocate about 120 times for one request, which costs more than the
// whole decision. Decoder allocates nothing and reads only the fields that a decision may
// depend on; a differential fuzz test compares it with the generated types.
//
// The package never decides about a request. Whatever its callers pass, it never encodes a
// response that Envoy could take for an allow by accident.
package wire
