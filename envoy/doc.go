// Package envoy implements Envoy's external authorization service, the gRPC service
// envoy.service.auth.v3.Authorization. It decodes a CheckRequest, calls the core for the
// decision and encodes the CheckResponse.
//
// It never decides anything itself. It never answers with an RPC error or an error_response
// either, because Envoy allows a request on both if failure_mode_allow is on: every response is
// an explicit allow or an explicit denial.
package envoy
