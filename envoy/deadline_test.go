package envoy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The context of an Authorizer ends at the deadline of the check.
func TestDeadlineContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		parent, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "v"))
		defer cancel()
		fresh := func() *deadlineContext {
			return &deadlineContext{parent: parent, deadline: time.Now().Add(checkTime)}
		}
		lazy, waited := fresh(), fresh()
		at, ok := lazy.Deadline()
		assert.True(t, ok)
		assert.Equal(t, checkTime, time.Until(at))
		assert.Equal(t, "v", lazy.Value(key{}))
		require.NoError(t, lazy.Err())
		done := waited.Done()
		require.NoError(t, waited.Err())
		child, stop := context.WithTimeout(waited, time.Hour)
		defer stop()
		<-done
		assert.Equal(t, checkTime, checkTime-time.Until(at))
		synctest.Wait()
		require.ErrorIs(t, waited.Err(), context.DeadlineExceeded)
		require.ErrorIs(t, child.Err(), context.DeadlineExceeded)
		require.ErrorIs(t, lazy.Err(), context.DeadlineExceeded)
		<-lazy.Done()

		cancelled := fresh()
		cancel()
		require.ErrorIs(t, cancelled.Err(), context.Canceled)
		<-cancelled.Done()
		assert.Equal(t, "v", cancelled.Value(key{}))

		released := &deadlineContext{parent: context.Background(), deadline: time.Now().Add(checkTime)}
		released.Done()
		released.release()
		require.ErrorIs(t, released.Err(), context.Canceled)
		fresh().release()
	})
}
