package receiver

import (
	"net/http"
	"slices"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

// fate is what a refusal by this sidecar says of the token at other sidecars, and
// at this one later. The answer 200 claims that the token is good nowhere (RFC
// 7009, section 2.2), so the zero fate has it revoked.
type fate uint8

const (
	elsewhere fate = iota // by another clock, other keys or another configuration it may be good
	nowhere               // it is not, and never will be
	undecided             // this sidecar could not find out, and the caller should repeat the request
)

// fateOf returns the fate of a token that the verifier refuses with f. A reason
// is not listed here if the token may be good elsewhere:
//
//   - expired, not_yet_valid: this sidecar's clock may be wrong, or time passes
//   - lifetime_too_long: a token without iat becomes short-lived as time passes
//   - unknown_key, bad_signature: the issuer may have published the key under
//     this kid since the last fetch
//   - unsupported_token, malformed_token, bad_claim, wrong_audience: what is
//     accepted depends on settings and versions, which sidecars get one by one
//
// TestFates lists every reason.
func fateOf(f *authz.Failure) fate {
	switch f.Reason {
	case authz.ReasonUnknownIssuer:
		return nowhere
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal, authz.ReasonUnset:
		return undecided
	}
	if f.Final {
		return nowhere
	}
	return elsewhere
}

// signed reports whether the verifier refuses a token although its issuer signed
// it: times are compared after the signature is verified.
func signed(f *authz.Failure) bool {
	return f.Reason == authz.ReasonExpired || f.Reason == authz.ReasonNotYetValid || f.Reason == authz.ReasonLifetimeTooLong
}

var errUnverifiable = httpapi.Unavailable("the token cannot be verified at the moment; repeat the request")

// errLasting refuses a token that may be accepted when its revocation has ended. A
// row that lasted longer could be the work of a caller who makes tokens up.
var errLasting = httpapi.Fail(http.StatusBadRequest, "the token has no iat that has passed, and expires later than max_token_ttl from now: it could be accepted after its revocation has ended; revoke it at its issuer")

// namesOf returns the issuers that may accept the token: those that are asked
// about it, and those whose keys are configured and that are not asked. refusal
// is nil if the token is good.
func (c *receiver) namesOf(refusal *authz.Failure, claims authz.UnverifiedClaims) (asked, own []string) {
	name := c.issuers.NameOf(claims)
	configured := name != "" && c.issuers.Verifies(name)
	asked = c.issuers.Introspecting(!configured || refusal != nil && refusal.Reason == authz.ReasonUnknownIssuer)
	switch {
	case claims.Expires <= 0 || claims.Expires >= authz.LastSecond: // no verifier accepts it
	case configured:
		own = []string{name}
	case name == "": // the verifier knows an issuer that the token does not name
		own = slices.Clone(c.issuers.Verified)
	}
	return asked, own
}

// hashExpiry returns until when the hash of a refused token must be revoked: until
// no clock accepts the token; the zero time: for max_token_ttl. It returns false
// if that is not known: a forged token must not occupy the ledger beyond
// max_token_ttl, but if the issuer signed this one, it may become good after that.
func (c *receiver) hashExpiry(claims authz.UnverifiedClaims, verified bool) (until time.Time, known bool) {
	now := c.clock.Now()
	end := time.Unix(int64(claims.Expires), 0)
	if end.Before(now) {
		end = now // the ledger refuses times that have passed, and this clock may be the one that is wrong
	}
	switch {
	case verified || !end.After(now.Add(c.maxTokenTTL)):
		return end.Add(authz.ExpiryMargin), true
	case !claims.Ageless(now):
		return time.Time{}, true // it is accepted within max_token_ttl from now or, as it lives longer, never
	}
	return time.Time{}, false
}
