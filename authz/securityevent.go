package authz

import (
	"encoding/json"
	"time"
)

// SecurityEventRules are the requirements on a security event token: a signed
// message about tokens or sessions rather than a credential, such as a
// back-channel logout token (RFC 8417). Its typ keeps it apart from access
// tokens (RFC 8725, section 3.11).
type SecurityEventRules struct {
	Types       []string // allowed typ, spelled as in the issuer's configuration; required
	Audiences   []string // aud must contain one of them; empty: the issuer's
	ExpOptional bool     // without exp, iat must be no older than max_token_ttl
	// Issuer, if not empty, is the signer of a message that is no JWT by RFC 7519
	// and names no issuer (Keycloak's admin actions). A message with iss is then
	// refused, and the caller checks audience and times, which have other names.
	Issuer        string
	DefaultIssuer string // signer of a message without iss; empty: iss is required
	// A published message has no audience and may be signed for long. The caller
	// bounds its use.
	AnyAudience, AnyLifetime bool
	MaxBytes                 int // 0: as for tokens
}

// MessageTime converts a NumericDate of a message to Unix seconds, rounded down. It
// accepts milliseconds, too, as some senders and the examples of CAEP 1.0 use them.
func MessageTime(claim any) (int64, bool) {
	n, _ := claim.(json.Number)
	f, err := n.Float64()
	if f > LastSecond {
		f /= 1000
	}
	if err != nil || !(f > 0 && f <= LastSecond) { // NaN fails both
		return 0, false
	}
	return int64(f), true
}

// IssuedThrough returns the not_before that revokes tokens issued up to and including
// the second at: the message's own time, so that a late or repeated message does
// not revoke tokens issued since. It may lie in the future by this sidecar's clock:
// the issuer's clock, which dates the tokens, may be ahead.
func IssuedThrough(at int64) time.Time { return time.Unix(at+1, 0).UTC() }
