package issuer

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"jwtbouncer/authz"
)

// VerifySecurityEvent verifies a security event token as Verify does a bearer
// token, by the rules s, and checks its audience.
func (v *Verifier) VerifySecurityEvent(ctx context.Context, raw string, s authz.SecurityEventRules) (*authz.Token, error) {
	if len(s.Types) == 0 {
		return nil, &authz.Failure{Reason: authz.ReasonInternal, Detail: "no typ is expected"}
	}
	t, err := v.verify(ctx, raw, &s, nil)
	if err != nil {
		return nil, err
	}
	ok := t.Accepted || s.AnyAudience
	if len(s.Audiences) > 0 {
		ok = slices.ContainsFunc(t.Audience, func(a string) bool { return slices.Contains(s.Audiences, a) })
	}
	if !ok {
		return nil, &authz.Failure{Reason: authz.ReasonWrongAudience, Detail: "the message is for another audience"}
	}
	return t, nil
}

// RevocationAwareVerifier is a Verifier that also refuses security event tokens
// whose signing key has been revoked by one of its kids: a stolen key must not
// speak for the issuer until it is withdrawn.
type RevocationAwareVerifier struct {
	*Verifier
	Revocations authz.Tier
}

// VerifySecurityEvent does what Verifier.VerifySecurityEvent does, and looks up
// the key. It returns ReasonRevocationUnknown if the lookup is inconclusive.
func (v RevocationAwareVerifier) VerifySecurityEvent(ctx context.Context, raw string, s authz.SecurityEventRules) (*authz.Token, error) {
	t, err := v.Verifier.VerifySecurityEvent(ctx, raw, s)
	if err != nil {
		return nil, err
	}
	q := t.Query()
	q.ID = ""     // the event's own, not a token's
	q.Expires = 0 // the token may outlive max_token_ttl, and the revocation of its key does not end
	verdict, err := v.Revocations.Lookup(ctx, &q)
	switch {
	case verdict == authz.Revoked:
		return nil, &authz.Failure{Reason: authz.ReasonRevoked, Detail: "the key of the message has been revoked"}
	case verdict == authz.NotRevoked && err == nil:
		return t, nil
	}
	return nil, authz.Failuref(authz.ReasonRevocationUnknown, "revocation of the message's key is unknown: %v", cmp.Or(err, errors.New("no tier knows")))
}
