package envoy

import (
	"sync"

	"google.golang.org/grpc/codes"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// answer is what Envoy does with a checked request: it passes the request on with changes, or
// replies to the client itself. It has no encoding of its own: each door has an
// encoder. The zero answer denies.
type answer struct {
	allowed bool
	headers []authz.Header // set in the request if it is allowed, else in the reply

	remove      []string      // request headers
	removeQuery []string      // query parameters, spelled as in the request
	metadata    wire.Metadata // google.protobuf.Struct; empty: none

	status int        // HTTP status of the reply
	code   codes.Code // of the CheckResponse that denies
	body   string     // of the reply; gRPC callers receive it as grpc-message

	values []byte // the values of the first headers, one after the other; see cutValues
	ends   []int  // of each of them in values
}

// encoder encodes an answer. It must not retain it.
type encoder func(a *answer) []byte

// setHeader sets a header of the request or the reply, replacing its other values.
func (a *answer) setHeader(name, value string) {
	a.headers = append(a.headers, authz.Header{Name: name, Value: value})
}

// cutValues gives the first headers their values, which are one string so that they are allocated
// together.
func (a *answer) cutValues() {
	all, start := string(a.values), 0
	for i, end := range a.ends {
		a.headers[i].Value, start = all[start:end], end
	}
}

// encodeCheckResponse encodes an answer as envoy.service.auth.v3.CheckResponse.
func encodeCheckResponse(a *answer) []byte {
	if !a.allowed {
		r := wire.DeniedResponse{Code: a.code, Status: a.status, Headers: a.headers, Body: a.body}
		return r.Encode()
	}
	r := make(wire.OKResponse, 0, 512)
	for i := range a.headers {
		r = r.SetHeader(a.headers[i].Name, a.headers[i].Value)
	}
	for _, name := range a.remove {
		r = r.RemoveHeader(name)
	}
	for _, name := range a.removeQuery {
		r = r.RemoveQueryParameter(name)
	}
	return r.Encode(a.metadata)
}

// answers holds answers for reuse, because those that allow are built for each new token.
var answers = sync.Pool{New: func() any { return new(answer) }}

// maxKeptValues is the memory in bytes that an answer in the pool may keep for values.
const maxKeptValues = 16 << 10

func newAnswer() *answer {
	a, ok := answers.Get().(*answer)
	if !ok {
		return new(answer)
	}
	return a
}

// free returns a to the pool. It must not be used any more.
func (a *answer) free() {
	clear(a.headers)
	clear(a.remove)
	kept := answer{headers: a.headers[:0], remove: a.remove[:0], ends: a.ends[:0]}
	if cap(a.values) <= maxKeptValues {
		kept.values = a.values[:0]
	}
	*a = kept
	answers.Put(a)
}
