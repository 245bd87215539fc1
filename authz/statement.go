package authz

import (
	"context"
	"slices"
)

// Statement is a signed message about tokens or sessions rather than a
// credential: a back-channel logout token or a security event (RFC 8417). Its
// typ keeps it apart from access tokens (RFC 8725, section 3.11).
type Statement struct {
	Types       []string // values of typ, as IssuerConfig.Types; needed
	Audiences   []string // one of them must be in aud; empty: the issuer's
	ExpOptional bool     // without exp, iat must be no older than max_token_ttl
	// Issuer, when not empty, is who signed a message that is no JWT in the
	// sense of RFC 7519 and names no issuer (Keycloak's admin actions). A
	// message with iss is refused then, and audience and times are the
	// caller's to check, because they stand under other names.
	Issuer string
	// DefaultIssuer is who signed a message that names no issuer although it may;
	// empty: it must.
	DefaultIssuer string
	// What is published rather than sent to somebody has no audience and may
	// be signed for long; the caller bounds its use.
	AnyAudience bool
	AnyLifetime bool
	MaxBytes    int // 0: as for tokens
}

func (s *Statement) foreign() bool { return s != nil && s.Issuer != "" }

// VerifyStatement checks a message as Verify checks a token, and its audience.
func (v *JWTVerifier) VerifyStatement(ctx context.Context, raw string, s Statement) (*Token, error) {
	if len(s.Types) == 0 {
		return nil, &Failure{Reason: ReasonInternal, Detail: "no typ is expected"}
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
		return nil, &Failure{Reason: ReasonWrongAudience, Detail: "the message is for another audience"}
	}
	return t, nil
}

// Speakers verifies tokens and statements, and of statements that the key they
// are signed with has not been revoked by its kid: whoever stole it must not
// speak for the issuer until the key is withdrawn.
type Speakers struct {
	*JWTVerifier
	Revocations Tier
}

// VerifyStatement checks a message as JWTVerifier does. What nobody can tell
// about the key is ReasonRevocationUnknown.
func (s Speakers) VerifyStatement(ctx context.Context, raw string, st Statement) (*Token, error) {
	t, err := s.JWTVerifier.VerifyStatement(ctx, raw, st)
	if err != nil {
		return nil, err
	}
	q := t.Query()
	q.ID = ""     // it is the message's, not a token's
	q.Expires = 0 // a statement may be good for longer than any token; the key's revocation lasts as it does
	v, err := s.Revocations.Lookup(ctx, &q)
	switch {
	case v == Revoked:
		return nil, &Failure{Reason: ReasonRevoked, Detail: "the key of the message has been revoked"}
	case v == NotRevoked && err == nil:
		return t, nil
	}
	detail := "nobody could tell whether the key of the message has been revoked"
	if err != nil {
		detail += ": " + err.Error()
	}
	return nil, &Failure{Reason: ReasonRevocationUnknown, Detail: detail}
}
