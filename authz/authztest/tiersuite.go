package authztest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// TierSubject is a tier under test.
type TierSubject struct {
	Tier authz.Tier
	// Revoke stores or publishes revocations. When it returns, the tier must see them.
	Revoke func(ctx context.Context, revocations ...authz.Revocation) error
	// Authority: the tier answers NotRevoked for a token that is not revoked. Without
	// it, as for a cache, Unknown is good, too.
	Authority bool
	// Lossy: the tier may answer Unknown for a revoked token, as a cache does that
	// knows only single tokens.
	Lossy bool
	// Immediate: LookupNow has proof wherever Lookup has. Without it, LookupNow never
	// has any, because the tier has to ask somebody.
	Immediate bool
}

// TestTier runs the contract of authz.Tier.
func TestTier(t *testing.T, open func(t *testing.T) TierSubject) {
	t.Helper()
	runCases(t, open(t), TierCases())
}

// TierCases are the cases that TestTier runs.
func TierCases() []Case[TierSubject] {
	return []Case[TierSubject]{
		{"has a name", tierName},
		{"each kind revokes what it names and nothing else", tierKinds},
		{"the strictest of two levels wins", tierLevels},
		{"issuers do not touch each other", tierIssuers},
		{"same second, missing iat", tierSameSecond},
		{"every text is its own", tierTexts},
		{"revokes until it expires", tierExpiry},
		{"any of the keys", tierAnyKey},
		{"a caller who left", tierCanceled},
		{"does not touch the query", tierQuery},
		{"revoked means revoked, under concurrency", tierConcurrent},
		{"the tokens of every issuer", tierAllIssuers},
		{"says without waiting what it can prove", tierNow},
	}
}

// token describes a token that a case asks about.
type token struct {
	iss, jti, sub, sid, kid, raw string
	client, actor, tenant        string
	iat                          int64
}

func (k token) query() *authz.Query {
	t := authz.Token{Raw: k.raw + ".x", Issuer: k.iss, ID: k.jti, Subject: k.sub, Session: k.sid, KeyID: k.kid, IssuedAt: k.iat, Expires: time.Now().Add(time.Hour).Unix()}
	t.Claims = map[string]any{"client_id": k.client, "act": map[string]any{"sub": "first", "act": map[string]any{"sub": k.actor}}, suiteClaim: k.tenant}
	names, _ := authz.ClaimNames(t.Claims, []string{suiteClaim})
	t.SetKeys(authz.KeysOf(t.Issuer, names)...)
	q := t.Query()
	return &q
}

// with returns a token that a revocation of the kind and value matches.
func (k token) with(kind authz.Kind, value string) token {
	switch kind {
	case authz.KindJTI:
		k.jti = value
	case authz.KindSub:
		k.sub = value
	case authz.KindSID:
		k.sid = value
	case authz.KindKID:
		k.kid = value
	case authz.KindToken:
		k.raw = value
	case authz.KindClient:
		k.client = value
	case authz.KindActor:
		k.actor = value
	case authz.KindClaim:
		k.tenant = value
	}
	return k
}

// expect compares the verdict about the token with want.
func (s TierSubject) expect(ctx context.Context, k token, want authz.Verdict) error {
	v, err := s.Tier.Lookup(ctx, k.query())
	switch {
	case err != nil && v != authz.Unknown:
		return fmt.Errorf("the verdict %s together with an error: %w", v, err)
	case err != nil:
		return err
	case v == want:
		return nil
	case want == authz.NotRevoked && v == authz.Unknown && !s.Authority:
		return nil
	case want == authz.Revoked && v == authz.Unknown && s.Lossy:
		return nil
	}
	return fmt.Errorf("%s, want %s", v, want)
}

func someone(iss string) token {
	return token{iss: iss, jti: "other", sub: "other", sid: "other", kid: "other", raw: "other.other", client: "other", actor: "other", tenant: "other", iat: time.Now().Unix() - 60}
}

func tierName(_ context.Context, s TierSubject) error {
	name := s.Tier.Name()
	for _, c := range name {
		if c < 'a' || c > 'z' {
			return fmt.Errorf("%q is not a lower-case word", name)
		}
	}
	if name == "" || len(name) > 20 || s.Tier.Name() != name {
		return fmt.Errorf("%q is not a short constant", name)
	}
	return nil
}

func tierKinds(ctx context.Context, s TierSubject) error {
	var bad collect
	for _, kind := range kinds {
		iss := issuerFor("kinds-" + kind.String())
		hit := someone(iss).with(kind, "hit")
		if err := s.expect(ctx, hit, authz.NotRevoked); err != nil {
			bad.addf("%s before: %w", kind, err)
		}
		if err := s.Revoke(ctx, of(kind, iss, "hit")); err != nil {
			return err
		}
		if err := s.expect(ctx, hit, authz.Revoked); err != nil {
			bad.addf("%s: %w", kind, err)
		}
		if kind == authz.KindIss {
			continue
		}
		if err := s.expect(ctx, someone(iss), authz.NotRevoked); err != nil {
			bad.addf("%s, another value: %w", kind, err)
		}
		for _, other := range kinds {
			if other == kind || other == authz.KindIss {
				continue
			}
			// The same text in another claim.
			if err := s.expect(ctx, someone(iss).with(other, "hit"), authz.NotRevoked); err != nil {
				bad.addf("%s, asked as %s: %w", kind, other, err)
			}
		}
	}
	return bad.err()
}

// tierLevels revokes with every pair of not_before values, in both orders.
func tierLevels(ctx context.Context, s TierSubject) error {
	var bad collect
	base := time.Now().Unix() - 3600
	levels := []int64{0, base, base + 1, base + 10} // 0: none
	iss := issuerFor("levels")
	for _, kind := range kinds {
		for i, a := range levels {
			for j, b := range levels {
				value := fmt.Sprintf("%d-%d", i, j)
				at := iss
				if kind == authz.KindIss {
					at = iss + "/" + value
				}
				strictest := max(a, b)
				if a == 0 || b == 0 {
					strictest = authz.Always
				}
				for _, level := range []int64{a, b} {
					r := of(kind, at, value)
					if level > 0 {
						r.NotBefore = time.Unix(level, 0)
					} else if kind.ByTime() {
						r.NotBefore = time.Unix(base+100, 0) // these need a level: the highest
						strictest = base + 100
					}
					if err := s.Revoke(ctx, r); err != nil {
						return err
					}
				}
				for _, iat := range []int64{0, base - 1, base, base + 1, base + 9, base + 10, base + 99, base + 100} {
					k := someone(at).with(kind, value)
					k.iat = iat
					want := authz.NotRevoked
					if iat < strictest {
						want = authz.Revoked
					}
					if err := s.expect(ctx, k, want); err != nil {
						bad.addf("%s, levels %d and %d, iat %d: %w", kind, a, b, iat, err)
					}
				}
			}
		}
	}
	return bad.err()
}

func tierIssuers(ctx context.Context, s TierSubject) error {
	var bad collect
	a, b := issuerFor("a"), issuerFor("b")
	for _, kind := range kinds {
		if err := s.Revoke(ctx, of(kind, a+kind.String(), "same")); err != nil {
			return err
		}
		if err := s.expect(ctx, someone(a+kind.String()).with(kind, "same"), authz.Revoked); err != nil {
			bad.addf("%s: %w", kind, err)
		}
		if err := s.expect(ctx, someone(b+kind.String()).with(kind, "same"), authz.NotRevoked); err != nil {
			bad.addf("%s, another issuer: %w", kind, err)
		}
	}
	// The boundary between two names must count.
	if err := s.Revoke(ctx, of(authz.KindJTI, a, "b:c")); err != nil {
		return err
	}
	for _, k := range []token{{iss: a + ":b", jti: "c"}, {iss: a + ":b:c", jti: ""}, {iss: a, jti: "b"}} {
		k.iat = someone(a).iat
		if err := s.expect(ctx, k, authz.NotRevoked); err != nil {
			bad.addf("%q, %q: %w", k.iss, k.jti, err)
		}
	}
	return bad.err()
}

func tierSameSecond(ctx context.Context, s TierSubject) error {
	var bad collect
	iss := issuerFor("second")
	second := time.Now().Unix() - 100
	r := of(authz.KindSub, iss, "alice")
	r.NotBefore = time.Unix(second, 300_000_000)
	if err := s.Revoke(ctx, r); err != nil {
		return err
	}
	for _, c := range []struct {
		iat  int64
		want authz.Verdict
	}{
		{0, authz.Revoked}, // no iat: it may be of any age
		{second - 1, authz.Revoked},
		{second, authz.Revoked}, // issued in the same second, perhaps before not_before
		{second + 1, authz.NotRevoked},
	} {
		k := someone(iss).with(authz.KindSub, "alice")
		k.iat = c.iat
		if err := s.expect(ctx, k, c.want); err != nil {
			bad.addf("iat %d, not_before %d.3: %w", c.iat, second, err)
		}
	}
	// With a not_before on the second, tokens of that second were issued at it or later.
	r = of(authz.KindSub, iss, "bob")
	r.NotBefore = time.Unix(second, 0)
	if err := s.Revoke(ctx, r); err != nil {
		return err
	}
	k := someone(iss).with(authz.KindSub, "bob")
	k.iat = second
	if err := s.expect(ctx, k, authz.NotRevoked); err != nil {
		bad.addf("iat = not_before: %w", err)
	}
	return bad.err()
}

func tierTexts(ctx context.Context, s TierSubject) error {
	var bad collect
	iss := issuerFor("texts")
	texts := oddTexts()
	for i, text := range texts {
		if i%2 == 1 {
			continue
		}
		if err := s.Revoke(ctx, of(authz.KindJTI, iss, text), of(authz.KindSID, iss+text, text)); err != nil && len(iss+text) <= 1024 {
			return fmt.Errorf("%.20q: %w", text, err)
		} else if err != nil {
			if err := s.Revoke(ctx, of(authz.KindJTI, iss, text)); err != nil {
				return fmt.Errorf("%.20q: %w", text, err)
			}
		}
	}
	for i, text := range texts {
		want := authz.Revoked
		if i%2 == 1 {
			want = authz.NotRevoked
		}
		if err := s.expect(ctx, someone(iss).with(authz.KindJTI, text), want); err != nil {
			bad.addf("jti %.20q: %w", text, err)
		}
		if len(iss+text) > 1024 {
			continue
		}
		if err := s.expect(ctx, someone(iss+text).with(authz.KindSID, text), want); err != nil {
			bad.addf("sid %.20q: %w", text, err)
		}
	}
	return bad.err()
}

func tierExpiry(ctx context.Context, s TierSubject) error {
	iss := issuerFor("expiry")
	r := of(authz.KindJTI, iss, "short")
	r.ExpiresAt = time.Now().Add(1200 * time.Millisecond)
	if err := s.Revoke(ctx, r); err != nil {
		return err
	}
	long := of(authz.KindJTI, iss, "long")
	long.ExpiresAt = time.Now().Add(1200 * time.Millisecond)
	if err := s.Revoke(ctx, long); err != nil {
		return err
	}
	long.ExpiresAt = time.Now().Add(time.Hour)
	if err := s.Revoke(ctx, long); err != nil {
		return err
	}
	for {
		err := s.expect(ctx, someone(iss).with(authz.KindJTI, "short"), authz.Revoked)
		if !time.Now().Before(r.ExpiresAt) {
			break // too late to count
		}
		if err != nil {
			return fmt.Errorf("%s before it expires: %w", time.Until(r.ExpiresAt), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := s.expect(ctx, someone(iss).with(authz.KindJTI, "long"), authz.Revoked); err != nil {
		return fmt.Errorf("a revocation whose expiry was extended: %w", err)
	}
	return nil
}

func tierAnyKey(ctx context.Context, s TierSubject) error {
	var bad collect
	for _, kind := range kinds {
		iss := issuerFor("any-" + kind.String())
		k := token{iss: iss, jti: "j", sub: "s", sid: "i", kid: "k", raw: "r.r", client: "c", actor: "a", tenant: "t", iat: time.Now().Unix() - 60}
		value := map[authz.Kind]string{authz.KindJTI: "j", authz.KindSub: "s", authz.KindSID: "i", authz.KindKID: "k", authz.KindToken: "r.r", authz.KindClient: "c", authz.KindActor: "a", authz.KindClaim: "t"}[kind]
		if err := s.Revoke(ctx, of(kind, iss, value)); err != nil {
			return err
		}
		if err := s.expect(ctx, k, authz.Revoked); err != nil {
			bad.addf("%s alone: %w", kind, err)
		}
	}
	return bad.err()
}

// tierAllIssuers revokes everything from before a time that no token of another
// case is as old as.
func tierAllIssuers(ctx context.Context, s TierSubject) error {
	before := time.Now().Add(-12 * time.Hour).Unix()
	r := authz.Revocation{Kind: authz.KindAll, NotBefore: time.Unix(before, 0), RevokedBy: "authztest"}
	if err := s.Revoke(ctx, r); err != nil {
		return err
	}
	for _, iss := range []string{issuerFor("all-1"), issuerFor("all-2")} {
		for iat, want := range map[int64]authz.Verdict{before - 1: authz.Revoked, before: authz.NotRevoked} {
			k := someone(iss)
			k.iat = iat
			if err := s.expect(ctx, k, want); err != nil {
				return fmt.Errorf("%s, issued at %d: %w", iss, iat, err)
			}
		}
	}
	return nil
}

func tierCanceled(ctx context.Context, s TierSubject) error {
	iss := issuerFor("canceled")
	if err := s.Revoke(ctx, of(authz.KindJTI, iss, "v")); err != nil {
		return err
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	v, err := s.Tier.Lookup(gone, someone(iss).with(authz.KindJTI, "v").query())
	if v == authz.NotRevoked || err != nil && v != authz.Unknown {
		return fmt.Errorf("%s, error %w", v, err)
	}
	// There is an answer by the deadline.
	soon, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = s.Tier.Lookup(soon, someone(iss).with(authz.KindJTI, "v").query())
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		<-done
		return fmt.Errorf("no answer long after the deadline")
	}
	if v == authz.NotRevoked || err != nil && v != authz.Unknown {
		return fmt.Errorf("with a deadline: %s, error %w", v, err)
	}
	return nil
}

func tierQuery(ctx context.Context, s TierSubject) error {
	q := someone(issuerFor("query")).query()
	before := *q
	before.Keys = slices.Clone(q.Keys)
	if _, err := s.Tier.Lookup(ctx, q); err != nil {
		return err
	}
	if !slices.Equal(q.Keys, before.Keys) || q.TokenKey != before.TokenKey || q.IssuedAt != before.IssuedAt || q.Expires != before.Expires {
		return fmt.Errorf("the query was changed")
	}
	return nil
}

func tierConcurrent(ctx context.Context, s TierSubject) error {
	var bad collect
	var mu sync.Mutex
	var wg sync.WaitGroup
	iss := issuerFor("concurrent")
	for w := range 6 {
		wg.Go(func() {
			for i := range 15 {
				value := fmt.Sprintf("%d-%d", w, i)
				k := someone(iss).with(authz.KindJTI, value)
				err := s.expect(ctx, k, authz.NotRevoked)
				if err == nil {
					err = s.Revoke(ctx, of(authz.KindJTI, iss, value))
				}
				for range 3 {
					if err == nil {
						err = s.expect(ctx, k, authz.Revoked)
					}
				}
				if err != nil {
					mu.Lock()
					bad.addf("%s: %w", value, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return bad.err()
}

// tierNow asks without waiting about a token before and after its revocation.
func tierNow(ctx context.Context, s TierSubject) error {
	iss := issuerFor("now")
	hit, other := someone(iss).with(authz.KindJTI, "hit"), someone(iss)
	var bad collect
	for _, step := range []struct {
		when string
		k    token
	}{{"before", hit}, {"after", hit}, {"another token", other}} {
		if step.when == "after" {
			if err := s.Revoke(ctx, of(authz.KindJTI, iss, "hit")); err != nil {
				return err
			}
		}
		want, err := s.Tier.Lookup(ctx, step.k.query())
		if err != nil {
			return err
		}
		q, untouched := step.k.query(), step.k.query()
		v, proven := s.Tier.LookupNow(q)
		switch {
		case !slices.Equal(q.Keys, untouched.Keys):
			bad.addf("%s: it changed the query", step.when)
		case !proven && v != authz.Unknown:
			bad.addf("%s: %s without proof", step.when, v)
		case proven && v != want:
			bad.addf("%s: %s at once, but %s after a wait", step.when, v, want)
		case proven && !s.Immediate:
			bad.addf("%s: proof without asking anybody", step.when)
		case !proven && s.Immediate && want != authz.Unknown:
			bad.addf("%s: it would wait to say %s", step.when, want)
		}
	}
	return bad.err()
}
