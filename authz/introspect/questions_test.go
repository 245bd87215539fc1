package introspect_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/introspect"
)

// slowServer is an introspection endpoint without a network. Tokens that begin
// with "good" are active.
type slowServer struct {
	takes    time.Duration
	asked    atomic.Int32
	most     atomic.Int32 // requests at the same time
	underway atomic.Int32
	gone     sync.Map // tokens that are no longer active
}

func (s *slowServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	if n := s.underway.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	defer s.underway.Add(-1)
	body, _ := io.ReadAll(req.Body)
	form, _ := url.ParseQuery(string(body))
	token := form.Get("token")
	select {
	case <-time.After(s.takes):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	answer := `{"active":false}`
	if _, gone := s.gone.Load(token); !gone && strings.HasPrefix(token, "good") {
		answer = activeResponse(nil)
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(answer)), Request: req,
	}, nil
}

// bubble is an introspection of a slowServer in synthetic time.
type bubble struct {
	*slowServer
	in authz.Introspector
}

func inBubble(t *testing.T, takes time.Duration, change func(*introspect.Config), f func(t *testing.T, b bubble)) {
	t.Helper()
	cfg := introspectionConfig(t, newAuthServer(t))
	cfg.CacheTTL = 10 * time.Second
	change(&cfg)
	synctest.Test(t, func(t *testing.T) {
		b := bubble{slowServer: &slowServer{takes: takes}}
		all, err := introspect.New([]introspect.Config{cfg}, introspect.Options{Transport: b.slowServer, Clock: authztest.BubbleClock{Start: time.Now()}})
		require.NoError(t, err)
		defer all.Close()
		b.in = all.ByName()["as"]
		f(t, b)
	})
}

// check asks as a check does, which has 180 ms.
func (b bubble) check(token, client string) (authz.Reason, time.Duration) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 180*time.Millisecond)
	defer cancel()
	_, err := b.in.Introspect(ctx, token, nil, client)
	reason := authz.ReasonAllowed
	if err != nil {
		reason = authztest.ReasonOf(err)
	}
	return reason, time.Since(start)
}

// An answer that takes longer than a check serves the next request. Its age counts
// from when the question was sent.
func TestSlowAnswerServesTheNextRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, 300*time.Millisecond, func(c *introspect.Config) { c.Timeout = time.Second }, func(t *testing.T, b bubble) {
		start := time.Now()
		reason, took := b.check("good", "")
		require.Equal(t, authz.ReasonRevocationUnknown, reason)
		require.Equal(t, 180*time.Millisecond, took)
		reason, took = b.check("good", "")
		require.Equal(t, authz.ReasonAllowed, reason, "it joins the question")
		require.Equal(t, 120*time.Millisecond, took)
		b.gone.Store("good", true)
		time.Sleep(time.Until(start.Add(7 * time.Second)))
		reason, took = b.check("good", "")
		require.Equal(t, authz.ReasonAllowed, reason)
		require.Zero(t, took)
		require.EqualValues(t, 1, b.asked.Load())
	})
	// Nobody asks in between, so nothing renews the answer.
	inBubble(t, 300*time.Millisecond, func(c *introspect.Config) { c.Timeout = time.Second }, func(t *testing.T, b bubble) {
		start := time.Now()
		b.check("good", "")
		b.gone.Store("good", true)
		time.Sleep(time.Until(start.Add(10*time.Second - time.Nanosecond)))
		reason, _ := b.check("good", "")
		require.Equal(t, authz.ReasonInactive, reason, "it was answered after the token had gone")
		time.Sleep(time.Until(start.Add(10 * time.Second)))
		reason, _ = b.check("good", "")
		require.Equal(t, authz.ReasonRevocationUnknown, reason, "10s after the question, not after the answer")
		require.EqualValues(t, 2, b.asked.Load())
	})
	inBubble(t, 15*time.Second, func(c *introspect.Config) { c.Timeout = 10 * time.Second }, func(t *testing.T, b bubble) {
		for range 10 {
			reason, took := b.check("good", "")
			require.Equal(t, authz.ReasonRevocationUnknown, reason)
			require.Equal(t, 180*time.Millisecond, took)
		}
		require.EqualValues(t, 1, b.asked.Load(), "one question, however many ask")
	})
}

// The answer to an older question says nothing about a request that arrived more
// than cache_ttl after it was sent.
func TestAnswerTooOldForItsCaller(t *testing.T) {
	t.Parallel()
	inBubble(t, 150*time.Millisecond, func(c *introspect.Config) { c.CacheTTL, c.Timeout = 100*time.Millisecond, 180*time.Millisecond }, func(t *testing.T, b bubble) {
		var wg sync.WaitGroup
		for wait, want := range map[time.Duration]authz.Reason{
			0: authz.ReasonAllowed, 99 * time.Millisecond: authz.ReasonAllowed, 100 * time.Millisecond: authz.ReasonRevocationUnknown,
		} {
			wg.Go(func() {
				time.Sleep(wait)
				reason, _ := b.check("good", "")
				assert.Equal(t, want, reason, wait)
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, b.asked.Load())
	})
}

// The answer about a token in use is renewed before it ends, so that no request
// waits. A renewal that says no is obeyed at once.
func TestAnswersInUseAreRenewed(t *testing.T) {
	t.Parallel()
	inBubble(t, 100*time.Millisecond, func(*introspect.Config) {}, func(t *testing.T, b bubble) {
		_, took := b.check("good", "")
		require.Equal(t, 100*time.Millisecond, took)
		for range 6000 {
			time.Sleep(10 * time.Millisecond)
			reason, took := b.check("good", "")
			require.Equal(t, authz.ReasonAllowed, reason)
			require.Zero(t, took)
		}
		require.EqualValues(t, 1+8, b.asked.Load(), "again every 7.5s in a minute")
		b.gone.Store("good", true)
		refused := 0
		for range 900 {
			time.Sleep(10 * time.Millisecond)
			if reason, took := b.check("good", ""); reason != authz.ReasonAllowed {
				require.Equal(t, authz.ReasonInactive, reason)
				require.Zero(t, took)
				refused++
			}
		}
		require.Positive(t, refused)
		b.gone.Clear()
		asked := b.asked.Load()
		time.Sleep(9 * time.Second)
		b.check("good", "")
		require.LessOrEqual(t, b.asked.Load(), asked+1, "what was refused is not renewed")
	})
}

// A flood of invented tokens, from one address or from many, does not keep out
// tokens that were good; one from a single address keeps out no new good ones
// either.
func TestFloodOfInventedTokens(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(i int) string{
		"one address":      func(int) string { return "203.0.113.7" },
		"one IPv6 network": func(i int) string { return fmt.Sprintf("2001:db8:0:1::%x", i%0x10000) },
		"many addresses":   func(i int) string { return fmt.Sprintf("198.51.%d.%d", i/250%250, i%250) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, 120*time.Millisecond, func(c *introspect.Config) { c.MaxConcurrent = 16 }, func(t *testing.T, b bubble) {
				const good = 30
				for i := range good {
					reason, _ := b.check(fmt.Sprint("good", i), "192.0.2.1")
					require.Equal(t, authz.ReasonAllowed, reason)
				}
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				defer wg.Wait()
				defer stop()
				for f := range 25 {
					wg.Go(func() {
						for i := f; ctx.Err() == nil; i += 25 {
							b.check(fmt.Sprint("invented", i), address(i))
							time.Sleep(20 * time.Millisecond)
						}
					})
				}
				time.Sleep(100 * time.Millisecond)
				for round := range 12 {
					for i := range good { // each every 1.2 s
						time.Sleep(40 * time.Millisecond)
						reason, took := b.check(fmt.Sprint("good", i), "192.0.2.1")
						require.Equal(t, authz.ReasonAllowed, reason, "round %d", round)
						require.Zero(t, took)
					}
					if name != "many addresses" {
						reason, _ := b.check(fmt.Sprint("good-new", round), "192.0.2.2")
						require.Equal(t, authz.ReasonAllowed, reason, "round %d", round)
					}
				}
				time.Sleep(11 * time.Second) // all answers have ended
				for i := range good {
					reason, _ := b.check(fmt.Sprint("good", i), "192.0.2.1")
					require.Equal(t, authz.ReasonAllowed, reason, "known to be good")
				}
				require.LessOrEqual(t, b.most.Load(), int32(2*16))
			})
		})
	}
}
