package authz

import "time"

// Limits that several packages, and the SQL of the store, have to agree on. A
// test of the store holds its SQL to them.
const (
	// LastSecond is 9999-12-31T23:59:59Z in Unix seconds, the last time that
	// RFC 3339 can express. Later NumericDates are refused, and a revocation
	// that never ends is stored with it.
	LastSecond = 253402300799

	// ExpiryGrace is how long an expired revocation is still enforced, so that
	// neither a verifier's leeway nor a skewed clock reopens a token's last
	// moments.
	ExpiryGrace = 5 * time.Minute

	// ExpiredKept is how long the authority keeps an expired revocation before
	// it deletes it. It has to exceed ExpiryGrace and MaxClockLag.
	ExpiredKept = time.Hour

	// LifetimeSlack is by how much rounding and leeway may stretch a token's
	// lifetime beyond max_token_ttl; revocations are enforced for ExpiryGrace
	// longer.
	LifetimeSlack = time.Minute

	// MaxClockLag is how far a wall clock may be behind the authority's for its
	// owner to prove anything: by ExpiredKept after their expiry, the authority
	// deletes revocations that may still matter by a slower clock.
	MaxClockLag = 30 * time.Minute

	// MaxLeeway is the longest leeway that an issuer may be given. It has to be
	// below ExpiryGrace, so that no token outlives its revocation.
	MaxLeeway = 2 * time.Minute

	// FutureLeeway is how far nbf and iat may always lie in the future: a token
	// minted this moment by an issuer whose clock is slightly ahead is no attack.
	FutureLeeway = 5 * time.Second
)
