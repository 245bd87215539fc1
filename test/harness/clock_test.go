package harness

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

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
		if err := c.QueryRow(t.Context(), "select clock_timestamp()").Scan(&database); err != nil {
			t.Fatal(err)
		}
		seconds, err := strconv.ParseInt(redis.Do(t, "TIME").([]any)[0].(string), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for name, shown := range map[string]time.Time{"PostgreSQL": database, "Redis": time.Unix(seconds, 0), "jwt-bouncer": httpDate(t, b)} {
			if off := shown.Sub(clock.Now()).Abs(); off > time.Minute {
				t.Errorf("stepped by %s: %s is off by %s", step, name, off)
			}
		}
	}
}

func httpDate(t *testing.T, b *BouncerServer) time.Time {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, b.HTTP+"/livez", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := plain.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}
