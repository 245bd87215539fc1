package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// While eight clients send forged tokens and the issuer's key endpoint hangs,
// every valid token is allowed and every forged one is denied: with 401, or with
// 503 if its key is being fetched.
func TestFloodOfForgedTokens(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{})
	good := r.Token(nil)
	reply := r.Front.Bearer(t, good)
	require.Equalf(t, http.StatusOK, reply.Status, "before the flood: %s", reply.Body)
	r.Issuer.FailJWKS(&authztest.Fault{Hang: true})
	before := r.Issuer.Fetches()
	foreign := authztest.NewKey("ES256")
	forge := []func(i int) string{
		func(i int) string {
			return r.Issuer.Mint(nil, authztest.With(foreign.Named(fmt.Sprint("unknown-", i))))
		},
		func(int) string { return r.Issuer.Mint(nil, authztest.Tampered()) },
		func(int) string { return r.Issuer.Mint(nil, authztest.Header("alg", "none")) },
		func(int) string { return r.Issuer.Mint(map[string]any{"iss": "https://evil.test"}) },
		func(int) string { return "e30.e30.AAAA" },
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var forged atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				reply, err := r.Front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+forge[i%len(forge)](w<<32|i))
				if ctx.Err() != nil {
					return
				}
				if !assert.Falsef(t, err != nil || reply.Status != http.StatusUnauthorized && (i%len(forge) != 0 || reply.Status != http.StatusServiceUnavailable), "forged token %d: %v %d %s", i%len(forge), err, reply.Status, reply.Body) {
					return
				}
				forged.Add(1)
			}
		})
	}
	for i := 0; (i < 300 || forged.Load() < 500) && i < 20000; i++ {
		token := good
		if i%2 == 0 { // one never seen before
			token = r.Token(nil)
		}
		reply := r.Front.Bearer(t, token)
		assert.Equalf(t, http.StatusOK, reply.Status, "valid token %d: %s", i, reply.Body)
	}
	cancel()
	wg.Wait()
	assert.GreaterOrEqualf(t, forged.Load(), int64(500), "%d forged tokens were sent, want at least 500", forged.Load())
	n := r.Issuer.Fetches() - before
	assert.LessOrEqualf(t, n, int64(10), "%d fetches of the key set, want at most 10", n)
	t.Logf("%d forged tokens denied, %d fetches", forged.Load(), r.Issuer.Fetches()-before)
}
