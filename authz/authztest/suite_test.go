package authztest

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
)

func TestMemoryKeepsTheContracts(t *testing.T) {
	t.Parallel()
	m := &Memory{}
	TestLedger(t, func(*testing.T) authz.Ledger { return m })
	TestTier(t, func(*testing.T) TierSubject { return memoryTier(m, m) })
	TestFeed(t, func(*testing.T) FeedSubject { return FeedSubject{Feed: m, Ledger: m} })
}

func memoryTier(m *Memory, tier authz.Tier) TierSubject {
	return TierSubject{Tier: tier, Authority: true, Revoke: func(ctx context.Context, r ...authz.Revocation) error {
		_, err := m.Append(ctx, r)
		return err
	}}
}

func TestMemoryFails(t *testing.T) {
	t.Parallel()
	m := &Memory{Fail: func(string) error { return authz.ErrUnavailable }}
	_, err := m.Append(t.Context(), nil)
	_, err2 := m.Lookup(t.Context(), &authz.Query{})
	_, err3 := m.Changes(t.Context(), authz.Position{}, "n", func(authz.Row) {})
	_, _, err4 := m.List(t.Context(), authz.Filter{})
	for _, err := range []error{err, err2, err3, err4} {
		assert.ErrorIs(t, err, authz.ErrUnavailable)
	}
}

// caught runs the named case on a broken implementation, which the case must
// detect.
func caught[S any](t *testing.T, s S, cases []Case[S], name string) {
	t.Helper()
	for _, c := range cases {
		if c.Name != name {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
		defer cancel()
		assert.Errorf(t, c.Check(ctx, s), "case %q accepts a broken implementation", name)
		return
	}
	t.Errorf("there is no case %q", name)
}

// brokenLedger changes the input, output or context of a ledger.
type brokenLedger struct {
	*Memory
	in  func([]authz.Revocation) []authz.Revocation
	out func(got []authz.Revocation, err error) ([]authz.Revocation, error)
	ctx func(context.Context) context.Context

	noBound bool
}

func (b brokenLedger) Append(ctx context.Context, in []authz.Revocation) (authz.Appended, error) {
	if b.ctx != nil {
		ctx = b.ctx(ctx)
	}
	if b.in != nil {
		in = b.in(append([]authz.Revocation(nil), in...))
	}
	got, err := b.Memory.Append(ctx, in)
	if b.out != nil {
		got.Revocations, err = b.out(got.Revocations, err)
	}
	if b.noBound {
		got.MaxStaleness = 0
	}
	return got, err
}

func TestLedgerSuiteCatches(t *testing.T) {
	t.Parallel()
	each := func(f func(*authz.Revocation)) func([]authz.Revocation, error) ([]authz.Revocation, error) {
		return func(got []authz.Revocation, err error) ([]authz.Revocation, error) {
			for i := range got {
				f(&got[i])
			}
			return got, err
		}
	}
	change := func(f func(*authz.Revocation)) func([]authz.Revocation) []authz.Revocation {
		return func(in []authz.Revocation) []authz.Revocation {
			for i := range in {
				f(&in[i])
			}
			return in
		}
	}
	for name, b := range map[string]struct {
		broken brokenLedger
		caught string
	}{
		"no ID":                {brokenLedger{out: each(func(r *authz.Revocation) { r.ID = "" })}, "fills what was left out"},
		"no expiry":            {brokenLedger{out: each(func(r *authz.Revocation) { r.ExpiresAt = time.Time{} })}, "fills what was left out"},
		"short key expiry":     {brokenLedger{in: change(func(r *authz.Revocation) { r.ExpiresAt = time.Now().Add(time.Hour) })}, "fills what was left out"},
		"no bound":             {brokenLedger{noBound: true}, "returns the fleet's bound"},
		"a new ID each time":   {brokenLedger{out: each(func(r *authz.Revocation) { r.ID += rand.Text() })}, "is idempotent"},
		"first expiry stays":   {brokenLedger{in: change(func(r *authz.Revocation) { r.ExpiresAt = time.Unix(4e9, 0) })}, "keeps the later expiry"},
		"one not_before":       {brokenLedger{in: change(func(r *authz.Revocation) { r.NotBefore = time.Unix(1, 0) })}, "distinguishes not_before values"},
		"whole seconds":        {brokenLedger{in: change(func(r *authz.Revocation) { r.NotBefore = r.NotBefore.Truncate(time.Second) })}, "never rounds to the lenient side"},
		"case-blind":           {brokenLedger{in: change(func(r *authz.Revocation) { r.Value = strings.ToLower(r.Value) })}, "keeps every text as it is"},
		"trims":                {brokenLedger{in: change(func(r *authz.Revocation) { r.Value = strings.TrimSpace(r.Value) })}, "keeps every text as it is"},
		"NUL stripped":         {brokenLedger{in: change(func(r *authz.Revocation) { r.Value = strings.ReplaceAll(r.Value, "\x00", "") })}, "refuses what is malformed"},
		"skips the bad":        {brokenLedger{in: dropInvalid}, "stores all or none"},
		"error as unavailable": {brokenLedger{out: func(got []authz.Revocation, _ error) ([]authz.Revocation, error) { return got, nil }}, "refuses what is malformed"},
		"reversed":             {brokenLedger{out: reversed}, "answers in the given order, duplicates included"},
		"loses half": {brokenLedger{in: func(in []authz.Revocation) []authz.Revocation { return in[:(len(in)+1)/2] }},
			"takes large batches"},
		"deaf to leaving": {brokenLedger{ctx: context.WithoutCancel}, "does not store for a caller that has left"},
		"unsafe":          {brokenLedger{out: each(func(r *authz.Revocation) { r.ID += rand.Text() })}, "stores once under concurrency"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.broken.Memory = &Memory{}
			caught(t, authz.Ledger(b.broken), LedgerCases(), b.caught)
		})
	}
	for name, b := range map[string]struct {
		list   func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error)
		caught string
	}{
		"oldest first": {func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error) {
			page, next, err := m.List(ctx, f)
			page, _ = reversed(page, nil)
			return page, next, err
		}, "lists newest first, page by page"},
		"no cursor": {func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error) {
			page, _, err := m.List(ctx, f)
			return page, "", err
		}, "lists newest first, page by page"},
		"filter ignored": {func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error) {
			f.Kind = 0
			return m.List(ctx, f)
		}, "lists by filter"},
		"expired shown": {func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error) {
			f.IncludeExpired = true
			return m.List(ctx, f)
		}, "hides expired ones unless requested"},
		"bad page taken": {func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error) {
			f.Limit, f.After = 10, ""
			return m.List(ctx, f)
		}, "refuses a malformed page"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caught(t, authz.Ledger(brokenList{&Memory{}, b.list}), LedgerCases(), b.caught)
		})
	}
}

type brokenList struct {
	*Memory
	list func(ctx context.Context, m *Memory, f authz.Filter) ([]authz.Revocation, string, error)
}

func (b brokenList) List(ctx context.Context, f authz.Filter) ([]authz.Revocation, string, error) {
	return b.list(ctx, b.Memory, f)
}

func reversed(got []authz.Revocation, err error) ([]authz.Revocation, error) {
	out := make([]authz.Revocation, 0, len(got))
	for i := len(got) - 1; i >= 0; i-- {
		out = append(out, got[i])
	}
	return out, err
}

func dropInvalid(in []authz.Revocation) []authz.Revocation {
	var out []authz.Revocation
	for _, r := range in {
		if n := r; n.Normalize(time.Now()) == nil {
			out = append(out, r)
		}
	}
	return out
}

// brokenTier answers wrongly from a Memory.
type brokenTier struct {
	*Memory
	lookup func(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error)
	name   string
	now    func(m *Memory, q *authz.Query) (authz.Verdict, bool) // nil: it would wait
}

func (b brokenTier) Name() string { return b.name }

func (b brokenTier) LookupNow(q *authz.Query) (authz.Verdict, bool) {
	if b.now == nil {
		return authz.Unknown, false
	}
	return b.now(b.Memory, q)
}

func (b brokenTier) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	return b.lookup(ctx, b.Memory, q)
}

func TestTierSuiteCatches(t *testing.T) {
	t.Parallel()
	with := func(f func(q *authz.Query)) func(context.Context, *Memory, *authz.Query) (authz.Verdict, error) {
		return func(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error) {
			c := *q
			c.Keys = append([]authz.Key(nil), q.Keys...)
			f(&c)
			return m.Lookup(ctx, &c)
		}
	}
	right := with(func(*authz.Query) {})
	for name, b := range map[string]struct {
		broken brokenTier
		caught string
	}{
		"allows all": {brokenTier{lookup: func(context.Context, *Memory, *authz.Query) (authz.Verdict, error) { return authz.NotRevoked, nil }},
			"each kind revokes what it names and nothing else"},
		"denies all": {brokenTier{lookup: func(context.Context, *Memory, *authz.Query) (authz.Verdict, error) { return authz.Revoked, nil }},
			"each kind revokes what it names and nothing else"},
		"verdict with error": {brokenTier{lookup: func(context.Context, *Memory, *authz.Query) (authz.Verdict, error) {
			return authz.NotRevoked, authz.ErrUnavailable
		}}, "issuers do not touch each other"},
		"first key only":     {brokenTier{lookup: with(func(q *authz.Query) { q.Keys = q.Keys[:1] })}, "any of the keys"},
		"weakest level":      {brokenTier{lookup: firstLevel}, "the strictest of two levels wins"},
		"iat later":          {brokenTier{lookup: with(func(q *authz.Query) { q.IssuedAt++ })}, "same second, missing iat"},
		"iat earlier":        {brokenTier{lookup: with(func(q *authz.Query) { q.IssuedAt-- })}, "same second, missing iat"},
		"missing iat is new": {brokenTier{lookup: with(newWithoutIat)}, "same second, missing iat"},
		"expires early":      {brokenTier{lookup: expiresEarly}, "revokes until it expires"},
		"answers those gone": {brokenTier{lookup: func(context.Context, *Memory, *authz.Query) (authz.Verdict, error) { return authz.NotRevoked, nil }}, "a caller who left"},
		"sorts the query": {brokenTier{lookup: func(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error) {
			q.Keys[0] = authz.Key{}
			return m.Lookup(ctx, q)
		}}, "does not touch the query"},
		"remembers misses": {brokenTier{lookup: remembersMisses()}, "revoked means revoked, under concurrency"},
		"a verdict that would wait": {brokenTier{lookup: right, now: func(*Memory, *authz.Query) (authz.Verdict, bool) { return authz.NotRevoked, false }},
			"says without waiting what it can prove"},
		"another verdict at once": {brokenTier{lookup: right, now: func(*Memory, *authz.Query) (authz.Verdict, bool) { return authz.NotRevoked, true }},
			"says without waiting what it can prove"},
		"asks somebody at once": {brokenTier{lookup: right, now: func(m *Memory, q *authz.Query) (authz.Verdict, bool) {
			v, err := m.Lookup(context.Background(), q)
			return v, err == nil
		}}, "says without waiting what it can prove"},
		"changes the query at once": {brokenTier{lookup: right, now: func(_ *Memory, q *authz.Query) (authz.Verdict, bool) {
			q.Keys[0] = authz.Key{}
			return authz.Unknown, false
		}}, "says without waiting what it can prove"},
		"a name with a number": {brokenTier{lookup: right, name: "tier-1"}, "has a name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &Memory{}
			b.broken.Memory = m
			caught(t, memoryTier(m, b.broken), TierCases(), b.caught)
		})
	}
	t.Run("one issuer for all", func(t *testing.T) {
		m := &Memory{}
		caught(t, memoryTier(m, brokenTier{Memory: m, lookup: func(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error) {
			if len(m.rows) > 0 {
				return authz.Revoked, nil
			}
			return m.Lookup(ctx, q)
		}}), TierCases(), "issuers do not touch each other")
	})
	t.Run("text folded", func(t *testing.T) {
		m := &Memory{}
		s := memoryTier(m, m)
		revoke := s.Revoke
		s.Revoke = func(ctx context.Context, rs ...authz.Revocation) error {
			folded := append([]authz.Revocation(nil), rs...)
			for i := range folded {
				folded[i].Value = strings.TrimSpace(strings.ToLower(folded[i].Value))
			}
			return revoke(ctx, append(folded, rs...)...)
		}
		caught(t, s, TierCases(), "every text is its own")
	})
}

func newWithoutIat(q *authz.Query) {
	if q.IssuedAt == 0 {
		q.IssuedAt = time.Now().Unix()
	}
}

// firstLevel considers only the first revocation of a key.
func firstLevel(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error) {
	if err := m.begin(ctx, "lookup"); err != nil {
		return authz.Unknown, err
	}
	defer m.mu.Unlock()
	for _, k := range q.Keys {
		if at := m.byKey[k]; len(at) > 0 && m.rows[at[0]].Entry().Revokes(q.IssuedAt) {
			return authz.Revoked, nil
		}
	}
	return authz.NotRevoked, nil
}

// expiresEarly ignores a revocation a second before it expires.
func expiresEarly(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error) {
	if err := m.begin(ctx, "lookup"); err != nil {
		return authz.Unknown, err
	}
	defer m.mu.Unlock()
	for _, k := range q.Keys {
		for _, at := range m.byKey[k] {
			if r := m.rows[at]; r.Entry().Revokes(q.IssuedAt) && time.Until(r.ExpiresAt) > time.Second {
				return authz.Revoked, nil
			}
		}
	}
	return authz.NotRevoked, nil
}

// remembersMisses caches "not revoked" forever.
func remembersMisses() func(context.Context, *Memory, *authz.Query) (authz.Verdict, error) {
	missed := map[authz.Key]bool{}
	return func(ctx context.Context, m *Memory, q *authz.Query) (authz.Verdict, error) {
		m.mu.Lock()
		known := missed[q.Keys[0]]
		m.mu.Unlock()
		if known {
			return authz.NotRevoked, nil
		}
		v, err := m.Lookup(ctx, q)
		if v == authz.NotRevoked {
			m.mu.Lock()
			missed[q.Keys[0]] = true
			m.mu.Unlock()
		}
		return v, err
	}
}

// brokenFeed changes the requested position and the returned rows and snapshot.
type brokenFeed struct {
	*Memory
	ask  func(*authz.Position)
	row  func(since authz.Position, r *authz.Row) bool // false drops the row
	snap func(*authz.Snapshot)
	deaf bool // ignores ctx
}

func (b brokenFeed) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	if b.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	if b.ask != nil {
		b.ask(&since)
	}
	snap, err := b.Memory.Changes(ctx, since, nonce, func(r authz.Row) {
		if b.row == nil || b.row(since, &r) {
			row(r)
		}
	})
	if err == nil && b.snap != nil {
		b.snap(&snap)
	}
	return snap, err
}

func TestFeedSuiteCatches(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]struct {
		broken brokenFeed
		caught string
	}{
		"loses a row":       {brokenFeed{row: func(_ authz.Position, r *authz.Row) bool { return r.NotBefore == authz.Always }}, "from the start, everything"},
		"rounds expiry":     {brokenFeed{row: func(_ authz.Position, r *authz.Row) bool { r.Expires--; return true }}, "from the start, everything"},
		"stale nonce":       {brokenFeed{snap: func(s *authz.Snapshot) { s.Nonce = "x" }}, "describes its snapshot"},
		"proves nothing":    {brokenFeed{snap: func(s *authz.Snapshot) { s.Proves = false }}, "describes its snapshot"},
		"wandering epoch":   {brokenFeed{snap: func(s *authz.Snapshot) { s.Epoch = rand.Text() }}, "describes its snapshot"},
		"low xmax":          {brokenFeed{snap: func(s *authz.Snapshot) { s.Xmax = 1 }}, "describes its snapshot"},
		"odd open":          {brokenFeed{snap: func(s *authz.Snapshot) { s.Open = []uint64{s.Xmax} }}, "describes its snapshot"},
		"everything always": {brokenFeed{ask: func(p *authz.Position) { p.Last = 0 }}, "afterwards, what is new and nothing else"},
		"skips ahead":       {brokenFeed{ask: func(p *authz.Position) { p.Last += min(p.Last, 1) }}, "afterwards, what is new and nothing else"},
		"seq > last":        {brokenFeed{ask: func(p *authz.Position) { p.Open = nil }}, "rows of ids that were open come later"},
		"no extension": {brokenFeed{row: func(since authz.Position, _ *authz.Row) bool { return since.Last == 0 }},
			"an expiry moved later comes again"},
		"loses now and then": {brokenFeed{row: func(_ authz.Position, r *authz.Row) bool { return r.Key[0]%16 != 0 }},
			"nothing is lost under concurrent writers"},
		"epoch fixed":  {brokenFeed{snap: func(s *authz.Snapshot) { s.Epoch = "1" }}, "an epoch that was raised shows"},
		"proof anyhow": {brokenFeed{deaf: true}, "a caller that has left gets no snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &Memory{}
			b.broken.Memory = m
			caught(t, FeedSubject{Feed: b.broken, Ledger: m}, FeedCases(), b.caught)
		})
	}
	t.Run("half a batch", func(t *testing.T) {
		m := &Memory{}
		l := brokenLedger{Memory: m, out: func(got []authz.Revocation, err error) ([]authz.Revocation, error) {
			if err != nil {
				_, _ = m.Append(context.Background(), []authz.Revocation{of(authz.KindJTI, issuerFor("half"), "v")})
			}
			return got, err
		}}
		caught(t, FeedSubject{Feed: m, Ledger: l}, FeedCases(), "a refused batch leaves no rows")
	})
}
