package httpapi

import (
	"time"

	"jwtbouncer/authz"
)

// Issuers and Introspected are authz's.
type (
	Issuers      = authz.Issuers
	Introspected = authz.IntrospectedIssuer
)

// ParseOrders reads one revocation request or an array of them, as POST
// /v1/revocations takes them. Errors are *authz.InvalidError.
func ParseOrders(body []byte, issuers authz.Issuers, now time.Time) ([]authz.Revocation, error) {
	requests, _, err := DecodeRequests(body)
	if err != nil {
		return nil, err
	}
	var out []authz.Revocation
	for i := range requests {
		some, err := requests[i].Normalize(issuers, now)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, nil
}

// OrderExpired reports whether body is one valid request for a revocation whose
// expires_at has passed: there is nothing left to revoke.
func OrderExpired(body []byte, now time.Time) bool {
	requests, _, err := DecodeRequests(body)
	return err == nil && len(requests) == 1 && requests[0].Expired(now)
}
