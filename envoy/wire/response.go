package wire

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"jwtbouncer/authz"
)

// Field numbers of envoy.service.auth.v3.CheckResponse and the messages in it.
const (
	responseStatus   = 1 // google.rpc.Status
	responseDenied   = 2 // DeniedHttpResponse
	responseOK       = 3 // OkHttpResponse
	responseMetadata = 4 // google.protobuf.Struct

	rpcStatusCode = 1

	deniedStatus   = 1 // type.v3.HttpStatus
	deniedHeaders  = 2
	deniedBody     = 3
	httpStatusCode = 1

	okHeaders                 = 2
	okHeadersToRemove         = 5
	okQueryParametersToRemove = 8

	optionHeader       = 1 // HeaderValueOption
	optionAppendAction = 3
	headerKey          = 1 // HeaderValue
	headerValue        = 2

	overwriteIfExistsOrAdd = 2 // HeaderValueOption.HeaderAppendAction
)

// OKResponse is an OkHttpResponse under construction: what Envoy changes about the request
// before the upstream receives it. Like append, its methods return the extended response. The
// zero OKResponse changes nothing.
type OKResponse []byte

// SetHeader sets a request header, replacing every value that the client sent.
func (r OKResponse) SetHeader(name, value string) OKResponse {
	return appendHeader(r, okHeaders, name, value)
}

// RemoveHeader removes all values of a request header.
func (r OKResponse) RemoveHeader(name string) OKResponse {
	return appendString(r, okHeadersToRemove, name)
}

// RemoveQueryParameter removes a parameter from the path. Envoy compares names without decoding
// them, so name must be spelled as in the request.
func (r OKResponse) RemoveQueryParameter(name string) OKResponse {
	return appendString(r, okQueryParametersToRemove, name)
}

// Encode returns the CheckResponse that allows the request. metadata becomes the dynamic
// metadata of the filter; empty: none.
func (r OKResponse) Encode(metadata Metadata) []byte {
	return encodeResponse(codes.OK, responseOK, r, metadata)
}

// DeniedResponse is a DeniedHttpResponse: the reply to a client whose request is denied.
type DeniedResponse struct {
	Code    codes.Code     // status of the CheckResponse; codes.OK is replaced by PermissionDenied
	Status  int            // HTTP status of the reply
	Headers []authz.Header // headers of the reply
	Body    string         // body of the reply; Envoy sends it as grpc-message to gRPC clients
}

// SetHeader adds a header to the reply.
func (r *DeniedResponse) SetHeader(name, value string) {
	r.Headers = append(r.Headers, authz.Header{Name: name, Value: value})
}

// Encode returns the CheckResponse that denies the request.
func (r *DeniedResponse) Encode() []byte {
	b := appendMessage(nil, deniedStatus, appendUint(nil, httpStatusCode, uint64(r.Status)))
	for _, h := range r.Headers {
		b = appendHeader(b, deniedHeaders, h.Name, h.Value)
	}
	b = appendString(b, deniedBody, r.Body)
	return encodeResponse(r.Code, responseDenied, b, nil)
}

// encodeResponse is the only function that encodes a CheckResponse. It sets the status together
// with the HTTP response, because Envoy takes a response without a status for an allow, and
// denies if the two contradict each other.
func encodeResponse(code codes.Code, kind protowire.Number, http, metadata []byte) []byte {
	if (code == codes.OK) != (kind == responseOK) {
		code, kind, http, metadata = codes.PermissionDenied, responseDenied, nil, nil
	}
	b := make([]byte, 0, len(http)+len(metadata)+24)
	if code == codes.OK {
		b = appendMessage(b, responseStatus, nil)
	} else {
		b = appendMessage(b, responseStatus, appendUint(nil, rpcStatusCode, uint64(code)))
	}
	b = appendMessage(b, kind, http)
	if len(metadata) > 0 {
		b = appendMessage(b, responseMetadata, metadata)
	}
	return b
}

// appendHeader appends a HeaderValueOption that overwrites the header.
func appendHeader(b []byte, field protowire.Number, name, value string) []byte {
	inner := sizeString(headerKey, name) + sizeString(headerValue, value)
	option := 1 + protowire.SizeBytes(inner) + 2
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(option))
	b = protowire.AppendTag(b, optionHeader, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(inner))
	b = appendString(b, headerKey, name)
	b = appendString(b, headerValue, value)
	return appendUint(b, optionAppendAction, overwriteIfExistsOrAdd)
}

// sizeString returns the number of bytes that appendString appends.
func sizeString(num protowire.Number, s string) int {
	if s == "" {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeBytes(len(s))
}

// appendString appends a string field. proto3 omits empty strings.
func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return appendBytes(b, num, s)
}

func appendBytes(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendMessage(b []byte, num protowire.Number, inner []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), inner)
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}
