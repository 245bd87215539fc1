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
	t, err := v.verify(ctx, raw, &s)
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
