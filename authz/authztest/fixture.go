package authztest

import (
	"context"
	"encoding/base64"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/explain"
	"jwtbouncer/authz/issuer"
)

// StartIssuer returns an Issuer that the test closes.
func StartIssuer(t testing.TB, options ...Option) *Issuer {
	t.Helper()
	iss := NewIssuer(options...)
	t.Cleanup(iss.Close)
	return iss
}

// NewVerifier returns a verifier of iss with its keys fetched.
func NewVerifier(t testing.TB, iss *Issuer, change ...func(*issuer.Config)) *issuer.Verifier {
	t.Helper()
	cfg := issuer.Config{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}
	for _, f := range change {
		f(&cfg)
	}
	v, err := issuer.NewVerifier([]issuer.Config{cfg}, issuer.VerifierOptions{})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	require.NoError(t, v.Refresh(t.Context()))
	return v
}

// Verify is v.Verify, with AwaitKeys.
func Verify(t testing.TB, v authz.Verifier, raw string) (*authz.Token, error) {
	t.Helper()
	return AwaitKeys(func() (*authz.Token, error) { return v.Verify(t.Context(), raw) })
}

// AwaitKeys repeats verify for up to a minute while the issuer's keys are being
// fetched: a check waits for a fetch for a moment only, and a loaded machine may
// need longer.
func AwaitKeys(verify func() (*authz.Token, error)) (*authz.Token, error) {
	for deadline := time.Now().Add(time.Minute); ; {
		token, err := verify()
		if ReasonOf(err) != authz.ReasonKeysUnavailable || time.Now().After(deadline) {
			return token, err
		}
	}
}

// NewExplainer explains the decisions of an Authorizer without a token cache.
func NewExplainer(p authz.Policy, v authz.Verifier, revocations authz.Tier) explain.Explainer {
	return explain.Explainer{Authorizer: authz.NewAuthorizer(v, nil, revocations, p, authz.SystemClock{}), Revocations: revocations}
}

// ReasonOf returns the reason of the failure that err wraps; ReasonUnset: it
// wraps none.
func ReasonOf(err error) authz.Reason {
	var f *authz.Failure
	if errors.As(err, &f) {
		return f.Reason
	}
	return authz.ReasonUnset
}

// Base64URL encodes as JOSE does (RFC 7515, section 2).
func Base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// BubbleClock tells the time of a synctest bubble that began at Start.
type BubbleClock struct{ Start time.Time }

// Now implements authz.Clock.
func (BubbleClock) Now() time.Time { return time.Now() }

// Boot implements authz.Clock.
func (c BubbleClock) Boot() time.Duration { return time.Since(c.Start) }

// MovableClock is the machine's clock, moved on by a test.
type MovableClock struct{ by atomic.Int64 }

// Now implements authz.Clock.
func (c *MovableClock) Now() time.Time { return time.Now().Add(time.Duration(c.by.Load())) }

// Boot implements authz.Clock.
func (c *MovableClock) Boot() time.Duration {
	return authz.SystemClock{}.Boot() + time.Duration(c.by.Load())
}

// Move moves the clock on by d.
func (c *MovableClock) Move(d time.Duration) { c.by.Add(int64(d)) }

// KeyTier is a tier with proof about every token: revoked are those with a key
// in the map.
type KeyTier map[authz.Key]bool

// Name implements authz.Tier.
func (KeyTier) Name() string { return "map" }

// Lookup implements authz.Tier.
func (k KeyTier) Lookup(_ context.Context, q *authz.Query) (authz.Verdict, error) {
	for _, key := range q.Keys {
		if k[key] {
			return authz.Revoked, nil
		}
	}
	return authz.NotRevoked, nil
}

// LookupNow implements authz.Tier.
func (k KeyTier) LookupNow(q *authz.Query) (authz.Verdict, bool) {
	v, err := k.Lookup(context.Background(), q)
	return v, err == nil
}

// FixedTier gives the same answer to every query. The zero FixedTier cannot
// tell.
type FixedTier struct {
	Verdict authz.Verdict
	Err     error
}

// Name implements authz.Tier.
func (FixedTier) Name() string { return "fixed" }

// Lookup implements authz.Tier.
func (f FixedTier) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	return f.Verdict, f.Err
}

// LookupNow implements authz.Tier.
func (f FixedTier) LookupNow(*authz.Query) (authz.Verdict, bool) {
	return f.Verdict, f.Err == nil && f.Verdict != authz.Unknown
}
