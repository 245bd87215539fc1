package policy_test

import (
	"testing"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/policy"
)

func TestMemoryReplayContract(t *testing.T) {
	t.Parallel()
	authztest.TestReplayStore(t, func(*testing.T) authz.ReplayStore {
		return policy.NewMemoryReplay(1000, authz.SystemClock{})
	})
}
