package rediscache

import (
	"context"
	"fmt"
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
		authority := &authztest.Memory{} // fills what the ledger fills
		r := open(t, at(server.Addr))
		return authztest.TierSubject{Tier: r, Revoke: func(ctx context.Context, rs ...authz.Revocation) error {
			appended, err := authority.Append(ctx, rs)
			if err == nil && !r.Publish(ctx, appended.Revocations) {
				err = fmt.Errorf("not handed over at once")
			}
			return err
		}}
	})
}
