package authz

// SecurityEventRules say what a security event token has to be: a signed
// message about tokens or sessions rather than a credential, such as a
// back-channel logout token or a security event (RFC 8417). Its typ keeps it
// apart from access tokens (RFC 8725, section 3.11).
type SecurityEventRules struct {
	Types       []string // values of typ, as the issuer configuration; needed
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
