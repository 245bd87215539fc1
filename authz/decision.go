package authz

// Reason is why a request was allowed or denied. The envoy package has one
// table from Reason to the reply; metrics use String as their label.
type Reason uint8

// The reasons. The zero Reason denies.
const (
	ReasonUnset             Reason = iota // nothing was decided: denied (500-like, answered 403)
	ReasonAllowed                         // valid token, not revoked
	ReasonAllowedAnonymous                // public route
	ReasonNoCredential                    // 401, bare challenge
	ReasonMalformedRequest                // 400 invalid_request: two credentials, unusable Authorization
	ReasonMalformedToken                  // 401 invalid_token from here …
	ReasonUnsupportedToken                // alg, typ, crit, JWE
	ReasonUnknownIssuer                   //
	ReasonUnknownKey                      //
	ReasonBadSignature                    //
	ReasonExpired                         //
	ReasonNotYetValid                     // nbf or iat in the future
	ReasonLifetimeTooLong                 // exp - iat above max_token_ttl
	ReasonWrongAudience                   //
	ReasonBadClaim                        // a claim has the wrong type or cannot be passed on
	ReasonRevoked                         //
	ReasonInactive                        // the issuer says so of an opaque token (RFC 7662)
	ReasonBindingMismatch                 // … to here: sender-constrained token without its proof (RFC 8705, 9449)
	ReasonInsufficientScope               // 403 insufficient_scope
	ReasonPolicyDenied                    // 403: CEL or route rule says no
	ReasonNoRoute                         // 403: no route matches
	ReasonKeysUnavailable                 // 503: the issuer's keys have never been fetched, or are being fetched for an unknown kid
	ReasonRevocationUnknown               // 503: nothing could prove that the token is not revoked
	ReasonOverloaded                      // 503: out of time or capacity before a decision
	ReasonInternal                        // 503: a defect, recovered
	reasonCount
)

var reasonNames = [reasonCount]string{
	"unset", "allowed", "allowed_anonymous", "no_credential", "malformed_request", "malformed_token", "unsupported_token",
	"unknown_issuer", "unknown_key", "bad_signature", "expired", "not_yet_valid", "lifetime_too_long", "wrong_audience",
	"bad_claim", "revoked", "inactive", "binding_mismatch", "insufficient_scope", "policy_denied", "no_route", "keys_unavailable",
	"revocation_unknown", "overloaded", "internal",
}

// String returns the reason as metrics and logs spell it.
func (r Reason) String() string {
	if r < reasonCount {
		return reasonNames[r]
	}
	return "invalid"
}

// Reasons returns every reason, for tables that must be complete.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// Decision is the answer to a Request. The zero Decision denies.
type Decision struct {
	Reason Reason
	Token  *Token // set when allowed with a token, and when a verified token was denied
	Route  string // name of the matched route; empty when no route matched
	// RequiredScopes are all scopes that the matched route requires; empty when it
	// requires none. Shared and immutable.
	RequiredScopes    []string
	Detail            string     // for logs and `check`; never sent to the caller, never holds a token
	RevocationUnknown bool       // allowed although nothing could prove it (on_revocation_unknown: allow)
	Challenge         *Challenge // what a denial asks for instead of a bearer token; nil: a bearer token
	Credential        Credential // the token as presented, so that an adapter can remove it from the upstream request
	Grant             *Grant     // what an open stream rests on, if it is allowed on a route with EndStreams; else nil
}

// Allowed reports whether the request may pass.
func (d Decision) Allowed() bool {
	return d.Reason == ReasonAllowed || d.Reason == ReasonAllowedAnonymous
}

// Challenge changes the WWW-Authenticate header of a denial (RFC 9449, section
// 7.1). It is shared and immutable.
type Challenge struct {
	Scheme     string   // "dpop"
	Error      string   // replaces the reason's error code: "invalid_dpop_proof", "use_dpop_nonce"; empty: does not
	Algorithms []string // "algs": what proofs may be signed with
	Nonce      string   // value for the DPoP-Nonce header; empty: none is sent
}
