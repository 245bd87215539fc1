package authz

import "time"

// Limits that several packages, and the SQL of the store, have to agree on. A
// test of the store holds its SQL to them.
const (
	// MaxTokenBytes is the longest token that can be accepted, or revoked by its
	// text. Envoy accepts at most 60 KiB of request headers by default.
	MaxTokenBytes = 60 << 10

	// LastSecond is 9999-12-31T23:59:59Z in Unix seconds, the last time that
	// RFC 3339 can express. Later NumericDates are refused, and a revocation
	// that never ends is stored with it.
	LastSecond = 253402300799

	// ExpiryGrace is how long an expired revocation is still enforced, in case a
	// verifier's leeway or a skewed clock lets a token outlive its expiry.
	ExpiryGrace = 5 * time.Minute

	// ExpiredKept is how long the authority retains an expired revocation. It
	// must exceed ExpiryGrace and MaxClockLag.
	ExpiredKept = time.Hour

	// LifetimeSlack is how far rounding and leeway may stretch a token's lifetime
	// beyond max_token_ttl. It must be below ExpiryGrace.
	LifetimeSlack = time.Minute

	// MaxClockLag is how far a sidecar's wall clock may be behind the authority's.
	// A slower sidecar proves nothing, because the authority may have deleted
	// revocations that have not expired by its clock.
	MaxClockLag = 30 * time.Minute

	// MaxLeeway is the longest leeway that an issuer may be given. It must be below
	// ExpiryGrace, so that no token outlives its revocation.
	MaxLeeway = 2 * time.Minute

	// FutureLeeway is how far nbf and iat may always lie in the future, because an
	// issuer's clock may be slightly ahead.
	FutureLeeway = 5 * time.Second
)
