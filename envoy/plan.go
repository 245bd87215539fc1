package envoy

import (
	"encoding/binary"
	"net/http"
)

// The plan is the encoding of an answer for a filter in Envoy's own process: a list of orders
// without pointers, so that C may walk it in Go's memory. Numbers are 32 bits, little-endian.
//
//	plan  = kind status *order end
//	kind  = PlanAllow / PlanDeny / PlanEndStream, one byte
//	status = HTTP status of the reply; 0 if the request is allowed
//	order = code, one byte; length of name; length of value; name; value
//	end   = PlanEnd, one byte
//
// An order with an unknown code, and a plan with an unknown kind, must be treated as a denial.
const (
	PlanAllow byte = 'A' // the request is passed on with the changes that follow
	PlanDeny  byte = 'D' // the client receives a reply with the status and the parts that follow

	// PlanEndStream ends a stream that was allowed: with a reply as PlanDeny does if the response has
	// not begun, else without.
	PlanEndStream byte = 'X'

	PlanSet         byte = 'S' // set a request header, replacing every value
	PlanRemove      byte = 'R' // remove a request header; without value
	PlanRemoveQuery byte = 'Q' // remove a query parameter, spelled as in the path; without value
	PlanMetadata    byte = 'M' // the dynamic metadata, a google.protobuf.Struct; without name
	PlanHeader      byte = 'H' // a header of the reply
	PlanBody        byte = 'B' // the body of the reply; without name

	PlanEnd byte = 'E'
)

// encodePlan encodes an answer as a plan.
func encodePlan(a *answer) []byte {
	if !a.allowed {
		b := planHead(PlanDeny, a.status)
		for i := range a.headers {
			b = appendOrder(b, PlanHeader, a.headers[i].Name, a.headers[i].Value)
		}
		return append(appendOrder(b, PlanBody, "", a.body), PlanEnd)
	}
	b := planHead(PlanAllow, 0)
	for i := range a.headers {
		b = appendOrder(b, PlanSet, a.headers[i].Name, a.headers[i].Value)
	}
	for _, name := range a.remove {
		b = appendOrder(b, PlanRemove, name, "")
	}
	for _, name := range a.removeQuery {
		b = appendOrder(b, PlanRemoveQuery, name, "")
	}
	if len(a.metadata) > 0 {
		b = appendOrder(b, PlanMetadata, "", a.metadata)
	}
	return append(b, PlanEnd)
}

// planHead begins a plan. A denial without a status of an error is a defect and still denies.
func planHead(kind byte, status int) []byte {
	if kind != PlanAllow && (status < 400 || status > 599) {
		status = http.StatusForbidden
	}
	b := append(make([]byte, 0, 256), kind)
	return binary.LittleEndian.AppendUint32(b, uint32(status))
}

func appendOrder[T string | ~[]byte](b []byte, code byte, name string, value T) []byte {
	b = append(b, code)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(name)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	b = append(b, name...)
	return append(b, value...)
}
