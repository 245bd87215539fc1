package authztest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"jwtbouncer/authz"
)

// Memory is an authority in memory: a ledger, and a tier and a feed on it. It
// passes the contract suites.
type Memory struct {
	authz.AlwaysWaits

	// Fail, if set, is called before each operation ("append", "list",
	// "lookup", "changes"). If it returns an error, the operation fails with it.
	Fail func(operation string) error
	// MaxTokenTTL determines expiries that are not given; 0 means 24h.
	MaxTokenTTL time.Duration
	// MaxStaleness is the bound returned by Append; 0: 30s.
	MaxStaleness time.Duration

	mu    sync.Mutex
	rows  []memoryRow
	once  map[memoryIdentity]int // into rows
	byKey map[authz.Key][]int    // into rows
	seq   uint64
	epoch int
}

type memoryRow struct {
	authz.Revocation
	xid uint64
}

type memoryIdentity struct {
	key       authz.Key
	notBefore time.Time
}

var (
	_ authz.Ledger = (*Memory)(nil)
	_ authz.Lister = (*Memory)(nil)
	_ authz.Tier   = (*Memory)(nil)
	_ authz.Feed   = (*Memory)(nil)
)

// begin locks m, or returns the error with which the operation has to fail.
func (m *Memory) begin(ctx context.Context, operation string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", authz.ErrUnavailable, err)
	}
	if m.Fail != nil {
		if err := m.Fail(operation); err != nil {
			return err
		}
	}
	m.mu.Lock()
	return nil
}

// Append implements authz.Ledger.
func (m *Memory) Append(ctx context.Context, revocations []authz.Revocation) (authz.Appended, error) {
	now := time.Now()
	in := slices.Clone(revocations)
	for i := range in {
		r := &in[i]
		if err := r.Normalize(now); err != nil {
			return authz.Appended{}, fmt.Errorf("revocation %d: %w", i+1, err)
		}
		if r.ExpiresAt.IsZero() {
			r.ExpiresAt = m.expiry(*r, now)
		}
		r.NotBefore, r.ExpiresAt, r.RevokedAt = r.NotBefore.Round(0).UTC(), r.ExpiresAt.Round(0).UTC(), now.Round(0).UTC()
	}
	if err := m.begin(ctx, "append"); err != nil {
		return authz.Appended{}, err
	}
	defer m.mu.Unlock()
	m.seq++
	if m.once == nil {
		m.once, m.byKey = map[memoryIdentity]int{}, map[authz.Key][]int{}
	}
	for i := range in {
		id := memoryIdentity{in[i].Key(), in[i].NotBefore}
		at, stored := m.once[id]
		if !stored {
			m.once[id] = len(m.rows)
			m.byKey[id.key] = append(m.byKey[id.key], len(m.rows))
			in[i].ID = strconv.Itoa(len(m.rows) + 1)
			m.rows = append(m.rows, memoryRow{in[i], m.seq})
			continue
		}
		if in[i].ExpiresAt.After(m.rows[at].ExpiresAt) {
			m.rows[at].ExpiresAt, m.rows[at].xid = in[i].ExpiresAt, m.seq
		}
		in[i].ID = m.rows[at].ID
	}
	for i := range in {
		id, _ := strconv.Atoi(in[i].ID)
		in[i] = m.rows[id-1].Revocation
	}
	if len(in) == 0 {
		return authz.Appended{}, nil
	}
	return authz.Appended{Revocations: in, MaxStaleness: m.maxStaleness()}, nil
}

func (m *Memory) maxStaleness() time.Duration {
	if m.MaxStaleness == 0 {
		return 30 * time.Second
	}
	return m.MaxStaleness
}

func (m *Memory) expiry(r authz.Revocation, now time.Time) time.Time {
	ttl := m.MaxTokenTTL
	if ttl == 0 {
		ttl = 24 * time.Hour
	}
	if r.Kind == authz.KindKID && r.NotBefore.IsZero() {
		return time.Unix(authz.LastSecond, 0).UTC()
	}
	if r.NotBefore.After(now) {
		now = r.NotBefore
	}
	return now.Add(ttl)
}

// List implements authz.Lister.
func (m *Memory) List(ctx context.Context, f authz.Filter) (page []authz.Revocation, next string, err error) {
	limit := cmp.Or(f.Limit, 100)
	if limit < 0 || limit > 1000 {
		return nil, "", fmt.Errorf("%w: limit: must lie between 1 and 1000", authz.ErrInvalid)
	}
	if f.ValuePrefix != "" && f.Value != "" || !authz.ValidText(f.ValuePrefix) {
		return nil, "", fmt.Errorf("%w: value: not a prefix alone, or no text", authz.ErrInvalid)
	}
	if err := m.begin(ctx, "list"); err != nil {
		return nil, "", err
	}
	defer m.mu.Unlock()
	var all []authz.Revocation
	for i := range slices.Backward(m.rows) {
		r := m.rows[i].Revocation
		if (f.Kind == 0 || r.Kind == f.Kind) && (f.Issuer == "" || r.Issuer == f.Issuer) && (f.Value == "" || r.Value == f.Value) &&
			strings.HasPrefix(r.Value, f.ValuePrefix) && !r.RevokedAt.Before(f.Since) && f.ByMatches(r.RevokedBy) && (f.IncludeExpired || r.ExpiresAt.After(time.Now())) {
			all = append(all, r)
		}
	}
	cursor := func(r authz.Revocation) string { return r.ID }
	if f.ValuePrefix != "" {
		slices.Reverse(all)
		slices.SortStableFunc(all, func(a, b authz.Revocation) int { return cmp.Compare(a.Value, b.Value) })
		cursor = func(r authz.Revocation) string { return r.ID + " " + r.Value }
	}
	if f.After != "" {
		at := slices.IndexFunc(all, func(r authz.Revocation) bool { return cursor(r) == f.After })
		if at < 0 {
			return nil, "", fmt.Errorf("%w: after: not a cursor", authz.ErrInvalid)
		}
		all = all[at+1:]
	}
	if len(all) > limit {
		return all[:limit], cursor(all[limit-1]), nil
	}
	return all, "", nil
}

// Name implements authz.Tier.
func (*Memory) Name() string { return "memory" }

// Lookup implements authz.Tier.
func (m *Memory) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if err := m.begin(ctx, "lookup"); err != nil {
		return authz.Unknown, err
	}
	defer m.mu.Unlock()
	for _, key := range q.Keys {
		for _, at := range m.byKey[key] {
			if r := m.rows[at]; r.Entry().Revokes(q.IssuedAt) && time.Now().Before(r.ExpiresAt.Add(authz.ExpiryGrace)) {
				return authz.Revoked, nil
			}
		}
	}
	return authz.NotRevoked, nil
}

// Changes implements authz.Feed. One Append is one transaction.
func (m *Memory) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	if err := m.begin(ctx, "changes"); err != nil {
		return authz.Snapshot{}, err
	}
	defer m.mu.Unlock()
	for _, r := range m.rows {
		if r.xid > since.Last || slices.Contains(since.Open, r.xid) {
			row(authz.Row{Entry: r.Entry(), XID: r.xid})
		}
	}
	return authz.Snapshot{
		Nonce: nonce, Epoch: "memory/" + strconv.Itoa(m.epoch), Proves: true, Clock: time.Now(),
		Xmax: m.seq + 1, MaxTokenTTL: m.expiry(authz.Revocation{}, time.Time{}).Sub(time.Time{}),
	}, nil
}

// BumpEpoch makes followers reload.
func (m *Memory) BumpEpoch(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	return nil
}
