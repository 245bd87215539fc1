package cache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

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
		return authztest.TierSubject{Tier: NewReplicaTier(f), Authority: true, Immediate: true, Revoke: func(ctx context.Context, r ...authz.Revocation) error {
			_, err := store.Append(ctx, r)
			return errors.Join(err, sync(ctx))
		}}
	})
}

// Without proof the tier says so at once and asks for no sync, where Lookup would wait for one. A
// revocation it has seen denies all the same.
func TestReplicaTierNow(t *testing.T) {
	t.Parallel()
	store, clock := &authztest.Memory{}, &authztest.MovableClock{}
	revoked := authz.Revocation{Kind: authz.KindJTI, Issuer: "https://issuer.example", Value: "gone", ExpiresAt: time.Now().Add(time.Hour)}
	_, err := store.Append(t.Context(), []authz.Revocation{revoked})
	require.NoError(t, err)
	f := NewFollower(store, NewReplica(), FollowerOptions{Config: DefaultRevocationConfig(), Clock: clock})
	tier := NewReplicaTier(f)
	q := &authz.Query{Keys: []authz.Key{{1}}}
	v, proven := tier.LookupNow(q)
	require.False(t, proven || v != authz.Unknown, "before the first load")
	require.NoError(t, f.Sync(t.Context()))
	v, proven = tier.LookupNow(q)
	require.True(t, proven && v == authz.NotRevoked, "fresh")
	clock.Move(time.Hour)
	v, proven = tier.LookupNow(q)
	require.False(t, proven || v != authz.Unknown, "stale")
	v, proven = tier.LookupNow(&authz.Query{Keys: []authz.Key{revoked.Key()}})
	require.True(t, proven && v == authz.Revoked, "a revocation denies however old the replica is")
	require.Empty(t, f.syncs.wake, "a sync was asked for")
}

func TestTokenCacheContract(t *testing.T) {
	t.Parallel()
	authztest.TestTokenCache(t, func(t *testing.T) authz.TokenCache {
		c := NewTokenCache(DefaultTokenCacheConfig(), nil)
		t.Cleanup(c.Close)
		return c
	})
}
