package issuer

import (
	"context"
	"slices"

	"jwtbouncer/authz"
)

func foreign(s *authz.SecurityEventRules) bool { return s != nil && s.Issuer != "" }

// VerifySecurityEvent checks a message as Verify checks a token, and its audience.
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

// Speakers verifies tokens and statements, and of statements that the key they
// are signed with has not been revoked by its kid: whoever stole it must not
// speak for the issuer until the key is withdrawn.
type RevocationAwareVerifier struct {
	*Verifier
	Revocations authz.Tier
}

// VerifySecurityEvent checks a message as JWTVerifier does. What nobody can tell
// about the key is ReasonRevocationUnknown.
func (s RevocationAwareVerifier) VerifySecurityEvent(ctx context.Context, raw string, st authz.SecurityEventRules) (*authz.Token, error) {
	t, err := s.Verifier.VerifySecurityEvent(ctx, raw, st)
	if err != nil {
		return nil, err
	}
	q := t.Query()
	q.ID = ""     // it is the message's, not a token's
	q.Expires = 0 // a statement may be good for longer than any token; the key's revocation lasts as it does
	v, err := s.Revocations.Lookup(ctx, &q)
	switch {
	case v == authz.Revoked:
		return nil, &authz.Failure{Reason: authz.ReasonRevoked, Detail: "the key of the message has been revoked"}
	case v == authz.NotRevoked && err == nil:
		return t, nil
	}
	detail := "nobody could tell whether the key of the message has been revoked"
	if err != nil {
		detail += ": " + err.Error()
	}
	return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: detail}
}
