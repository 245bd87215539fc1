package store_test

import (
	"testing"

	"jwtbouncer/authz"
	"jwtbouncer/store"
)

func TestRevokedFromCommitOn(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, err := s.Lookup(t.Context(), queryFor(jti("a")))
		if err != nil || v != authz.NotRevoked {
			t.Fatalf("before: %v, %v", v, err)
		}
		stored, err := s.Append(t.Context(), []authz.Revocation{jti("a"), jti("b"), jti("a")})
		if err != nil {
			t.Fatal(err)
		}
		if stored[0].ID == "" || stored[0] != stored[2] || stored[1].ID == stored[0].ID {
			t.Errorf("stored: %+v", stored)
		}
		if v, err := s.Lookup(t.Context(), queryFor(jti("a"))); err != nil || v != authz.Revoked {
			t.Errorf("after: %v, %v", v, err)
		}
		if v, err := s.Lookup(t.Context(), queryFor(jti("c"))); err != nil || v != authz.NotRevoked {
			t.Errorf("another: %v, %v", v, err)
		}
		page, next, err := s.List(t.Context(), authz.Filter{})
		if err != nil || len(page) != 2 || next != "" || page[0].ID < page[1].ID {
			t.Errorf("list: %+v, %q, %v", page, next, err)
		}
		var rows []authz.Row
		snap, err := s.Changes(t.Context(), authz.Position{}, "n1", func(r authz.Row) { rows = append(rows, r) })
		if err != nil || len(rows) != 2 || !snap.Proves || snap.Nonce != "n1" || snap.Xmax <= rows[1].XID {
			t.Errorf("changes: %+v, %+v, %v", rows, snap, err)
		}
		for _, r := range rows {
			if want := stored[0].Entry(); r.Key == want.Key && r.Entry != want {
				t.Errorf("entry: %+v, want %+v", r.Entry, want)
			}
		}
		if n, err := s.GC(t.Context()); err != nil || n != 0 {
			t.Errorf("gc: %d, %v", n, err)
		}
		if err := s.BumpEpoch(t.Context()); err != nil {
			t.Error(err)
		}
		if again, err := s.Changes(t.Context(), authz.Position{Epoch: snap.Epoch, Last: rows[1].XID}, "n2", func(authz.Row) {}); err != nil || again.Epoch == snap.Epoch {
			t.Errorf("epoch: %+v, %v", again, err)
		}
	})
}
