package authz

import (
	"context"
	"math"
	"time"
)

// Verdict is what a tier knows about a token's revocation.
type Verdict uint8

// The verdicts. The zero Verdict is Unknown, and Unknown denies.
const (
	Unknown    Verdict = iota // could not find out
	Revoked                   // proven revoked
	NotRevoked                // proven not revoked, as of no longer than max_staleness ago
)

func (v Verdict) String() string {
	switch v {
	case Revoked:
		return "revoked"
	case NotRevoked:
		return "not_revoked"
	}
	return "unknown"
}

// Query asks about one token. It must not be retained after Lookup returns.
type Query struct {
	// Keys are the keys of all revocations that could match the token.
	Keys []Key
	// TokenKey is the KindToken key; it is among Keys and identifies the token.
	TokenKey Key
	IssuedAt int64 // Unix seconds, rounded down; 0: the token has no iat
	Expires  int64 // Unix seconds, rounded up
	// Issuer and ID are the token's "iss" and "jti", for bridges to foreign
	// key layouts. They are the token's own words: never log or label them.
	Issuer, ID string
	// Status is the token's place in a status list of its issuer; nil: none.
	Status *StatusRef
}

// Lifetime is the time from iat to exp; 0: the token has no iat, or no end.
// About a token that lives longer than revocations without expiry are kept
// (max_token_ttl and LifetimeSlack), their absence says nothing.
func (q *Query) Lifetime() time.Duration {
	if q.IssuedAt == 0 {
		return 0
	}
	const most = int64(math.MaxInt64 / time.Second)
	return time.Duration(min(max(q.Expires-q.IssuedAt, 0), most)) * time.Second
}

// TokenLimit bounds the tokens for which the absence of a revocation is proof:
// those that live no longer than revocations are kept.
type TokenLimit struct {
	Max time.Duration // max_token_ttl in force; 0: unknown
	// RaisedFrom was in force until Raised (Unix seconds): what had been revoked
	// by then may have been deleted after that long. 0: Max was never raised.
	RaisedFrom time.Duration
	Raised     int64
}

// Covers reports whether every revocation of q's token is kept until the token
// expires. Tokens issued before a raise have to keep to the former limit as
// well; a minute is allowed for issuers whose clocks are ahead.
func (l TokenLimit) Covers(q *Query) bool {
	lifetime := q.Lifetime()
	switch {
	case l.Max <= 0:
		return true
	case lifetime > l.Max+LifetimeSlack:
		return false
	}
	return l.Raised == 0 || lifetime <= l.RaisedFrom+LifetimeSlack || q.IssuedAt > l.Raised+int64(LifetimeSlack/time.Second)
}

// Tier is one place that may know whether a token is revoked.
type Tier interface {
	// Name is a constant, short, lower-case word for metrics and logs:
	// "replica", "redis", "postgres", "sqlite".
	Name() string
	// Lookup answers for one token. Unknown with a nil error means that this
	// tier cannot tell (a miss in a cache); Unknown with an error, that it
	// failed. An implementation returns Revoked or NotRevoked only with a nil
	// error and only with proof, and never returns later than ctx's deadline
	// by more than scheduling noise.
	Lookup(ctx context.Context, q *Query) (Verdict, error)
}

// Filler is a Tier that learns what a later tier proved.
type Filler interface {
	// Begin is called before later tiers are asked. The mark is the boot time
	// (Clock.Boot) of the call; no verdict of a later tier is older. ok is false
	// when the filler cannot learn now.
	Begin(ctx context.Context, q *Query) (mark time.Duration, ok bool)
	// Fill hands over a verdict that a later tier proved after Begin returned
	// mark. It must neither block its caller nor keep q.Keys: the work is done in
	// the background within the filler's own bounds, or dropped.
	Fill(q Query, verdict Verdict, mark time.Duration)
}
