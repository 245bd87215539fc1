package authz

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
