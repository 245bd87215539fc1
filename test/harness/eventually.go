package harness

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Eventually calls check until it returns nil, and fails the test if it does
// not within the given time. Real servers give no signal to wait for; what can
// be signalled is waited for on a channel instead.
func Eventually(t testing.TB, within time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	require.NoErrorf(t, Poll(ctx, 15*time.Millisecond, check), "not within %s: %s", within, what)
}

// Poll calls check at once and then at each interval until it returns nil. When
// ctx ends first, Poll returns check's last error.
func Poll(ctx context.Context, interval time.Duration, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		Pause(ctx, interval)
		if ctx.Err() != nil {
			return err
		}
	}
}

// Pause returns after d, or earlier when ctx ends. It is for letting time pass:
// how long a fault lasts, how often a probe is sent. To wait for a condition,
// use Eventually.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
