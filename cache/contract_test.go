package cache

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
)

// The replica keeps the contract of every tier; a store in memory feeds it.
func TestReplicaTierContract(t *testing.T) {
	t.Parallel()
	authztest.TestTier(t, func(t *testing.T) authztest.TierSubject {
		store := &authztest.Memory{}
		f := NewFollower(store, NewReplica(), FollowerOptions{Config: DefaultRevocationConfig()})
		var turn sync.Mutex // syncs must not overlap
		sync := func(ctx context.Context) error {
			turn.Lock()
			defer turn.Unlock()
			return f.Sync(ctx)
		}
		require.NoError(t, sync(t.Context()))
		return authztest.TierSubject{Tier: NewReplicaTier(f), Authority: true, Revoke: func(ctx context.Context, r ...authz.Revocation) error {
			_, err := store.Append(ctx, r)
			return errors.Join(err, sync(ctx))
		}}
	})
}

func TestTokenCacheContract(t *testing.T) {
	t.Parallel()
	authztest.TestTokenCache(t, func(t *testing.T) authz.TokenCache {
		c := NewTokenCache(DefaultTokenCacheConfig(), nil)
		t.Cleanup(c.Close)
		return c
	})
}
