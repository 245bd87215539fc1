package rediscache

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/test/harness"
)

// The ACL rule in docs/redis.md allows everything that a client does.
func TestACL(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/redis.md")
	require.NoError(t, err)
	_, rule, found := strings.Cut(string(page), "\nuser jwt_bouncer on >… ")
	require.True(t, found)
	rule, _, _ = strings.Cut(rule, "\n")
	s := harness.Redis(t)
	args := []any{"ACL", "SETUSER", "jwt_bouncer", "on", ">secret"}
	for _, r := range strings.Fields(rule) {
		args = append(args, r)
	}
	s.Do(t, args...)
	with := func(c *Config, _ *Options) {
		c.Addrs, c.Username, c.Password, c.LegacyKeys = []string{s.Addr}, "jwt_bouncer", "secret", true
	}
	writer, reader := open(t, with), open(t, with)
	var notified atomic.Int64
	subscribed(t, reader, &notified)
	teach(t, writer, reader, tokenOf("acl", 1))
	heard := notified.Load()
	require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-acl", nil)}))
	require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-acl", nil)}), "over an existing key as well")
	require.Equal(t, authz.Revoked, ask(t, reader, tokenOf("acl", 1)))
	require.Eventually(t, func() bool { return notified.Load() > heard }, 5*time.Second, time.Millisecond)
	_, err = writer.Seen(t.Context(), "k", time.Second)
	require.NoError(t, err)
	require.Error(t, writer.client.FlushAll(t.Context()).Err(), "and nothing more")
}
