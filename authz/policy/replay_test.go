package policy_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

func TestSharedReplayContract(t *testing.T) {
	t.Parallel()
	authztest.TestReplayStore(t, func(*testing.T) authz.ReplayStore {
		clock := authz.SystemClock{}
		return policy.NewSharedReplay(policy.NewMemoryReplay(1000, clock), policy.NewMemoryReplay(1000, clock), false)
	})
}

// forgetful is a shared store that remembers nothing, or fails.
type forgetful struct{ err error }

func (f *forgetful) Seen(context.Context, string, time.Duration) (bool, error) { return false, f.err }

func TestSharedReplay(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		shared := &forgetful{}
		s := policy.NewSharedReplay(policy.NewMemoryReplay(3, authz.SystemClock{}), shared, alone)
		seen := func(key string) any {
			seen, err := s.Seen(t.Context(), key, time.Minute)
			if err != nil {
				require.False(t, seen)
				return err
			}
			return seen
		}
		require.Equal(t, false, seen("a"))
		require.Equal(t, true, seen("a"), "remembered here")
		shared.err = errors.New("away")
		if alone {
			assert.Equal(t, true, seen("a"))
			assert.Equal(t, false, seen("b"))
		} else {
			assert.Equal(t, shared.err, seen("a"))
			assert.Equal(t, shared.err, seen("b"))
		}
		shared.err = nil
		assert.Equal(t, alone, seen("b"), "a denied request is no use")
		assert.Equal(t, false, seen("c"))
		assert.ErrorContains(t, seen("d").(error), "full", "nothing is forgotten early")
		assert.Equal(t, true, seen("c"))
	}
}

// The documentation of replay_entries names the size of a record.
func TestMemoryReplaySize(t *testing.T) {
	const records = 200_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := policy.NewMemoryReplay(records, authz.SystemClock{})
	for i := range records {
		_, err := m.Seen(t.Context(), strconv.Itoa(i), time.Hour)
		require.NoError(t, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	size := float64(after.HeapAlloc-before.HeapAlloc) / records
	runtime.KeepAlive(m)
	t.Logf("%.0f bytes for a record", size)
	assert.Less(t, size, 100.0)
}
