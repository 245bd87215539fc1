package rediscache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz/breaker"
)

const seenPrefix = "jwt-bouncer:seen:"

// Seen implements authz.ReplayStore for all sidecars that share the Redis: it
// records key for ttl and reports whether it was recorded already. Redis may forget
// a record early: it evicts it for lack of memory, is flushed, or fails over.
func (c *Client) Seen(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	ttl = max(ttl, time.Millisecond)  // SET refuses less, and a proof that old is refused elsewhere
	sum := sha256.Sum256([]byte(key)) // fixed length, no foreign text in key names
	return breaker.Do(ctx, c.breaker, func(ctx context.Context) (bool, error) {
		_, err := c.client.SetArgs(ctx, seenPrefix+hex.EncodeToString(sum[:]), "1", redis.SetArgs{Mode: "NX", TTL: ttl}).Result()
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, redis.Nil): // NX found the key
			return true, nil
		}
		return false, fmt.Errorf("redis: %w", err)
	})
}
