package authz

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Whoever was let in is waited for, and nobody is let in afterwards, however
// both meet (the race detector judges that).
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
		if b.Start(func() { t.Error("started after the end") }) {
			t.Fatal("let in after the end")
		}
		callers.Wait()
		if n := inside.Load(); n != 0 {
			t.Fatalf("%d are still inside", n)
		}
	}
}
