package authztest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fatal is an error after which eventually does not try again.
type fatal struct{ error }

// eventually calls f until it returns nil, for at most 30 s. It is for work that a
// contract leaves to the background.
func eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || errors.As(err, new(fatal)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
