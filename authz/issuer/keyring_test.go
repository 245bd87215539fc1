package issuer_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

const bubbleIssuer = "https://issuer.test"

// inBubble runs f with a started verifier of an issuer in memory, under
// synctest's time.
func inBubble(t *testing.T, f func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier), change ...func(*issuer.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		iss := authztest.NewIssuer(authztest.Offline(), authztest.Named(bubbleIssuer))
		cfg := issuer.Config{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: bubbleIssuer + "/jwks.json"}
		for _, c := range change {
			c(&cfg)
		}
		v, err := issuer.NewVerifier([]issuer.Config{cfg}, issuer.VerifierOptions{
			Clock: authztest.BubbleClock{Start: time.Now()}, Transport: iss.Transport(), MaxTokenTTL: 1000 * time.Hour,
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		v.Start(ctx)
		synctest.Wait()
		f(t, iss, v)
		cancel()
		v.Close()
	})
}

func TestRotationNeedsNoWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		old := iss.Key("")
		before, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)

		iss.Rotate("ES256")
		start := time.Now()
		after, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)
		require.Zero(t, time.Since(start))
		require.True(t, v.Current(before, time.Now().Unix()), "an added key ends no token")
		require.Equal(t, before.Generation, after.Generation)

		iss.Withdraw(old.ID)
		require.True(t, v.Current(before, time.Now().Unix()), "no fetch yet")
		require.NoError(t, v.Refresh(t.Context()))
		require.False(t, v.Current(before, time.Now().Unix()), "its key was withdrawn")
		require.False(t, v.Expired(before, time.Now().Unix()))
		_, err = v.Verify(t.Context(), before.Raw)
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
		again, err := v.Verify(t.Context(), after.Raw)
		require.NoError(t, err)
		require.True(t, v.Current(again, time.Now().Unix()))
	})
}

// The background refresher notices a withdrawal.
func TestWithdrawalInTheBackground(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		token, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)
		iss.Withdraw(token.KeyID)
		iss.Rotate("ES256")
		time.Sleep(6 * time.Minute) // interval 5m + 20 %
		synctest.Wait()
		require.False(t, v.Current(token, time.Now().Unix()-6*60))
	})
}

// Another key with the same kid is a withdrawal too.
func TestKeyReplacedUnderItsKID(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		token, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)
		iss.Publish(authztest.KeySet(authztest.NewKey("ES256").Named(token.KeyID)))
		require.NoError(t, v.Refresh(t.Context()))
		require.False(t, v.Current(token, time.Now().Unix()))
		_, err = v.Verify(t.Context(), token.Raw)
		require.Equal(t, authz.ReasonBadSignature, authztest.ReasonOf(err))
	})
}

// A cached token lacks the revocation key of a kid that its key got later, so it
// is verified again.
func TestKeyGetsAnotherKID(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		key := iss.Key("")
		before, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)
		iss.Add(key.Named("another"))
		require.NoError(t, v.Refresh(t.Context()))
		require.False(t, v.Current(before, time.Now().Unix()))
		after, err := v.Verify(t.Context(), before.Raw)
		require.NoError(t, err)
		require.Contains(t, after.Keys, authz.RevocationKey(authz.KindKID, iss.Name, "another"))
		iss.Publish(authztest.KeySet(key.Named("another"), key)) // in another order
		require.NoError(t, v.Refresh(t.Context()))
		require.True(t, v.Current(after, time.Now().Unix()))
	})
}

func TestUnknownKeysCauseFewFetches(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		require.EqualValues(t, 1, iss.Fetches())
		iss.FailJWKS(&authztest.Fault{Delay: 20 * time.Millisecond, Genuine: true})
		foreign := authztest.NewKey("ES256")
		reasons := verifyAll(t, v, 200, func(i int) string {
			return iss.Mint(nil, authztest.With(foreign.Named(fmt.Sprint("unknown-", i))))
		})
		require.EqualValues(t, 2, iss.Fetches(), "one flight for all")
		require.Equal(t, map[authz.Reason]int{authz.ReasonUnknownKey: 200}, reasons)
		// One after the other over 20 s: a fetch per cooldown of 5 s.
		for i := range 200 {
			_, _ = v.Verify(t.Context(), iss.Mint(nil, authztest.With(foreign.Named(fmt.Sprint("later-", i)))))
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, iss.Fetches(), int64(10))
		// One kid again and again causes fewer still.
		before := iss.Fetches()
		raw := iss.Mint(nil, authztest.With(foreign.Named("stale")))
		for range 100 {
			_, _ = v.Verify(t.Context(), raw)
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, iss.Fetches()-before, int64(1))
	})
}

// verifyAll verifies n tokens concurrently and counts the reasons.
func verifyAll(t *testing.T, v *issuer.Verifier, n int, mint func(i int) string) map[authz.Reason]int {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[authz.Reason]int{}
	for i := range n {
		raw := mint(i)
		wg.Go(func() {
			r := authz.ReasonAllowed
			if _, err := v.Verify(t.Context(), raw); err != nil {
				r = authztest.ReasonOf(err)
			}
			mu.Lock()
			defer mu.Unlock()
			counts[r]++
		})
	}
	wg.Wait()
	return counts
}

// After a rotation many tokens of the new key arrive at once. None of them is
// refused as invalid while the set is being fetched.
func TestTokensOfANewKeyAtOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		delay  time.Duration
		forged bool // a forged token comes first
		want   map[authz.Reason]int
	}{
		"soon":            {50 * time.Millisecond, false, map[authz.Reason]int{authz.ReasonAllowed: 256, authz.ReasonKeysUnavailable: 44}},
		"slowly":          {500 * time.Millisecond, false, map[authz.Reason]int{authz.ReasonKeysUnavailable: 300}},
		"behind a forged": {50 * time.Millisecond, true, map[authz.Reason]int{authz.ReasonAllowed: 255, authz.ReasonKeysUnavailable: 45}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
				time.Sleep(time.Minute) // at another time than the refresher
				iss.Rotate("ES256")
				iss.FailJWKS(&authztest.Fault{Delay: tt.delay, Genuine: true})
				if tt.forged {
					go func() { _, _ = v.Verify(t.Context(), iss.Mint(nil, authztest.With(authztest.NewKey("ES256")))) }()
					synctest.Wait() // its fetch is under way
				}
				require.Equal(t, tt.want, verifyAll(t, v, 300, func(int) string { return iss.Mint(nil) }))
				time.Sleep(time.Second) // as Retry-After says
				require.Equal(t, map[authz.Reason]int{authz.ReasonAllowed: 300}, verifyAll(t, v, 300, func(int) string { return iss.Mint(nil) }))
			})
		})
	}
}

// A failed fetch proves nothing about the kid that caused it, and is repeated
// after the cooldown. A successful one proves the kid unknown.
func TestFailedFetchProvesNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		time.Sleep(time.Minute)
		iss.FailJWKS(&authztest.Fault{Status: http.StatusServiceUnavailable})
		next := authztest.NewKey("ES256")
		raw := iss.Mint(nil, authztest.With(next), authztest.Lifetime(time.Hour))
		_, err := v.Verify(t.Context(), raw)
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
		iss.FailJWKS(nil)
		time.Sleep(5 * time.Second)
		_, err = v.Verify(t.Context(), raw)
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
		iss.Add(next)
		time.Sleep(14 * time.Second)
		_, err = v.Verify(t.Context(), raw)
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err), "known to be missing")
		time.Sleep(time.Second)
		_, err = v.Verify(t.Context(), raw)
		require.NoError(t, err)

		iss.FailJWKS(&authztest.Fault{Status: http.StatusServiceUnavailable})
		iss.Rotate("ES256")
		raw = iss.Mint(nil, authztest.Lifetime(time.Hour))
		time.Sleep(5 * time.Second)
		_, err = v.Verify(t.Context(), raw)
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
		iss.FailJWKS(nil)
		time.Sleep(5 * time.Second)
		_, err = v.Verify(t.Context(), raw)
		require.NoError(t, err, "recovered after the cooldown")
	})
}

// A sidecar that is not ready receives no tokens that would cause a fetch. The
// readiness probe causes fetches instead, within the cooldown.
func TestReadinessProbeFetchesKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := authztest.NewIssuer(authztest.Offline(), authztest.Named(bubbleIssuer))
		iss.FailJWKS(&authztest.Fault{Status: http.StatusServiceUnavailable})
		v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: bubbleIssuer + "/jwks.json", MaxKeyAge: time.Hour}},
			issuer.VerifierOptions{Clock: authztest.BubbleClock{Start: time.Now()}, Transport: iss.Transport()})
		require.NoError(t, err)
		v.Start(t.Context())
		for _, away := range []time.Duration{15 * time.Minute, 2 * time.Hour} { // from the start, and until the keys are discarded
			iss.FailJWKS(&authztest.Fault{Status: http.StatusServiceUnavailable})
			time.Sleep(away)
			synctest.Wait()
			before := iss.Fetches()
			for range 600 {
				require.Error(t, v.Ready())
				time.Sleep(100 * time.Millisecond)
			}
			require.LessOrEqual(t, iss.Fetches()-before, int64(12+4), "a fetch at every probe")
			iss.FailJWKS(nil)
			for range 50 { // 5 s
				_ = v.Ready()
				time.Sleep(100 * time.Millisecond)
			}
			require.NoError(t, v.Ready(), "after %s", away)
		}
		v.Close()
	})
}

// With every failure of the endpoint, a check that waits for it ends in time, and
// tokens of known keys do not wait.
func TestKeyEndpointFailures(t *testing.T) {
	t.Parallel()
	faults := map[string]*authztest.Fault{
		"hangs":               {Hang: true},
		"slow":                {Delay: 1500 * time.Millisecond, Genuine: true},
		"error":               {Status: http.StatusInternalServerError, Body: `{"keys":[]}`},
		"no content":          {Status: http.StatusNoContent},
		"garbage":             {Body: "<html>maintenance</html>"},
		"empty":               {},
		"empty object":        {Body: "{}"},
		"null keys":           {Body: `{"keys":null}`},
		"keys no array":       {Body: `{"keys":{}}`},
		"keys twice":          {Body: `{"keys":[],"keys":[]}`},
		"two documents":       {Body: `{"keys":[]}{"keys":[]}`},
		"too large":           {Genuine: true, Flood: 2 << 20},
		"redirect away":       {Redirect: "https://evil.test/jwks.json"},
		"redirect to http":    {Redirect: "http://issuer.test/jwks.json"},
		"redirect to a file":  {Redirect: "file:///etc/passwd"},
		"redirect in circles": {Redirect: "/jwks.json"},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
				good, err := v.Verify(t.Context(), iss.Mint(nil))
				require.NoError(t, err)
				iss.FailJWKS(fault)
				start := time.Now()
				_, err = v.Verify(t.Context(), iss.Mint(nil, authztest.With(authztest.NewKey("ES256"))))
				want := authz.ReasonUnknownKey
				if name == "hangs" || name == "slow" { // the key may still be found
					want = authz.ReasonKeysUnavailable
				}
				require.Equal(t, want, authztest.ReasonOf(err))
				require.LessOrEqual(t, time.Since(start), 100*time.Millisecond)
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				require.True(t, v.Current(good, good.IssuedAt), "the last good keys stay in use")
				_, err = v.Verify(t.Context(), iss.Mint(nil))
				require.NoError(t, err)
				if name != "slow" {
					require.NotEmpty(t, v.Status()[0].Err)
				}
				iss.FailJWKS(nil)
				iss.Rotate("ES256")
				time.Sleep(5 * time.Second)
				_, err = v.Verify(t.Context(), iss.Mint(nil))
				require.NoError(t, err, "recovered without a restart")
			})
		})
	}
}

func TestEmptySetWithdrawsEverything(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		token, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)
		iss.Publish([]byte(`{"keys":[]}`))
		require.NoError(t, v.Refresh(t.Context()))
		require.False(t, v.Current(token, token.IssuedAt))
		require.Error(t, v.Ready())
	})
}

func TestKeysBecomeTooOld(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		token, err := v.Verify(t.Context(), iss.Mint(nil, authztest.Lifetime(900*time.Hour)))
		require.NoError(t, err)
		iss.FailJWKS(&authztest.Fault{Status: http.StatusBadGateway})
		time.Sleep(53 * time.Minute)
		require.True(t, v.Current(token, time.Now().Unix()))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.False(t, v.Current(token, time.Now().Unix()))
		require.Error(t, v.Ready())
		start := time.Now()
		_, err = v.Verify(t.Context(), token.Raw)
		require.Equal(t, authz.ReasonKeysUnavailable, authztest.ReasonOf(err))
		require.LessOrEqual(t, time.Since(start), 100*time.Millisecond)
		iss.FailJWKS(nil)
		time.Sleep(5 * time.Second)
		_, err = v.Verify(t.Context(), token.Raw)
		require.NoError(t, err)
	}, func(c *issuer.Config) { c.MaxKeyAge = time.Hour })
}

// The number of checks that wait for keys is bounded. No token is refused as
// invalid meanwhile, and tokens of known keys do not wait.
func TestWaitersAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		iss.FailJWKS(&authztest.Fault{Hang: true})
		foreign := authztest.NewKey("ES256")
		var wg sync.WaitGroup
		var mu sync.Mutex
		waited := 0
		for i := range 500 {
			raw := iss.Mint(nil, authztest.With(foreign.Named(fmt.Sprint("unknown-", i))))
			wg.Go(func() {
				start := time.Now()
				_, err := v.Verify(t.Context(), raw)
				require.Equal(t, authz.ReasonKeysUnavailable, authztest.ReasonOf(err))
				if time.Since(start) > 0 {
					mu.Lock()
					waited++
					mu.Unlock()
				}
			})
		}
		start := time.Now()
		_, err := v.Verify(t.Context(), iss.Mint(nil))
		require.NoError(t, err)
		require.Zero(t, time.Since(start))
		wg.Wait()
		require.Equal(t, 256, waited)
		// The fetch has failed by now: the current keys decide.
		time.Sleep(20 * time.Second)
		_, err = v.Verify(t.Context(), iss.Mint(nil, authztest.With(authztest.NewKey("ES256"))))
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
	})
}

func TestWaitingEndsWithTheCheck(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		iss.FailJWKS(&authztest.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := v.Verify(ctx, iss.Mint(nil, authztest.With(authztest.NewKey("ES256"))))
		require.Equal(t, authz.ReasonKeysUnavailable, authztest.ReasonOf(err))
		require.LessOrEqual(t, time.Since(start), 10*time.Millisecond)
	})
}

// A token without kid cannot name the new key, so its bad signature is the hint.
func TestRotationWithoutKeyIDs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		next := authztest.NewKey("ES256").Named("")
		iss.Publish(authztest.KeySet(authztest.NewKey("ES256").Named("")))
		require.NoError(t, v.Refresh(t.Context()))
		iss.Publish(authztest.KeySet(next))
		raw := iss.Mint(nil, authztest.With(next))
		_, err := v.Verify(t.Context(), raw)
		require.Equal(t, authz.ReasonBadSignature, authztest.ReasonOf(err))
		synctest.Wait()
		_, err = v.Verify(t.Context(), raw)
		require.NoError(t, err)
	})
}

// nbf is compared again when a remembered token is used: the clock may have
// been set back since.
func TestCurrentComparesTimes(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	now := time.Now().Unix()
	token, err := v.Verify(t.Context(), iss.Mint(map[string]any{"nbf": now - 10}))
	require.NoError(t, err)
	require.True(t, v.Current(token, now))
	require.False(t, v.Current(token, now-100))
	require.False(t, v.Current(token, token.Expires))
}

func TestKeyMetrics(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	weak := authztest.NewKey("ES256").With("use", "enc")
	iss.Add(weak)
	registry := prometheus.NewPedanticRegistry()
	cfg := []issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: iss.JWKSURL()}}
	v, err := issuer.NewVerifier(cfg, issuer.VerifierOptions{Registry: registry})
	require.NoError(t, err)
	require.NoError(t, v.Refresh(t.Context()))
	_, err = v.Verify(t.Context(), iss.Mint(nil, authztest.With(authztest.NewKey("ES256"))))
	require.Error(t, err)
	metrics, err := registry.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, f := range metrics {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "issuer" {
					name += "/" + l.GetValue()
				} else {
					require.Equal(t, iss.Name, l.GetValue())
				}
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	require.Len(t, values, 8)
	require.Equal(t, 1.0, values["jwt_bouncer_jwks_keys"])
	require.Equal(t, 1.0, values["jwt_bouncer_jwks_refused_keys"])
	require.Equal(t, 2.0, values["jwt_bouncer_jwks_refreshes_total/ok"])
	require.Equal(t, 1.0, values["jwt_bouncer_jwks_token_fetches_total/started"])
	v.Close()
	_, err = issuer.NewVerifier(cfg, issuer.VerifierOptions{Registry: registry})
	require.NoError(t, err, "Close unregisters the metrics")
}

// A token of one verifier is not current for another.
func TestGenerationsAreNotShared(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	first, second := authztest.NewVerifier(t, iss), authztest.NewVerifier(t, iss)
	token, err := first.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err)
	require.True(t, first.Current(token, token.IssuedAt))
	require.False(t, second.Current(token, token.IssuedAt))
	require.False(t, first.Current(&authz.Token{Expires: token.Expires}, token.IssuedAt))
}

// An unknown key is a settled matter while the keys have just been fetched, and
// none while they could not be: the next ones may hold it.
func TestUnknownKeyIsSettledByAFetch(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		settled := func() bool {
			t.Helper()
			_, err := v.Verify(t.Context(), iss.Mint(nil, authztest.With(authztest.NewKey("ES256"))))
			var f *authz.Failure
			require.ErrorAs(t, err, &f)
			require.Equal(t, authz.ReasonUnknownKey, f.Reason)
			return f.Settled
		}
		time.Sleep(time.Minute)
		require.True(t, settled(), "the kid was fetched for")
		require.True(t, settled(), "and is not again at once")
		iss.FailJWKS(&authztest.Fault{Status: http.StatusServiceUnavailable})
		time.Sleep(time.Minute)
		require.False(t, settled(), "the fetch failed")
	})
}

// A kid is unknown as a whole, however long.
func TestLongKIDsAreDistinct(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		long := strings.Repeat("k", 100)
		_, err := v.Verify(t.Context(), iss.Mint(nil, authztest.With(authztest.NewKey("ES256").Named(long+"1"))))
		require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
		time.Sleep(6 * time.Second) // the cooldown, less than the memory of unknown kids
		key := authztest.NewKey("ES256").Named(long + "2")
		iss.Add(key)
		_, err = v.Verify(t.Context(), iss.Mint(nil, authztest.With(key)))
		require.NoError(t, err)
	})
}

// Tokens that name their key by the thumbprint of its certificate survive a
// rollover, and are revoked by the kid of the key.
func TestThumbprintNamesTheKey(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		certified := func(k *authztest.Key, der string) (*authztest.Key, string) {
			sum := sha1.Sum([]byte(der))
			return k.With("x5c", []string{base64.StdEncoding.EncodeToString([]byte(der))}), base64.RawURLEncoding.EncodeToString(sum[:])
		}
		mint := func(k *authztest.Key, x5t string) string {
			return iss.Mint(nil, authztest.With(k), authztest.Header("kid", nil), authztest.Header("x5t", x5t))
		}
		first, x5t1 := certified(iss.Key(""), "certificate 1")
		second, x5t2 := certified(authztest.NewKey("ES256"), "certificate 2")
		iss.Publish(authztest.KeySet(first))
		require.NoError(t, v.Refresh(t.Context()))
		_, err := v.Verify(t.Context(), mint(first, x5t1))
		require.NoError(t, err)

		iss.Publish(authztest.KeySet(first, second))
		token, err := v.Verify(t.Context(), mint(second, x5t2))
		require.NoError(t, err, "the sidecar knew one key only, and fetched the set for another thumbprint")
		require.Equal(t, second.ID, token.KeyID)
		require.Contains(t, token.Keys, authz.RevocationKey(authz.KindKID, iss.Name, second.ID))
		_, err = v.Verify(t.Context(), mint(first, x5t1))
		require.NoError(t, err)

		before := iss.Fetches()
		for range 100 {
			_, err = v.Verify(t.Context(), mint(second, "unknown"))
			require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
		}
		require.LessOrEqual(t, iss.Fetches(), before+1)
	})
}
