package outage

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// bound is max_staleness of every rig here: short, so that a fault can outlast it.
const bound = 4 * time.Second

// watch probes an installation without a pause and judges every answer.
type watch struct {
	t *testing.T
	r *harness.Rig
	c *harness.Checker
	// mayPass is true where a revoked token may be allowed while nothing can
	// be proved: lookup mode with on_revocation_unknown: allow.
	mayPass bool
	// mayRefuse is true where good tokens may be answered 401: the sidecar's
	// clock differs from the issuer's.
	mayRefuse atomic.Bool

	cancel   context.CancelFunc
	wg       sync.WaitGroup
	revoking sync.Mutex // held while something is revoked
	silent   bool       // nothing more is revoked; under revoking

	mu        sync.Mutex
	good      map[int]int // status → answers to good tokens
	late      int         // good tokens whose check was cut off
	took      []time.Duration
	revoked   []revocation
	attempts  int
	violation map[string]int
}

type revocation struct {
	token string
	at    time.Time // when the receipt had arrived
}

// watching starts the probes. The revoked tokens are revoked, and denied,
// before.
func watching(t *testing.T, r *harness.Rig, mayPass bool) *watch {
	t.Helper()
	w := &watch{t: t, r: r, c: harness.NewChecker(t, r.Bouncer.GRPC), mayPass: mayPass, good: map[int]int{}, violation: map[string]int{}}
	var batch []map[string]any
	for range 4 {
		token := r.Token(nil)
		w.revoked = append(w.revoked, revocation{token: token})
		batch = append(batch, map[string]any{"jti": harness.Claim(token, "jti")})
	}
	r.Revoke(t, batch)
	for i := range w.revoked {
		harness.Eventually(t, bound+5*time.Second, "revoked before the fault", func(ctx context.Context) error {
			if a := w.c.Check(ctx, w.revoked[i].token); a.Status != 401 {
				return fmt.Errorf("%+v", a)
			}
			return nil
		})
		w.revoked[i].at = time.Now()
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	w.wg.Go(func() { w.probeForged(ctx) })
	w.wg.Go(func() { w.probeRevoked(ctx) })
	w.wg.Go(func() { w.probeGood(ctx) })
	w.wg.Go(func() { w.revokeMore(ctx) })
	w.wg.Go(func() { w.probeLive(ctx) })
	return w
}

// end stops the probes and reports.
func (w *watch) end() {
	w.t.Helper()
	w.cancel()
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, n := range w.violation {
		w.t.Errorf("%d times: %s", n, what)
	}
	late := 0
	for _, d := range w.took {
		if d > 190*time.Millisecond {
			late++
		}
	}
	w.t.Logf("good tokens: %v, %d cut off; %d of %d attempts to revoke acknowledged; checks: %d, p99 %s, longest %s, %d above 190ms",
		w.good, w.late, len(w.revoked)-4, w.attempts, len(w.took), harness.Percentile(w.took, 99).Round(time.Millisecond),
		harness.Percentile(w.took, 100).Round(time.Millisecond), late)
}

// passed is the share of good tokens that were allowed.
func (w *watch) passed() float64 { return w.share(http.StatusOK) }

// share is that of the good tokens that were answered with status.
func (w *watch) share(status int) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := 0
	for _, n := range w.good {
		all += n
	}
	if all == 0 {
		return 0
	}
	return float64(w.good[status]) / float64(all)
}

// quiet ends the revocations: none is under way when it returns.
func (w *watch) quiet() {
	w.revoking.Lock()
	defer w.revoking.Unlock()
	w.silent = true
}

func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.good = map[int]int{}
}

func (w *watch) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violation[fmt.Sprintf(format, args...)]++
}

// check asks with a limit far beyond Envoy's: an answer that comes late is
// counted, one that does not come is a violation.
func (w *watch) check(ctx context.Context, token string) (harness.Answer, bool) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	a := w.c.Check(limited, token)
	if a.Err != nil {
		w.violated("RPC error: %v", a.Err)
		return a, false
	}
	w.mu.Lock()
	w.took = append(w.took, a.Took)
	w.mu.Unlock()
	return a, true
}

// starved reports whether a check was cut off at its deadline because the
// machine did not get round to it.
func starved(a harness.Answer) bool {
	return a.Status == http.StatusServiceUnavailable && a.Took > 150*time.Millisecond
}

func (w *watch) probeForged(ctx context.Context) {
	foreign := authztest.NewKey("ES256")
	for n := 0; ctx.Err() == nil; n++ {
		token, sought := w.r.Issuer.Mint(nil, authztest.Tampered()), false
		if n%2 == 0 { // its key is looked for, which may take longer than a check waits
			token, sought = w.r.Issuer.Mint(nil, authztest.With(foreign)), true
		}
		if n%4 == 1 && w.r.Front != nil { // through Envoy, which is open on failure here
			reply, err := w.r.Front.Do(context.WithoutCancel(ctx), http.MethodGet, "/", "Authorization", "Bearer "+token)
			if err == nil && reply.Status != http.StatusUnauthorized && reply.Status != http.StatusServiceUnavailable {
				w.violated("a forged token through Envoy: status %d %s", reply.Status, reply.Body)
			}
		} else if a, ok := w.check(ctx, token); ok && a.Status != http.StatusUnauthorized && !starved(a) && (!sought || a.Status != http.StatusServiceUnavailable) {
			w.violated("a forged token: status %d %s", a.Status, a.Detail)
		}
		harness.Pause(ctx, 10*time.Millisecond)
	}
}

func (w *watch) probeRevoked(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		w.mu.Lock()
		rev := w.revoked[n%len(w.revoked)]
		w.mu.Unlock()
		sent := time.Now()
		a, ok := w.check(ctx, rev.token)
		if ok && a.Status == http.StatusOK && !w.mayPass && sent.Sub(rev.at) > bound {
			w.violated("a revoked token was allowed by a check that began %s after the receipt", sent.Sub(rev.at).Round(100*time.Millisecond))
		}
		if ok && a.Status != http.StatusOK && a.Status != http.StatusUnauthorized && a.Status != http.StatusServiceUnavailable {
			w.violated("a revoked token: status %d %s", a.Status, a.Detail)
		}
		harness.Pause(ctx, 7*time.Millisecond)
	}
}

func (w *watch) probeGood(ctx context.Context) {
	for ctx.Err() == nil {
		a, ok := w.check(ctx, w.r.Token(nil))
		if ok {
			w.mu.Lock()
			if starved(a) {
				w.late++ // says nothing about the fault
			} else {
				w.good[a.Status]++
			}
			w.mu.Unlock()
			if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable && !(w.mayRefuse.Load() && a.Status == http.StatusUnauthorized) {
				w.violated("a good token: status %d %s", a.Status, a.Detail)
			}
		}
		harness.Pause(ctx, 5*time.Millisecond)
	}
}

// revokeMore revokes all the time. What is acknowledged joins the revoked.
func (w *watch) revokeMore(ctx context.Context) {
	for ctx.Err() == nil {
		w.revoking.Lock()
		if w.silent {
			w.revoking.Unlock()
			return
		}
		token := w.r.Token(nil)
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		rec, err := w.r.TryRevoke(limited, map[string]any{"jti": harness.Claim(token, "jti")})
		cancel()
		w.revoking.Unlock()
		w.mu.Lock()
		w.attempts++
		if err == nil && rec.Status/100 == 2 {
			w.revoked = append(w.revoked, revocation{token, time.Now()})
		}
		w.mu.Unlock()
		// 503: not stored; 504: it is not known.
		if err == nil && rec.Status/100 != 2 && rec.Status != http.StatusServiceUnavailable && rec.Status != http.StatusGatewayTimeout {
			w.violated("revoke: status %d %s", rec.Status, rec.Body)
		}
		harness.Pause(ctx, 100*time.Millisecond)
	}
}

func (w *watch) probeLive(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if err := w.r.Bouncer.Live(limited); err != nil {
			w.violated("livez: %v", err)
		}
		cancel()
		harness.Pause(ctx, 50*time.Millisecond)
	}
}

// recovered waits until good tokens pass again, and says how long it took.
func (w *watch) recovered(within time.Duration) time.Duration {
	w.t.Helper()
	start := time.Now()
	// Of the last twenty answers two may be 503: a check is cut off after 180 ms, and
	// a busy machine cannot always keep that.
	var last []bool
	var slow int
	for {
		a, ok := w.check(w.t.Context(), w.r.Token(nil))
		last = append(last, ok && a.Status == http.StatusOK)
		last = last[max(0, len(last)-20):]
		if a.Took > 90*time.Millisecond { // ten times what it takes on a machine with time
			slow++
		}
		good := 0
		for _, passed := range last {
			if passed {
				good++
			}
		}
		if good >= 18 {
			return time.Since(start)
		}
		if took := time.Since(start); took > 4*within || took > within && slow < 10 {
			w.t.Errorf("%d of %d good tokens pass %s after healing: %+v", good, len(last), within, a)
			return time.Since(start)
		}
		asleep := time.Now()
		harness.Pause(w.t.Context(), 5*time.Millisecond)
		if time.Since(asleep) > 15*time.Millisecond { // nobody had a processor for us
			slow++
		}
	}
}

// durable checks that every acknowledged revocation is denied in the end.
func (w *watch) durable() {
	w.t.Helper()
	w.mu.Lock()
	all := append([]revocation(nil), w.revoked...)
	w.mu.Unlock()
	healed := time.Now()
	for _, rev := range all {
		deadline := rev.at.Add(bound)
		if w.mayPass && deadline.Before(healed.Add(5*time.Second)) {
			deadline = healed.Add(5 * time.Second) // until something can be proved again
		}
		for began := time.Now(); ; {
			sent := time.Now()
			a, ok := w.check(w.t.Context(), rev.token)
			if ok && a.Status == http.StatusUnauthorized {
				break
			}
			if sent.After(deadline) && (a.Status == http.StatusOK || time.Since(began) > bound+5*time.Second) {
				w.t.Errorf("an acknowledged revocation is not enforced %s after its receipt: %+v", sent.Sub(rev.at), a)
				break
			}
			harness.Pause(w.t.Context(), 10*time.Millisecond)
		}
	}
}

// fresh waits until a replica follows the store again, so that one fault does
// not begin in the wake of the last.
func fresh(t *testing.T, r *harness.Rig) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "the replica is fresh", func(context.Context) error {
		for line := range strings.Lines(r.Bouncer.Metrics(t)) {
			if text, ok := strings.CutPrefix(line, "jwt_bouncer_replica_staleness_seconds "); ok {
				age, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
				if err == nil && age > 1 {
					err = fmt.Errorf("%v seconds old", age)
				}
				return err
			}
		}
		return nil // lookup mode
	})
}
