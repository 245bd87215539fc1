package harness

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
)

// Every kind of process sees a step at once.
func TestClock(t *testing.T) {
	t.Parallel()
	clock := NewClock(t)
	issuer := authztest.NewIssuer()
	t.Cleanup(issuer.Close)
	pg, redis := OwnPostgresAt(t, clock), RedisAt(t, clock)
	b := Bouncer(t, fmt.Sprintf("issuers: [{issuer: %s, audiences: [api], jwks: %s}]\nstore: sqlite://%s/revocations.db\n",
		issuer.Name, issuer.JWKSURL(), Dir(t)), BouncerOptions{Clock: clock})
	c := pg.Connect(t)
	for _, step := range []time.Duration{0, 36 * time.Hour, -36 * time.Hour, 0} {
		clock.Step(step)
		var database time.Time
		require.NoError(t, c.QueryRow(t.Context(), "select clock_timestamp()").Scan(&database))
		seconds, err := strconv.ParseInt(redis.Do(t, "TIME").([]any)[0].(string), 10, 64)
		require.NoError(t, err)
		for name, shown := range map[string]time.Time{"PostgreSQL": database, "Redis": time.Unix(seconds, 0), "jwt-bouncer": httpDate(t, b)} {
			off := shown.Sub(clock.Now()).Abs()
			assert.LessOrEqualf(t, off, time.Minute, "stepped by %s: %s is off by %s", step, name, off)
		}
	}
}

func httpDate(t *testing.T, b *BouncerServer) time.Time {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, b.HTTP+"/livez", nil)
	require.NoError(t, err)
	resp, err := plain.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	require.NoError(t, err)
	return at
}
