package authztest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// TestLedger runs the contract of authz.Ledger on what open returns, and that
// of authz.Lister if it implements that too. The ledger need not be empty.
func TestLedger(t *testing.T, open func(t *testing.T) authz.Ledger) {
	t.Helper()
	runCases(t, open(t), LedgerCases())
}

// LedgerCases are the clauses TestLedger runs.
func LedgerCases() []Case[authz.Ledger] {
	return []Case[authz.Ledger]{
		{"fills what was left out", ledgerFills},
		{"returns the fleet's bound", ledgerBound},
		{"is idempotent", ledgerIdempotent},
		{"keeps the later expiry", ledgerLaterExpiry},
		{"distinguishes not_before values", ledgerNotBefores},
		{"answers in the given order, duplicates included", ledgerOrder},
		{"stores all or none", ledgerAllOrNone},
		{"refuses what is malformed", ledgerInvalid},
		{"never rounds to the lenient side", ledgerRounding},
		{"keeps every text as it is", ledgerTexts},
		{"takes large batches", ledgerLarge},
		{"takes nothing without complaint", ledgerEmpty},
		{"stores once under concurrency", ledgerConcurrent},
		{"does not store for a caller that has left", ledgerCanceled},
		{"lists newest first, page by page", ledgerPages},
		{"lists by filter", ledgerFilters},
		{"lists by prefix", ledgerPrefixes},
		{"lists by time and requester", ledgerRequesters},
		{"hides expired ones unless requested", ledgerExpired},
		{"refuses a malformed page", ledgerBadPage},
	}
}

func append1(ctx context.Context, l authz.Ledger, r authz.Revocation) (authz.Revocation, error) {
	got, err := l.Append(ctx, []authz.Revocation{r})
	if err != nil {
		return authz.Revocation{}, err
	}
	if len(got.Revocations) != 1 {
		return authz.Revocation{}, fmt.Errorf("%d revocations came back for one", len(got.Revocations))
	}
	return got.Revocations[0], nil
}

func ledgerFills(ctx context.Context, l authz.Ledger) error {
	var bad collect
	iss := issuerFor("fills")
	for _, kind := range kinds {
		before := time.Now()
		in := of(kind, iss, "v")
		in.Reason = "why"
		r, err := append1(ctx, l, in)
		if err != nil {
			bad.addf("%s: %w", kind, err)
			continue
		}
		if r.ID == "" {
			bad.addf("%s: no ID", kind)
		}
		// The ledger's clock may be another machine's.
		if d := r.RevokedAt.Sub(before); d < -time.Minute || d > time.Minute {
			bad.addf("%s: revoked_at %s", kind, r.RevokedAt)
		}
		if !r.ExpiresAt.After(before.Add(time.Minute)) {
			bad.addf("%s: expires_at %s", kind, r.ExpiresAt)
		}
		if timed := kind.ByTime(); timed == r.NotBefore.IsZero() {
			bad.addf("%s: not_before %s", kind, r.NotBefore)
		} else if timed && r.NotBefore.Before(before.Add(-time.Minute)) {
			bad.addf("%s: not_before %s", kind, r.NotBefore)
		}
		if r.Kind != in.Kind || r.Issuer != in.Issuer || r.Value != in.Value || r.RevokedBy != in.RevokedBy || r.Reason != in.Reason {
			bad.addf("%s: changed into %+v", kind, r)
		}
	}
	// No token of another suite on the same ledger is as old.
	all, err := append1(ctx, l, authz.Revocation{Kind: authz.KindAll, NotBefore: time.Now().Add(-20 * time.Hour), RevokedBy: "authztest"})
	if err != nil || all.Kind != authz.KindAll || all.Issuer != "" || all.Value != "" {
		bad.addf("all issuers: %+v, %w", all, err)
	}
	// A key that is no longer trusted can sign old tokens for ever.
	if r, err := append1(ctx, l, of(authz.KindKID, iss, "withdrawn")); err != nil || r.ExpiresAt.Before(time.Now().AddDate(100, 0, 0)) {
		bad.addf("kid: expires_at %s, %v", r.ExpiresAt, err)
	}
	return bad.err()
}

func ledgerBound(ctx context.Context, l authz.Ledger) error {
	in := of(authz.KindJTI, issuerFor("bound"), "v")
	for range 2 { // stored anew, and stored already
		got, err := l.Append(ctx, []authz.Revocation{in})
		if err != nil || got.MaxStaleness <= 0 {
			return fmt.Errorf("max_staleness %s, error %w", got.MaxStaleness, err)
		}
	}
	return nil
}

func ledgerIdempotent(ctx context.Context, l authz.Ledger) error {
	var bad collect
	iss := issuerFor("idempotent")
	for _, kind := range kinds {
		in := of(kind, iss, "v")
		in.NotBefore = time.Now().Add(-time.Hour)
		in.ExpiresAt = time.Now().Add(time.Hour)
		first, err := append1(ctx, l, in)
		if err != nil {
			return err
		}
		in.Reason, in.RevokedBy = "another", "somebody else"
		second, err := append1(ctx, l, in)
		if err != nil {
			return err
		}
		if first != second {
			bad.addf("%s: first %+v, then %+v", kind, first, second)
		}
	}
	return bad.err()
}

func ledgerLaterExpiry(ctx context.Context, l authz.Ledger) error {
	var bad collect
	in := of(authz.KindJTI, issuerFor("later"), "v")
	base := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	latest := time.Time{}
	for _, minutes := range []int{10, 5, 20, 10, 20, 15} {
		in.ExpiresAt = base.Add(time.Duration(minutes) * time.Minute)
		if in.ExpiresAt.After(latest) {
			latest = in.ExpiresAt
		}
		got, err := append1(ctx, l, in)
		if err != nil {
			return err
		}
		if !got.ExpiresAt.Equal(latest) {
			bad.addf("requested %s: expires %s, want %s", in.ExpiresAt, got.ExpiresAt, latest)
		}
	}
	// Also within one batch.
	a, b := of(authz.KindJTI, in.Issuer, "w"), of(authz.KindJTI, in.Issuer, "w")
	a.ExpiresAt, b.ExpiresAt = base.Add(time.Hour), base
	appended, err := l.Append(ctx, []authz.Revocation{a, b})
	if err != nil {
		return err
	}
	if got := appended.Revocations; len(got) != 2 || !got[0].ExpiresAt.Equal(a.ExpiresAt) || got[0] != got[1] {
		bad.addf("in one batch: %+v", got)
	}
	// One without an expiry beside it, which is the ledger's to fill.
	none := of(authz.KindJTI, in.Issuer, "x")
	alone, err := append1(ctx, l, of(authz.KindJTI, in.Issuer, "y"))
	if err != nil {
		return err
	}
	for _, ahead := range []time.Duration{time.Minute, 7 * 24 * time.Hour} {
		own := none
		own.Value = "x" + ahead.String()
		without := own
		own.ExpiresAt = time.Now().Add(ahead).UTC().Truncate(time.Second)
		want := own.ExpiresAt
		if alone.ExpiresAt.After(want) {
			want = alone.ExpiresAt
		}
		for _, order := range [][]authz.Revocation{{own, without}, {without, own}} {
			appended, err := l.Append(ctx, order)
			if err != nil {
				return err
			}
			if got := appended.Revocations; len(got) != 2 || got[0].ExpiresAt.Before(want) || got[0] != got[1] {
				bad.addf("with and without an expiry in one batch: %+v, want %s at least", got, want)
			}
		}
	}
	return bad.err()
}

func ledgerNotBefores(ctx context.Context, l authz.Ledger) error {
	iss := issuerFor("not-before")
	at := time.Now().UTC().Truncate(time.Second)
	ids := map[string]string{}
	for _, nb := range []time.Time{{}, at, at.Add(time.Second), at.Add(time.Microsecond)} {
		in := of(authz.KindSID, iss, "v")
		in.NotBefore = nb
		got, err := append1(ctx, l, in)
		if err != nil {
			return err
		}
		if !got.NotBefore.Equal(nb) {
			return fmt.Errorf("not_before %s came back as %s", nb, got.NotBefore)
		}
		if other, taken := ids[got.ID]; taken {
			return fmt.Errorf("not_before %s and %s are one", nb, other)
		}
		ids[got.ID] = nb.String()
	}
	return nil
}

func ledgerOrder(ctx context.Context, l authz.Ledger) error {
	iss := issuerFor("order")
	var in []authz.Revocation
	for i := range 50 {
		in = append(in, of(authz.KindJTI, iss, fmt.Sprint((i*7)%25)))
	}
	given := append([]authz.Revocation(nil), in...)
	appended, err := l.Append(ctx, in)
	if err != nil {
		return err
	}
	got := appended.Revocations
	if len(got) != len(in) {
		return fmt.Errorf("%d came back for %d", len(got), len(in))
	}
	ids := map[string]string{}
	for i := range got {
		if got[i].Value != in[i].Value {
			return fmt.Errorf("place %d holds %q instead of %q", i, got[i].Value, in[i].Value)
		}
		if id, seen := ids[got[i].Value]; seen && id != got[i].ID {
			return fmt.Errorf("%q was stored twice", got[i].Value)
		}
		ids[got[i].Value] = got[i].ID
		if in[i] != given[i] {
			return fmt.Errorf("the caller's batch was changed at %d", i)
		}
	}
	return nil
}

func ledgerAllOrNone(ctx context.Context, l authz.Ledger) error {
	iss := issuerFor("allornone")
	in := []authz.Revocation{of(authz.KindJTI, iss, "good"), of(authz.KindJTI, iss, ""), of(authz.KindJTI, iss, "good too")}
	if _, err := l.Append(ctx, in); !errors.Is(err, authz.ErrInvalid) {
		return fmt.Errorf("a batch with a bad one: error %w", err)
	}
	lister, ok := l.(authz.Lister)
	if !ok {
		return nil
	}
	page, _, err := lister.List(ctx, authz.Filter{Issuer: iss})
	if err != nil || len(page) != 0 {
		return fmt.Errorf("a refused batch left %d behind, error %w", len(page), err)
	}
	return nil
}

func ledgerInvalid(ctx context.Context, l authz.Ledger) error {
	var bad collect
	iss := issuerFor("invalid")
	change := func(f func(*authz.Revocation)) authz.Revocation {
		r := of(authz.KindJTI, iss, "v")
		f(&r)
		return r
	}
	for name, r := range map[string]authz.Revocation{
		"zero":              {},
		"no kind":           change(func(r *authz.Revocation) { r.Kind = authz.KindUnknown }),
		"unknown kind":      change(func(r *authz.Revocation) { r.Kind = authz.KindAll + 1 }),
		"no issuer":         change(func(r *authz.Revocation) { r.Issuer = "" }),
		"no value":          change(func(r *authz.Revocation) { r.Value = "" }),
		"issuer of all":     change(func(r *authz.Revocation) { r.Kind, r.Value = authz.KindAll, "" }),
		"value of all":      change(func(r *authz.Revocation) { r.Kind, r.Issuer = authz.KindAll, "" }),
		"claim, no name":    change(func(r *authz.Revocation) { r.Kind, r.Value = authz.KindClaim, "=v" }),
		"claim, no value":   change(func(r *authz.Revocation) { r.Kind, r.Value = authz.KindClaim, "tenant=" }),
		"no claim":          change(func(r *authz.Revocation) { r.Kind, r.Value = authz.KindClaim, "tenant" }),
		"issuer with value": change(func(r *authz.Revocation) { r.Kind = authz.KindIss }),
		"NUL in value":      change(func(r *authz.Revocation) { r.Value = "a\x00b" }),
		"NUL in issuer":     change(func(r *authz.Revocation) { r.Issuer += "\x00" }),
		"NUL in reason":     change(func(r *authz.Revocation) { r.Reason = "\x00" }),
		"NUL in actor":      change(func(r *authz.Revocation) { r.RevokedBy = "\x00" }),
		"not UTF-8":         change(func(r *authz.Revocation) { r.Value = "\xff\xfe" }),
		"too long":          change(func(r *authz.Revocation) { r.Value = strings.Repeat("x", 1025) }),
		"not a hash":        change(func(r *authz.Revocation) { r.Kind = authz.KindToken }),
		"expired":           change(func(r *authz.Revocation) { r.ExpiresAt = time.Now().Add(-time.Second) }),
	} {
		got, err := l.Append(ctx, []authz.Revocation{r})
		if !errors.Is(err, authz.ErrInvalid) || len(got.Revocations) != 0 {
			bad.addf("%s: %v, %v", name, got, err)
		}
	}
	return bad.err()
}

func ledgerRounding(ctx context.Context, l authz.Ledger) error {
	in := of(authz.KindSub, issuerFor("rounding"), "v")
	in.NotBefore = time.Now().UTC().Truncate(time.Second).Add(999_999_001)
	in.ExpiresAt = in.NotBefore.Add(time.Hour)
	got, err := append1(ctx, l, in)
	if err != nil {
		return err
	}
	for what, times := range map[string][2]time.Time{"not_before": {in.NotBefore, got.NotBefore}, "expires_at": {in.ExpiresAt, got.ExpiresAt}} {
		if d := times[1].Sub(times[0]); d < 0 || d > time.Second {
			return fmt.Errorf("%s: requested %s, stored %s", what, times[0], times[1])
		}
	}
	return nil
}

func ledgerTexts(ctx context.Context, l authz.Ledger) error {
	var bad collect
	lister, lists := l.(authz.Lister)
	iss := issuerFor("texts")
	ids := map[string]string{}
	for _, text := range oddTexts() {
		in := of(authz.KindSID, iss, text)
		in.Reason, in.RevokedBy = text, text
		got, err := append1(ctx, l, in)
		if err != nil {
			bad.addf("%.20q: %w", text, err)
			continue
		}
		if got.Value != text || got.Reason != text || got.RevokedBy != text {
			bad.addf("%.20q came back as %.20q", text, got.Value)
		}
		if other, taken := ids[got.ID]; taken {
			bad.addf("%.20q and %.20q are one", text, other)
		}
		ids[got.ID] = text
		if !lists {
			continue
		}
		page, _, err := lister.List(ctx, authz.Filter{Kind: authz.KindSID, Issuer: iss, Value: text})
		if err != nil || len(page) != 1 || page[0] != got {
			bad.addf("%.20q listed: %d, %v", text, len(page), err)
		}
	}
	return bad.err()
}

func ledgerLarge(ctx context.Context, l authz.Ledger) error {
	iss := issuerFor("large")
	in := make([]authz.Revocation, 10_000)
	for i := range in {
		in[i] = of(authz.KindJTI, iss, fmt.Sprintf("jti-%d", i))
	}
	appended, err := l.Append(ctx, in)
	if err != nil {
		return err
	}
	got := appended.Revocations
	for i := range got {
		if got[i].Value != in[i].Value || got[i].ID == "" {
			return fmt.Errorf("place %d: %+v", i, got[i])
		}
	}
	if len(got) != len(in) {
		return fmt.Errorf("%d of %d", len(got), len(in))
	}
	return nil
}

func ledgerEmpty(ctx context.Context, l authz.Ledger) error {
	got, err := l.Append(ctx, nil)
	if err != nil || len(got.Revocations) != 0 {
		return fmt.Errorf("%v, error %w", got, err)
	}
	return nil
}

func ledgerConcurrent(ctx context.Context, l authz.Ledger) error {
	var bad collect
	var mu sync.Mutex
	var wg sync.WaitGroup
	iss := issuerFor("concurrent")
	ids := map[string]string{}
	for w := range 8 {
		wg.Go(func() {
			for round := range 5 {
				// Overlapping batches in different orders make naive writers deadlock.
				var in []authz.Revocation
				for i := range 40 {
					n := (i*(2*w+1) + round) % 41
					in = append(in, of(authz.KindJTI, iss, fmt.Sprint(n)))
				}
				got, err := l.Append(ctx, in)
				mu.Lock()
				if err != nil {
					bad.addf("writer %d: %w", w, err)
				}
				for _, r := range got.Revocations {
					if id, seen := ids[r.Value]; seen && id != r.ID {
						bad.addf("%s is stored as %s and as %s", r.Value, id, r.ID)
					}
					ids[r.Value] = r.ID
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return bad.err()
}

func ledgerCanceled(ctx context.Context, l authz.Ledger) error {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	in := of(authz.KindJTI, issuerFor("canceled"), "v")
	if _, err := l.Append(gone, []authz.Revocation{in}); err == nil {
		return errors.New("it stored for a caller that had left")
	}
	if lister, ok := l.(authz.Lister); ok {
		if page, _, err := lister.List(ctx, authz.Filter{Issuer: in.Issuer}); err != nil || len(page) != 0 {
			return fmt.Errorf("stored all the same: %d, error %w", len(page), err)
		}
	}
	return nil
}

// listing is what the cases about lists need; a ledger that does not list passes.
func listing(l authz.Ledger) (authz.Lister, bool) { lister, ok := l.(authz.Lister); return lister, ok }

func ledgerPages(ctx context.Context, l authz.Ledger) error {
	lister, ok := listing(l)
	if !ok {
		return nil
	}
	iss := issuerFor("pages")
	var want []string
	for i := range 23 {
		got, err := append1(ctx, l, of(authz.KindJTI, iss, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		want = append([]string{got.ID}, want...)
	}
	for _, limit := range []int{1, 5, 22, 23, 24, 1000} {
		var have []string
		after := ""
		for pages := 0; ; pages++ {
			if pages > len(want) {
				return fmt.Errorf("limit %d: no end", limit)
			}
			page, next, err := lister.List(ctx, authz.Filter{Issuer: iss, Limit: limit, After: after})
			if err != nil {
				return err
			}
			if len(page) > limit || len(page) == 0 && next != "" {
				return fmt.Errorf("limit %d: a page of %d, next %q", limit, len(page), next)
			}
			for _, r := range page {
				have = append(have, r.ID)
			}
			if next == "" {
				break
			}
			after = next
		}
		if strings.Join(have, " ") != strings.Join(want, " ") {
			return fmt.Errorf("limit %d: %v, want %v", limit, have, want)
		}
	}
	return nil
}

func ledgerFilters(ctx context.Context, l authz.Ledger) error {
	lister, ok := listing(l)
	if !ok {
		return nil
	}
	var bad collect
	a, b := issuerFor("filters-a"), issuerFor("filters-b")
	for _, iss := range []string{a, b} {
		for _, kind := range kinds {
			for _, value := range []string{"x", "y"} {
				if _, err := append1(ctx, l, of(kind, iss, value)); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range []struct {
		f    authz.Filter
		want int
	}{
		{authz.Filter{Issuer: a}, 2 * len(kinds)}, // iss twice: appended at two instants, two not_before values
		{authz.Filter{Issuer: a, Kind: authz.KindJTI}, 2},
		{authz.Filter{Issuer: a, Value: "x"}, len(kinds) - 3}, // all but iss, the hash and the claim
		{authz.Filter{Issuer: b, Kind: authz.KindSub, Value: "y"}, 1},
		{authz.Filter{Issuer: b, Kind: authz.KindIss}, 2},
		{authz.Filter{Issuer: b, Kind: authz.KindJTI, Value: "z"}, 0},
		{authz.Filter{Issuer: a + "x"}, 0},
	} {
		page, next, err := lister.List(ctx, c.f)
		if err != nil || next != "" || len(page) != c.want {
			bad.addf("%+v: %d, want %d; next %q, %v", c.f, len(page), c.want, next, err)
		}
		for _, r := range page {
			if c.f.Issuer != r.Issuer || c.f.Kind != 0 && c.f.Kind != r.Kind || c.f.Value != "" && c.f.Value != r.Value {
				bad.addf("%+v lists %+v", c.f, r)
			}
		}
	}
	return bad.err()
}

func ledgerRequesters(ctx context.Context, l authz.Ledger) error {
	lister, ok := listing(l)
	if !ok {
		return nil
	}
	var bad collect
	iss := issuerFor("requesters")
	var stored []authz.Revocation
	for _, actor := range []string{"cli:bob", "cli:bobby", "api:bob", "cli", "CLI:bob", `cl%:b_b`} {
		r := of(authz.KindJTI, iss, actor)
		r.RevokedBy = actor
		r, err := append1(ctx, l, r)
		if err != nil {
			return err
		}
		stored = append(stored, r)
	}
	for by, want := range map[string]int{"": 6, "cli:bob": 1, "cli:": 2, "cli": 1, "api:": 1, ":": 0, "bob": 0, "cl%:": 1, "%": 0} {
		page, _, err := lister.List(ctx, authz.Filter{Issuer: iss, By: by})
		if err != nil || len(page) != want {
			bad.addf("by %q: %d, want %d, %v", by, len(page), want, err)
		}
	}
	middle := stored[3].RevokedAt
	want := 0
	for _, r := range stored {
		if !r.RevokedAt.Before(middle) {
			want++
		}
	}
	for since, want := range map[time.Time]int{{}: 6, middle: want, middle.Add(time.Hour): 0, middle.Add(-time.Hour): 6} {
		page, _, err := lister.List(ctx, authz.Filter{Issuer: iss, Since: since})
		if err != nil || len(page) != want {
			bad.addf("since %s: %d, want %d, %v", since, len(page), want, err)
		}
	}
	return bad.err()
}

// ledgerPrefixes holds a list by prefix to the order of bytes, whatever language the
// server sorts by, and to pages that neither skip nor repeat.
func ledgerPrefixes(ctx context.Context, l authz.Ledger) error {
	lister, ok := listing(l)
	if !ok {
		return nil
	}
	var bad collect
	iss := issuerFor("prefixes")
	values := []string{"user", "user-1", "user-10", "user-2", "User-1", "usé", "us%r-1", "us_r-1", "uses", "use", "user\u007f", "user\ud7ff", "user\ue000", "user\U0010ffffx", "usf", `us\er`, "z", "\U0010ffff", "\U0010ffff\U0010ffff"}
	for _, v := range values {
		if _, err := append1(ctx, l, of(authz.KindJTI, iss, v)); err != nil {
			return err
		}
	}
	// Several of one value lie together, oldest first.
	base := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for i := range 4 {
		r := of(authz.KindSub, iss, "user-1")
		r.NotBefore = base.Add(time.Duration(i) * time.Second)
		if _, err := append1(ctx, l, r); err != nil {
			return err
		}
		values = append(values, r.Value)
	}
	slices.Sort(values)
	for _, prefix := range []string{"user", "user-", "user-1", "use", "us", "us%", "us_", `us\`, "U", "user\ud7ff", "user\U0010ffff", "\U0010ffff", "nobody", "usé"} {
		var want []string
		for _, v := range values {
			if strings.HasPrefix(v, prefix) {
				want = append(want, v)
			}
		}
		for _, limit := range []int{1, 3, 1000} {
			var have []string
			seen := map[string]bool{}
			f := authz.Filter{Issuer: iss, ValuePrefix: prefix, Limit: limit}
			for range len(values) + 1 {
				page, next, err := lister.List(ctx, f)
				if err != nil {
					return fmt.Errorf("prefix %q: %w", prefix, err)
				}
				for _, r := range page {
					have, seen[r.ID] = append(have, r.Value), true
				}
				if f.After = next; next == "" {
					break
				}
			}
			if !slices.Equal(have, want) || len(seen) != len(want) {
				bad.addf("prefix %q, limit %d: %q, want %q", prefix, limit, have, want)
			}
		}
	}
	page, _, err := lister.List(ctx, authz.Filter{Issuer: iss, ValuePrefix: "user", Kind: authz.KindSub})
	if err != nil || len(page) != 4 {
		bad.addf("of one kind: %d, %v", len(page), err)
	}
	if page, _, err := lister.List(ctx, authz.Filter{Issuer: issuerFor("others"), ValuePrefix: "user"}); err != nil || len(page) != 0 {
		bad.addf("of another issuer: %d, %v", len(page), err)
	}
	return bad.err()
}

func ledgerExpired(ctx context.Context, l authz.Ledger) error {
	lister, ok := listing(l)
	if !ok {
		return nil
	}
	iss := issuerFor("expired")
	in := of(authz.KindJTI, iss, "short")
	in.ExpiresAt = time.Now().Add(300 * time.Millisecond)
	if _, err := append1(ctx, l, in); err != nil {
		return err
	}
	if _, err := append1(ctx, l, of(authz.KindJTI, iss, "long")); err != nil {
		return err
	}
	for {
		page, _, err := lister.List(ctx, authz.Filter{Issuer: iss})
		if err != nil {
			return err
		}
		if len(page) == 1 && page[0].Value == "long" {
			break
		}
		if time.Since(in.ExpiresAt) > 3*time.Second { // two clocks may be involved
			return fmt.Errorf("still listed: %d", len(page))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	page, _, err := lister.List(ctx, authz.Filter{Issuer: iss, IncludeExpired: true})
	if err != nil || len(page) != 2 {
		return fmt.Errorf("with expired ones: %d, error %w", len(page), err)
	}
	return nil
}

func ledgerBadPage(ctx context.Context, l authz.Ledger) error {
	lister, ok := listing(l)
	if !ok {
		return nil
	}
	var bad collect
	for _, f := range []authz.Filter{{Limit: -1}, {Limit: 1001}, {After: "no cursor"}, {After: "-1"}, {After: "1 or 1=1"},
		{After: "1 x"}, {After: "1", ValuePrefix: "x"}, {After: "x y", ValuePrefix: "x"}, {Value: "x", ValuePrefix: "x"}, {ValuePrefix: "\xff"}, {ValuePrefix: "a\x00"}} {
		if page, _, err := lister.List(ctx, f); !errors.Is(err, authz.ErrInvalid) {
			bad.addf("%+v: %d, %v", f, len(page), err)
		}
	}
	return bad.err()
}
