package authz

import (
	"context"
	"time"
)

// ReplayStore remembers what must not be used twice.
type ReplayStore interface {
	// Seen records key for ttl and reports whether it was recorded already.
	// On an error nothing is known, and the caller must not go on.
	Seen(ctx context.Context, key string, ttl time.Duration) (bool, error)
}
