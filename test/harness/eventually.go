package harness

import (
	"context"
	"os"
	"testing"
	"time"
)

// Eventually polls check until it returns nil, and fails the test when wait is
// over: for real servers, whose progress nothing signals.
func Eventually(t testing.TB, wait time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s: %v", wait, what, err)
		case <-time.After(15 * time.Millisecond):
		}
	}
}

func removeAll(path string) error { return os.RemoveAll(path) }
