package issuer_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

// While forged tokens with unknown keys wait for a hanging endpoint, good tokens
// do not wait: no synthetic time passes.
func TestFloodDoesNotDelayGoodTokens(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		iss.FailJWKS(&authztest.Fault{Hang: true})
		foreign := authztest.NewKey("ES256")
		good := iss.Mint(nil)
		var wg sync.WaitGroup
		for i := range 300 {
			raw := iss.Mint(nil, authztest.With(foreign.Named(fmt.Sprint("unknown-", i))))
			wg.Go(func() { _, _ = v.Verify(t.Context(), raw) })
			if i%10 == 0 {
				start := time.Now()
				_, err := v.Verify(t.Context(), good)
				require.NoError(t, err)
				require.Zero(t, time.Since(start))
			}
		}
		wg.Wait()
	})
}

// Verification, rotation, withdrawal and scraping at once, for the race
// detector; and no token of a withdrawn key is current once a refresh that
// began after the withdrawal has ended.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.RefreshCooldown = 100 * time.Millisecond })
	v.Start(t.Context())
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				raw := iss.Mint(nil)
				token, err := v.Verify(t.Context(), raw)
				if err == nil {
					v.Current(token, token.IssuedAt)
				} else if r := authztest.ReasonOf(err); r != authz.ReasonUnknownKey && r != authz.ReasonKeysUnavailable {
					t.Errorf("%v", err)
				}
				_ = v.Status()
				_ = v.Ready()
			}
		})
	}
	for range 20 {
		old := iss.Key("")
		raw := iss.Mint(nil, authztest.With(old))
		token, err := v.Verify(t.Context(), raw)
		iss.Rotate("ES256")
		iss.Withdraw(old.ID)
		_ = v.Refresh(t.Context()) // may be one that had begun before
		require.NoError(t, v.Refresh(t.Context()))
		if err == nil {
			require.False(t, v.Current(token, token.IssuedAt))
		}
		_, err = v.Verify(t.Context(), raw)
		require.Error(t, err)
	}
	stop.Store(true)
	wg.Wait()
}

// The detail of a refusal contains no part of the token and no control
// characters.
func TestDetailsAreFitForLogs(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	nasty := "x\r\n\x1b[31m\u202e" + strings.Repeat("A", 200)
	for name, raw := range map[string]string{
		"iss":       iss.Mint(map[string]any{"iss": nasty}),
		"kid":       iss.Mint(nil, authztest.Header("kid", nasty)),
		"typ":       iss.Mint(nil, authztest.Header("typ", nasty)),
		"alg":       iss.Mint(nil, authztest.Header("alg", nasty)),
		"sub":       iss.Mint(map[string]any{"sub": []string{nasty}}),
		"garbage":   nasty,
		"signature": iss.Mint(nil, authztest.Tampered()),
		"member":    iss.Mint(nil, authztest.RawPayload([]byte(`{"secret-name":1,"secret-name":2}`))),
	} {
		_, err := v.Verify(t.Context(), raw)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "secret-name", name)
		require.NotContains(t, err.Error(), strings.Repeat("A", 80), name)
		for _, r := range err.Error() {
			require.True(t, r >= ' ' && r != 0x7f && r != '\u202e', "%s: %q", name, err.Error())
		}
		for _, segment := range strings.Split(raw, ".") {
			if len(segment) > 20 {
				require.NotContains(t, err.Error(), segment, name)
			}
		}
	}
}
