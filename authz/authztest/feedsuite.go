package authztest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// FeedSubject is a feed under test, and the ledger behind it.
type FeedSubject struct {
	Feed   authz.Feed
	Ledger authz.Ledger
}

// TestFeed runs the contract of authz.Feed.
func TestFeed(t *testing.T, open func(t *testing.T) FeedSubject) {
	t.Helper()
	runCases(t, open(t), FeedCases())
}

// FeedCases are the clauses TestFeed runs.
func FeedCases() []Case[FeedSubject] {
	return []Case[FeedSubject]{
		{"from the start, everything", feedAll},
		{"describes its snapshot", feedSnapshot},
		{"afterwards, what is new and nothing else", feedIncrement},
		{"an expiry moved later comes again", feedExtension},
		{"rows of ids that were open come later", feedOpen},
		{"a refused batch leaves no rows", feedRefused},
		{"an epoch that was raised shows", feedEpoch},
		{"a caller that has left gets no snapshot", feedCanceled},
		{"nothing is lost under concurrent writers", feedConcurrent},
	}
}

// Watermark follows a feed by the anchored watermark and keeps the entries it
// receives: the rule of authz.Position in its plainest form.
type Watermark struct {
	Position authz.Position
	Entries  map[authz.Key]authz.Entry
	nonces   int
}

// Sync reads the feed once and moves on.
func (w *Watermark) Sync(ctx context.Context, feed authz.Feed) (rows []authz.Row, snap authz.Snapshot, err error) {
	if w.Entries == nil {
		w.Entries = map[authz.Key]authz.Entry{}
	}
	w.nonces++
	snap, err = feed.Changes(ctx, w.Position, "n"+strconv.Itoa(w.nonces), func(r authz.Row) {
		rows = append(rows, r)
		e, seen := w.Entries[r.Key]
		if seen {
			e = e.Merge(r.Entry)
		} else {
			e = r.Entry
		}
		w.Entries[r.Key] = e
	})
	if err != nil || !snap.Proves {
		return rows, snap, err
	}
	if w.Position.Epoch != "" && (snap.Epoch != w.Position.Epoch || snap.Xmax <= w.Position.Last) {
		w.Position = authz.Position{}
		return rows, snap, nil
	}
	w.Position.Epoch = snap.Epoch
	for _, r := range rows {
		if r.XID < snap.Xmax {
			w.Position.Last = max(w.Position.Last, r.XID)
		}
	}
	w.Position.Open = slices.DeleteFunc(slices.Clone(snap.Open), func(x uint64) bool { return x > w.Position.Last })
	return rows, snap, nil
}

func feedAll(ctx context.Context, s FeedSubject) error {
	var bad collect
	iss := issuerFor("all")
	var in []authz.Revocation
	for _, kind := range kinds {
		in = append(in, of(kind, iss, "v"))
	}
	timed := of(authz.KindSID, iss, "timed")
	timed.NotBefore = time.Unix(1_700_000_000, 1)
	appended, err := s.Ledger.Append(ctx, append(in, timed))
	if err != nil {
		return err
	}
	var w Watermark
	rows, _, err := w.Sync(ctx, s.Feed)
	if err != nil {
		return err
	}
	for _, r := range appended.Revocations {
		n := 0
		for _, row := range rows {
			if row.Key == r.Key() {
				n++
				if row.Entry != r.Entry() {
					bad.addf("%s: %+v, want %+v", r.Kind, row.Entry, r.Entry())
				}
				if row.XID == 0 {
					bad.addf("%s: no XID", r.Kind)
				}
			}
		}
		if n != 1 {
			bad.addf("%s: delivered %d times", r.Kind, n)
		}
	}
	return bad.err()
}

func feedSnapshot(ctx context.Context, s FeedSubject) error {
	var bad collect
	if _, err := append1(ctx, s.Ledger, of(authz.KindJTI, issuerFor("snapshot"), "v")); err != nil {
		return err
	}
	epoch := ""
	for i := range 3 {
		var top uint64
		nonce := "nonce-" + strconv.Itoa(i)
		snap, err := s.Feed.Changes(ctx, authz.Position{}, nonce, func(r authz.Row) { top = max(top, r.XID) })
		if err != nil {
			return err
		}
		if snap.Nonce != nonce {
			bad.addf("nonce %q for %q", snap.Nonce, nonce)
		}
		if !snap.Proves {
			bad.addf("it proves nothing")
		}
		if snap.Epoch == "" || epoch != "" && snap.Epoch != epoch {
			bad.addf("epoch %q, before %q", snap.Epoch, epoch)
		}
		epoch = snap.Epoch
		if top == 0 || snap.Xmax <= top {
			bad.addf("xmax %d, highest row %d", snap.Xmax, top)
		}
		for _, x := range snap.Open {
			if x == 0 || x >= snap.Xmax {
				bad.addf("open id %d outside [1, %d)", x, snap.Xmax)
			}
		}
		if d := time.Since(snap.Clock); d < -time.Hour || d > time.Hour {
			bad.addf("clock %s", snap.Clock)
		}
		if snap.MaxStaleness < 0 || snap.MaxTokenTTL < 0 {
			bad.addf("limits %s, %s", snap.MaxStaleness, snap.MaxTokenTTL)
		}
	}
	return bad.err()
}

func feedIncrement(ctx context.Context, s FeedSubject) error {
	iss := issuerFor("increment")
	if _, err := append1(ctx, s.Ledger, of(authz.KindJTI, iss, "before")); err != nil {
		return err
	}
	var w Watermark
	if _, _, err := w.Sync(ctx, s.Feed); err != nil {
		return err
	}
	for i := range 5 {
		r, err := append1(ctx, s.Ledger, of(authz.KindJTI, iss, strconv.Itoa(i)))
		if err != nil {
			return err
		}
		rows, _, err := w.Sync(ctx, s.Feed)
		if err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Entry != r.Entry() {
			return fmt.Errorf("round %d: %d rows %+v, want %+v", i, len(rows), rows, r.Entry())
		}
		if rows, _, err = w.Sync(ctx, s.Feed); err != nil || len(rows) != 0 {
			return fmt.Errorf("round %d: %d rows again, %w", i, len(rows), err)
		}
	}
	return nil
}

func feedExtension(ctx context.Context, s FeedSubject) error {
	in := of(authz.KindJTI, issuerFor("extension"), "v")
	in.ExpiresAt = time.Now().Add(time.Hour)
	if _, err := append1(ctx, s.Ledger, in); err != nil {
		return err
	}
	var w Watermark
	if _, _, err := w.Sync(ctx, s.Feed); err != nil {
		return err
	}
	in.ExpiresAt = in.ExpiresAt.Add(time.Hour)
	r, err := append1(ctx, s.Ledger, in)
	if err != nil {
		return err
	}
	rows, _, err := w.Sync(ctx, s.Feed)
	if err != nil {
		return err
	}
	if len(rows) != 1 || rows[0].Entry != r.Entry() {
		return fmt.Errorf("%+v, want %+v", rows, r.Entry())
	}
	return nil
}

// feedOpen requests rows again by their ids, as a follower does whose last
// snapshot found those transactions open.
func feedOpen(ctx context.Context, s FeedSubject) error {
	iss := issuerFor("open")
	a, err := append1(ctx, s.Ledger, of(authz.KindJTI, iss, "a"))
	if err != nil {
		return err
	}
	if _, err := append1(ctx, s.Ledger, of(authz.KindJTI, iss, "b")); err != nil {
		return err
	}
	var w Watermark
	rows, _, err := w.Sync(ctx, s.Feed)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(rows, func(r authz.Row) bool { return r.Key == a.Key() })
	if at < 0 {
		return errors.New("a row is missing")
	}
	w.Position.Open = append(w.Position.Open, rows[at].XID)
	again, _, err := w.Sync(ctx, s.Feed)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(again, func(r authz.Row) bool { return r.Key == a.Key() }) {
		return fmt.Errorf("id %d was open and its row did not come: %+v", rows[at].XID, again)
	}
	return nil
}

func feedRefused(ctx context.Context, s FeedSubject) error {
	var w Watermark
	if _, _, err := w.Sync(ctx, s.Feed); err != nil {
		return err
	}
	iss := issuerFor("refused")
	if _, err := s.Ledger.Append(ctx, []authz.Revocation{of(authz.KindJTI, iss, "a"), of(authz.KindJTI, iss, "")}); !errors.Is(err, authz.ErrInvalid) {
		return fmt.Errorf("a batch with a bad one: %w", err)
	}
	rows, _, err := w.Sync(ctx, s.Feed)
	if err != nil || len(rows) != 0 {
		return fmt.Errorf("%d rows, %w", len(rows), err)
	}
	return nil
}

// feedEpoch applies to feeds whose epoch can be raised after a restore.
func feedEpoch(ctx context.Context, s FeedSubject) error {
	bumper, ok := s.Feed.(interface{ BumpEpoch(context.Context) error })
	if !ok {
		return nil
	}
	before, err := s.Feed.Changes(ctx, authz.Position{}, "n1", func(authz.Row) {})
	if err != nil {
		return err
	}
	if err := bumper.BumpEpoch(ctx); err != nil {
		return err
	}
	after, err := s.Feed.Changes(ctx, authz.Position{}, "n2", func(authz.Row) {})
	if err != nil {
		return err
	}
	if after.Epoch == before.Epoch {
		return fmt.Errorf("still %q", after.Epoch)
	}
	return nil
}

func feedCanceled(ctx context.Context, s FeedSubject) error {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	snap, err := s.Feed.Changes(gone, authz.Position{}, "n", func(authz.Row) {})
	if err == nil || snap.Proves {
		return fmt.Errorf("%+v, error %w", snap, err)
	}
	// It works again for the next.
	if _, err := s.Feed.Changes(ctx, authz.Position{}, "n", func(authz.Row) {}); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

func feedConcurrent(ctx context.Context, s FeedSubject) error {
	var w Watermark
	if _, _, err := w.Sync(ctx, s.Feed); err != nil {
		return err
	}
	iss := issuerFor("concurrent")
	var mu sync.Mutex
	var failed error
	var all []authz.Revocation
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for j := range 25 {
				got, err := s.Ledger.Append(ctx, []authz.Revocation{
					of(authz.KindJTI, iss, fmt.Sprintf("%d-%d", i, j)),
					of(authz.KindSID, iss, fmt.Sprintf("%d-%d", i, j)),
				})
				mu.Lock()
				failed = errors.Join(failed, err)
				all = append(all, got.Revocations...)
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		mu.Lock()
		settled := slices.Clone(all)
		mu.Unlock()
		if _, _, err := w.Sync(ctx, s.Feed); err != nil {
			<-done
			return err
		}
		// Everything committed before the reading began must be here now.
		lost := 0
		for _, r := range settled {
			if _, here := w.Entries[r.Key()]; !here {
				lost++
			}
		}
		if lost > 0 {
			<-done
			return fmt.Errorf("%d of %d are lost", lost, len(settled))
		}
	}
	if len(all) != 300 {
		return errors.Join(fmt.Errorf("%d of 300 were stored", len(all)), failed)
	}
	return failed
}
