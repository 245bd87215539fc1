package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// The replica keeps the contract of every tier, fed by an authority in memory.
func TestReplicaTierContract(t *testing.T) {
	t.Parallel()
	authztest.TestTier(t, func(t *testing.T) authztest.TierSubject {
		authority := &authztest.Memory{}
		f := NewFollower(authority, NewReplica(), FollowerOptions{Config: DefaultRevocationConfig()})
		var turn sync.Mutex // syncs must not overlap
		sync := func(ctx context.Context) error {
			turn.Lock()
			defer turn.Unlock()
			return f.Sync(ctx)
		}
		if err := sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		return authztest.TierSubject{Tier: NewReplicaTier(f), Authority: true, Revoke: func(ctx context.Context, r ...authz.Revocation) error {
			_, err := authority.Append(ctx, r)
			return errors.Join(err, sync(ctx))
		}}
	})
}

// Redis keeps it too, except that it never knows that a token is good.
func TestRedisTierContract(t *testing.T) {
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
