package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

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
	if reply := r.Front.Bearer(t, good); reply.Status != http.StatusOK {
		t.Fatalf("before the flood: %d %s", reply.Status, reply.Body)
	}
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
				if err != nil || reply.Status != http.StatusUnauthorized && (i%len(forge) != 0 || reply.Status != http.StatusServiceUnavailable) {
					t.Errorf("forged token %d: %v %d %s", i%len(forge), err, reply.Status, reply.Body)
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
		if reply := r.Front.Bearer(t, token); reply.Status != http.StatusOK {
			t.Errorf("valid token %d: %d %s", i, reply.Status, reply.Body)
		}
	}
	cancel()
	wg.Wait()
	if forged.Load() < 500 {
		t.Errorf("%d forged tokens were sent, want at least 500", forged.Load())
	}
	if n := r.Issuer.Fetches() - before; n > 10 {
		t.Errorf("%d fetches of the key set, want at most 10", n)
	}
	t.Logf("%d forged tokens denied, %d fetches", forged.Load(), r.Issuer.Fetches()-before)
}
