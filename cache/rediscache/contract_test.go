package rediscache

import (
	"context"
	"errors"
	"testing"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// Redis keeps the contract of every tier, except that it never knows by itself
// that a token is good.
func TestTierContract(t *testing.T) {
	t.Parallel()
	server := harness.Redis(t)
	authztest.TestTier(t, func(t *testing.T) authztest.TierSubject {
		ledger := &authztest.Memory{} // fills the expiry and not_before
		r := open(t, at(server.Addr))
		return authztest.TierSubject{Tier: r, Revoke: func(ctx context.Context, rs ...authz.Revocation) error {
			appended, err := ledger.Append(ctx, rs)
			if err == nil && !r.Publish(ctx, appended.Revocations) {
				err = errors.New("not published at once")
			}
			return err
		}}
	})
}

func TestContracts(t *testing.T) {
	t.Parallel()
	topologies(t, func(t *testing.T, open func(func(*Config, *Options)) *Client, _ func(string, ...any) any) {
		t.Run("filler", func(t *testing.T) {
			authztest.TestFiller(t, func(t *testing.T) authztest.FillerSubject {
				c := open(nil)
				teach(t, c, c, tokenOf("first epoch", 1)) // it cannot be filled before
				return authztest.FillerSubject{Filler: c}
			})
		})
		t.Run("publisher", func(t *testing.T) {
			authztest.TestPublisher(t, func(*testing.T) authztest.PublisherSubject {
				return authztest.PublisherSubject{Publisher: open(nil), Tier: open(nil)}
			})
		})
		t.Run("replay store", func(t *testing.T) {
			authztest.TestReplayStore(t, func(*testing.T) authz.ReplayStore { return open(nil) })
		})
	})
}
