package authz

import (
	"cmp"
	"math"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// ExpiryMargin is how long a token's revocation is retained after the token's
// "exp". It exceeds every leeway that a verifier can be configured with.
const ExpiryMargin = 10 * time.Minute

// UnverifiedClaims are claims of a JWT whose signature has not been verified.
// They say what the sender claims, and decide nothing about a request.
type UnverifiedClaims struct {
	Issuer   string  `json:"iss"`
	Subject  any     `json:"sub"`
	Expires  float64 `json:"exp"`        // Unix seconds; 0: absent
	IssuedAt float64 `json:"iat"`        // Unix seconds; 0: absent
	Action   any     `json:"expiration"` // "exp" of Keycloak's admin actions; other tokens may mean anything by it
	ClientID any     `json:"client_id"`  // RFC 9068, section 2.2
	AZP      any     `json:"azp"`        // OpenID Connect Core 1.0, section 2
}

// Expired reports whether the JWT has expired at now under any leeway. A JWT
// without "exp", as most security event tokens, expires a day after "iat".
func (c UnverifiedClaims) Expired(now time.Time) bool {
	action, _ := c.Action.(float64)
	end := cmp.Or(c.Expires, action)
	if end == 0 && c.IssuedAt > 0 {
		end = c.IssuedAt + (24 * time.Hour).Seconds()
	}
	return end > 0 && end+ExpiryMargin.Seconds() <= float64(now.Unix())
}

// end returns exp, rounded up; false if there is none, or none that a verifier
// accepts.
func (c UnverifiedClaims) end() (time.Time, bool) {
	if c.Expires <= 0 || c.Expires >= LastSecond {
		return time.Time{}, false
	}
	return time.Unix(int64(math.Ceil(c.Expires)), 0), true
}

// Ageless reports whether iat is missing or in the future. Only the rest of such a
// token's lifetime is held to max_token_ttl, so that it may be refused now and
// accepted later.
func (c UnverifiedClaims) Ageless(now time.Time) bool {
	return c.IssuedAt <= 0 || c.IssuedAt > float64(now.Add(LifetimeSlack).Unix())
}

// IssuedToOtherClient reports whether the token names another client. "client_id"
// takes precedence over "azp"; a token that names no client belongs to any.
func (c UnverifiedClaims) IssuedToOtherClient(client string) bool {
	for _, claim := range []any{c.ClientID, c.AZP} {
		if owner, _ := claim.(string); owner != "" {
			return owner != client
		}
	}
	return false
}

// ReadUnverifiedClaims reads the claims of a compact JWT (RFC 7519) without
// verifying anything. It returns false for any other text.
func ReadUnverifiedClaims(raw string) (c UnverifiedClaims, ok bool) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(raw) > MaxTokenBytes {
		return c, false
	}
	var header struct {
		Alg string `json:"alg"`
	}
	for i, part := range parts {
		b, ok := DecodeSegment(part)
		if !ok || len(b) == 0 || i < 2 && json.Unmarshal(b, []any{&header, &c}[i]) != nil {
			return UnverifiedClaims{}, false
		}
	}
	return c, header.Alg != ""
}
