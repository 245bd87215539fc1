package authz

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
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
	// Issuer and ID are the token's "iss" and "jti", for foreign key layouts. An
	// attacker may choose them: never log or label them.
	Issuer, ID string
	// Status is the token's place in a status list of its issuer; nil: none.
	Status *StatusRef
}

// Lifetime is the time from iat to exp; 0: the token has no iat, or no exp.
func (q *Query) Lifetime() time.Duration {
	if q.IssuedAt == 0 {
		return 0
	}
	const most = int64(math.MaxInt64 / time.Second)
	return time.Duration(min(max(q.Expires-q.IssuedAt, 0), most)) * time.Second
}

// Hash identifies the whole question, for caches of verdicts: the first 16 bytes
// of SHA-256 over every field of q. A verdict answers no other question, not even
// one about the same token: a JWT that is introspected has other names, or another
// iat, than where it is only verified.
func (q *Query) Hash() Key {
	text := func(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b := append(make([]byte, 0, 384), "query:"...) // what RevocationKey hashes begins with a digit
	b = binary.AppendUvarint(b, uint64(len(q.Keys)))
	for i := range q.Keys {
		b = append(b, q.Keys[i][:]...)
	}
	b = append(b, q.TokenKey[:]...)
	b = binary.AppendVarint(b, q.IssuedAt)
	b = binary.AppendVarint(b, q.Expires)
	b = text(text(b, q.Issuer), q.ID)
	if q.Status != nil {
		b = binary.AppendUvarint(text(b, q.Status.URI), q.Status.Index)
	}
	sum := sha256.Sum256(b)
	return Key(sum[:16])
}

// TokenLimit bounds the lifetime of tokens for which the absence of a revocation
// is proof. Revocations without expiry are retained for Max.
type TokenLimit struct {
	Max        time.Duration // max_token_ttl in force; 0: unknown
	RaisedFrom time.Duration // Max before it was raised
	Raised     int64         // when, in Unix seconds; 0: never
}

// Covers reports whether every revocation of q's token is retained until the
// token expires. A token issued before a raise must also keep to RaisedFrom,
// because its revocations may have been deleted by then; LifetimeSlack allows
// for issuers' clocks that are ahead.
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
	// Lookup returns the verdict on one token. Unknown with a nil error means that
	// the tier cannot tell (a miss in a cache); Unknown with an error, that it
	// failed. It returns Revoked or NotRevoked only with proof and a nil error, and
	// it ends by ctx's deadline. Callers deny on Revoked whatever the error.
	Lookup(ctx context.Context, q *Query) (Verdict, error)
	// LookupNow returns the verdict that Lookup would return, if memory alone proves
	// it: Revoked or NotRevoked, and true. Otherwise it returns Unknown and false,
	// and has had no effect. It never blocks.
	LookupNow(q *Query) (v Verdict, proven bool)
}

// AlwaysWaits is LookupNow of a tier that proves nothing from memory; such a tier
// embeds it.
type AlwaysWaits struct{}

// LookupNow implements Tier.
func (AlwaysWaits) LookupNow(*Query) (Verdict, bool) { return Unknown, false }

// Filler is a Tier that stores what a later tier proved.
type Filler interface {
	// Begin is called before later tiers. The mark is the boot time (Clock.Boot) of
	// the call; no verdict of a later tier is older. ok is false if the filler
	// cannot store a verdict now.
	Begin(ctx context.Context, q *Query) (mark time.Duration, ok bool)
	// Fill passes a verdict that a later tier proved after Begin returned mark. It
	// must neither block nor retain q.Keys: it stores the verdict in the background
	// within the filler's own bounds, or drops it.
	Fill(q Query, verdict Verdict, mark time.Duration)
}
