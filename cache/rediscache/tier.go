package rediscache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

const (
	revokedPrefix = "token:revoked:" // of keys, as in older deployments
	validPrefix   = "token:valid:"   // of keys, as in older deployments
	always        = "always"         // stored form of authz.Always
	// graceSeconds keeps a revoked key beyond its tokens' expiry: verifiers allow
	// leeway, and the server's clock may be ahead.
	graceSeconds = int64(authz.ExpiryGrace / time.Second)
)

// Name implements authz.Tier.
func (c *Client) Name() string { return "redis" }

// Lookup implements authz.Tier in one round trip (in a Cluster, one per node, all
// at the same time). A missing key proves nothing. Revoked wins over valid, and
// a reply that is missing or an error makes the answer Unknown unless another
// reply says revoked. A token:valid entry is believed only within max_staleness
// as this process measures it (see epochs).
func (c *Client) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	return breaker.Do(ctx, c.breaker, func(ctx context.Context) (authz.Verdict, error) { return c.lookup(ctx, q) })
}

func (c *Client) lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	question := q.Hash()
	keys := c.revokedKeys(q, question)
	own, revoked := len(q.Keys), len(keys) // own keys, then those that always revoke, then the valid key
	if c.epochs != nil {
		keys = append(keys, validKey(question))
	}
	replies, err := c.read(ctx, keys)
	for i, reply := range replies[:min(revoked, len(replies))] {
		if reply == nil {
			continue
		}
		if i >= own || parseEntry(*reply).Revokes(q.IssuedAt) {
			return authz.Revoked, nil
		}
	}
	if err != nil {
		return authz.Unknown, fmt.Errorf("redis: %w", err)
	}
	if c.epochs != nil && replies[revoked] != nil && c.epochs.proves(*replies[revoked], time.Duration(c.limit.Load())) {
		return authz.NotRevoked, nil
	}
	return authz.Unknown, nil
}

// read returns one reply per key, nil for a key that is missing or failed, and
// the first error. One MGET is the cheapest for a server; a Cluster takes keys
// of different slots only as single commands.
func (c *Client) read(ctx context.Context, keys []string) ([]*string, error) {
	replies := make([]*string, len(keys))
	if !c.cfg.Cluster {
		// Not MGet: it takes the number in any reply for the length of an array, so
		// it would read the contents of a string, which the guard let pass, as replies.
		args := append(make([]any, 0, 1+len(keys)), "mget")
		for _, k := range keys {
			args = append(args, k)
		}
		values, err := c.client.Do(ctx, args...).Slice()
		if err != nil {
			return nil, err
		}
		if len(values) != len(keys) {
			return nil, fmt.Errorf("MGET answered %d values for %d keys", len(values), len(keys))
		}
		for i, v := range values {
			if s, ok := v.(string); ok {
				replies[i] = &s
			}
		}
		return replies, nil
	}
	gets := make([]*redis.StringCmd, len(keys))
	pipe := c.client.Pipeline()
	for i, k := range keys {
		gets[i] = pipe.Get(ctx, k)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var first error
	for i, get := range gets {
		s, err := get.Result()
		switch {
		case err == nil:
			replies[i] = &s
		case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"): // MGET answers nil for both
		case first == nil:
			first = err
		}
	}
	c.suspectTopology(ctx, first)
	return replies, first
}

// revokedKeys lists every key whose presence may revoke the token: its own
// first, then the question's (see fill) and the older layout's.
func (c *Client) revokedKeys(q *authz.Query, question authz.Key) []string {
	keys := make([]string, 0, len(q.Keys)+3)
	for _, k := range q.Keys {
		keys = append(keys, revokedKey(k))
	}
	keys = append(keys, revokedKey(question))
	if c.cfg.LegacyKeys && q.ID != "" {
		keys = append(keys, revokedPrefix+q.ID)
	}
	return keys
}

func revokedKey(k authz.Key) string { return keyName(revokedPrefix, k) }
func validKey(k authz.Key) string   { return keyName(validPrefix, k) }

func keyName(prefix string, k authz.Key) string {
	b := make([]byte, 0, len(prefix)+2*len(k))
	return string(hex.AppendEncode(append(b, prefix...), k[:]))
}

func formatEntry(e authz.Entry) string {
	if e.NotBefore == authz.Always {
		return always
	}
	return strconv.FormatInt(e.NotBefore, 10)
}

// parseEntry reads a stored not_before. A value it cannot read revokes always:
// the key is there, and nothing proves that it does not match.
func parseEntry(s string) authz.Entry {
	nb, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		nb = authz.Always
	}
	return authz.Entry{NotBefore: nb}
}
