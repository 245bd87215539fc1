package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestSlowIntrospection: an endpoint that takes longer than a check can wait costs
// the first request with a token, which is answered 503. What the endpoint says then
// serves the next one, and the endpoint is not asked again.
func TestSlowIntrospection(t *testing.T) {
	t.Parallel()
	slow := make(chan struct{})
	var asked atomic.Int64
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.PostFormValue("token") != "opaque-token" { // a probe
			fmt.Fprint(w, `{"active":false}`)
			return
		}
		asked.Add(1)
		select {
		case <-slow:
			fmt.Fprintf(w, `{"active":true,"sub":"carol","aud":"api","exp":%d}`, time.Now().Add(time.Hour).Unix())
		case <-r.Context().Done(): // the sidecar has given up
		}
	}))
	t.Cleanup(login.Close)
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "introspection-secret\n")
	r := harness.NewRig(t, harness.RigOptions{Config: fmt.Sprintf(`
routes:
  - {name: slow, introspection: login}
introspection:
  - {name: login, endpoint: %q, issuer: "https://login.example", audiences: [api], client_id: bouncer, client_secret_file: %s, timeout: 10s, cache_ttl: 30s}
headers: {claims: {x-jwt-sub: sub}}
`, login.URL, secret)})
	reply := r.Front.Bearer(t, "opaque-token")
	require.Equal(t, http.StatusServiceUnavailable, reply.Status, reply.Body)
	require.Nil(t, reply.Upstream)
	require.EqualValues(t, 1, asked.Load(), "the endpoint was asked, and has not answered")
	close(slow)
	harness.Eventually(t, 10*time.Second, "the late response serves a request", func(ctx context.Context) error {
		reply, err := r.Front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer opaque-token")
		if err == nil && reply.Status != http.StatusOK {
			return fmt.Errorf("status %d", reply.Status)
		}
		if err == nil {
			assert.Equal(t, "carol", reply.Upstream.Header.Get("X-Jwt-Sub"))
		}
		return err
	})
	assert.EqualValues(t, 1, asked.Load(), "the late response was lost")
	harness.Eventually(t, 10*time.Second, "the late response is counted", func(context.Context) error { // a response of /metrics may be a second old
		if !regexp.MustCompile(`jwt_bouncer_introspections_total\{introspection="login",result="late"\} [1-9]`).MatchString(r.Bouncer.Metrics(t)) {
			return errors.New("not yet")
		}
		return nil
	})
}
