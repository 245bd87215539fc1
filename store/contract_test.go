package store_test

import (
	"context"
	"testing"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/store"
)

func TestContract(t *testing.T) {
	both(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		t.Run("ledger", func(t *testing.T) {
			authztest.TestLedger(t, func(*testing.T) authz.Ledger { return s })
		})
		t.Run("tier", func(t *testing.T) {
			authztest.TestTier(t, func(*testing.T) authztest.TierSubject {
				return authztest.TierSubject{Tier: s, Authority: true, Revoke: func(ctx context.Context, r ...authz.Revocation) error {
					_, err := s.Append(ctx, r)
					return err
				}}
			})
		})
		t.Run("feed", func(t *testing.T) {
			authztest.TestFeed(t, func(*testing.T) authztest.FeedSubject { return authztest.FeedSubject{Feed: s, Ledger: s} })
		})
	})
}
