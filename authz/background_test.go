package authz

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Close waits for every Enter, and no Enter succeeds after it, however
// they interleave (the race detector checks that).
func TestBackground(t *testing.T) {
	t.Parallel()
	for range 200 {
		var b Background
		var inside atomic.Int64
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				inside.Add(1)
				if !b.Start(func() { inside.Add(-1) }) {
					inside.Add(-1)
				}
			})
		}
		b.Close()
		require.False(t, b.Start(func() { t.Error("started after the end") }), "let in after the end")
		callers.Wait()
		n := inside.Load()
		require.Zerof(t, n, "%d are still inside", n)
	}
}
