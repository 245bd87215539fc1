// Package envoy is the door Envoy comes through: the gRPC service
// envoy.service.auth.v3.Authorization. It reads a CheckRequest, has the core
// decide, and writes a CheckResponse.
//
// It never decides anything itself, and it never answers with an RPC error or
// an error_response: Envoy lets a request pass on both where
// failure_mode_allow is on. Whatever happens below, the answer is an explicit
// allow or an explicit denial.
package envoy
