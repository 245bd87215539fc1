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

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// maxStaleness is max_staleness of every rig in this package. It is short, so
// that a fault can outlast it.
const maxStaleness = 4 * time.Second

// monitor probes an installation continuously and judges every answer.
type monitor struct {
	t *testing.T
	r *harness.Rig
	c *harness.Checker
	// mayAllowRevoked: a revoked token may be allowed while its revocation is
	// unknown, because the installation is configured so (in lookup mode).
	mayAllowRevoked bool
	// mayDenyValid: valid tokens may be denied with 401, because the sidecar's
	// clock differs from the issuer's.
	mayDenyValid atomic.Bool

	cancel   context.CancelFunc
	wg       sync.WaitGroup
	revoking sync.Mutex // held during a revocation request
	stopped  bool       // no further revocation requests; guarded by revoking

	mu        sync.Mutex
	good      map[int]int // status → number of answers to valid tokens
	late      int         // checks of valid tokens that were cut off at the deadline
	took      []time.Duration
	revoked   []revocation
	attempts  int
	violation map[string]int
}

type revocation struct {
	token string
	at    time.Time // arrival of the receipt
}

// startMonitor revokes a few tokens, waits until they are denied, and starts the
// probes.
func startMonitor(t *testing.T, r *harness.Rig, mayAllowRevoked bool) *monitor {
	t.Helper()
	m := &monitor{t: t, r: r, c: harness.NewChecker(t, r.Bouncer.GRPC), mayAllowRevoked: mayAllowRevoked, good: map[int]int{}, violation: map[string]int{}}
	var batch []map[string]any
	for range 4 {
		token := r.Token(nil)
		m.revoked = append(m.revoked, revocation{token: token})
		batch = append(batch, map[string]any{"jti": harness.Claim(token, "jti")})
	}
	r.Revoke(t, batch)
	for i := range m.revoked {
		harness.Eventually(t, maxStaleness+5*time.Second, "a token revoked before the fault is denied", func(ctx context.Context) error {
			if a := m.c.Check(ctx, m.revoked[i].token); a.Status != 401 {
				return fmt.Errorf("%+v", a)
			}
			return nil
		})
		m.revoked[i].at = time.Now()
	}
	ctx, cancel := context.WithCancel(t.Context())
	m.cancel = cancel
	m.wg.Go(func() { m.probeForged(ctx) })
	m.wg.Go(func() { m.probeRevoked(ctx) })
	m.wg.Go(func() { m.probeGood(ctx) })
	m.wg.Go(func() { m.revokeMore(ctx) })
	m.wg.Go(func() { m.probeLive(ctx) })
	return m
}

// end stops the probes and reports all violations.
func (m *monitor) end() {
	m.t.Helper()
	m.cancel()
	m.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for what, n := range m.violation {
		m.t.Errorf("%d times: %s", n, what)
	}
	late := 0
	for _, d := range m.took {
		if d > 190*time.Millisecond {
			late++
		}
	}
	m.t.Logf("valid tokens: %v, %d cut off; %d of %d revocation requests acknowledged; checks: %d, p99 %s, longest %s, %d above 190ms",
		m.good, m.late, len(m.revoked)-4, m.attempts, len(m.took), harness.Percentile(m.took, 99).Round(time.Millisecond),
		harness.Percentile(m.took, 100).Round(time.Millisecond), late)
}

// allowedShare is the share of valid tokens that were allowed.
func (m *monitor) allowedShare() float64 { return m.share(http.StatusOK) }

// share is the share of valid tokens that were answered with status.
func (m *monitor) share(status int) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := 0
	for _, n := range m.good {
		all += n
	}
	if all == 0 {
		return 0
	}
	return float64(m.good[status]) / float64(all)
}

// stopRevoking ends the revocation requests. None is in flight when it returns.
func (m *monitor) stopRevoking() {
	m.revoking.Lock()
	defer m.revoking.Unlock()
	m.stopped = true
}

// resetCounts forgets the answers to valid tokens so far.
func (m *monitor) resetCounts() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.good = map[int]int{}
}

func (m *monitor) violationf(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.violation[fmt.Sprintf(format, args...)]++
}

// check sends a check with a timeout far beyond Envoy's. A late answer is
// counted; a missing one is a violation.
func (m *monitor) check(ctx context.Context, token string) (harness.Answer, bool) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	a := m.c.Check(limited, token)
	if a.Err != nil {
		m.violationf("RPC error: %v", a.Err)
		return a, false
	}
	m.mu.Lock()
	m.took = append(m.took, a.Took)
	m.mu.Unlock()
	return a, true
}

// cutOff reports whether a check ended at its deadline, which on a busy machine
// happens for want of CPU.
func cutOff(a harness.Answer) bool {
	return a.Status == http.StatusServiceUnavailable && a.Took > 150*time.Millisecond
}

func (m *monitor) probeForged(ctx context.Context) {
	foreign := authztest.NewKey("ES256")
	for n := 0; ctx.Err() == nil; n++ {
		token, sought := m.r.Issuer.Mint(nil, authztest.Tampered()), false
		if n%2 == 0 { // the product fetches keys for its kid, perhaps for longer than a check waits
			token, sought = m.r.Issuer.Mint(nil, authztest.With(foreign)), true
		}
		if n%4 == 1 && m.r.Front != nil { // through Envoy, which here allows on failure
			reply, err := m.r.Front.Do(context.WithoutCancel(ctx), http.MethodGet, "/", "Authorization", "Bearer "+token)
			if err == nil && reply.Status != http.StatusUnauthorized && reply.Status != http.StatusServiceUnavailable {
				m.violationf("a forged token through Envoy: status %d %s", reply.Status, reply.Body)
			}
		} else if a, ok := m.check(ctx, token); ok && a.Status != http.StatusUnauthorized && !cutOff(a) && (!sought || a.Status != http.StatusServiceUnavailable) {
			m.violationf("a forged token: status %d %s", a.Status, a.Detail)
		}
		harness.Pause(ctx, 10*time.Millisecond)
	}
}

func (m *monitor) probeRevoked(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		m.mu.Lock()
		rev := m.revoked[n%len(m.revoked)]
		m.mu.Unlock()
		sent := time.Now()
		a, ok := m.check(ctx, rev.token)
		if ok && a.Status == http.StatusOK && !m.mayAllowRevoked && sent.Sub(rev.at) > maxStaleness {
			m.violationf("a revoked token was allowed by a check that began %s after the receipt", sent.Sub(rev.at).Round(100*time.Millisecond))
		}
		if ok && a.Status != http.StatusOK && a.Status != http.StatusUnauthorized && a.Status != http.StatusServiceUnavailable {
			m.violationf("a revoked token: status %d %s", a.Status, a.Detail)
		}
		harness.Pause(ctx, 7*time.Millisecond)
	}
}

func (m *monitor) probeGood(ctx context.Context) {
	for ctx.Err() == nil {
		a, ok := m.check(ctx, m.r.Token(nil))
		if ok {
			m.mu.Lock()
			if cutOff(a) {
				m.late++ // not counted: it says nothing about the fault
			} else {
				m.good[a.Status]++
			}
			m.mu.Unlock()
			if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable && !(m.mayDenyValid.Load() && a.Status == http.StatusUnauthorized) {
				m.violationf("a valid token: status %d %s", a.Status, a.Detail)
			}
		}
		harness.Pause(ctx, 5*time.Millisecond)
	}
}

// revokeMore revokes tokens continuously. Acknowledged ones join m.revoked.
func (m *monitor) revokeMore(ctx context.Context) {
	for ctx.Err() == nil {
		m.revoking.Lock()
		if m.stopped {
			m.revoking.Unlock()
			return
		}
		token := m.r.Token(nil)
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		rec, err := m.r.TryRevoke(limited, map[string]any{"jti": harness.Claim(token, "jti")})
		cancel()
		m.revoking.Unlock()
		m.mu.Lock()
		m.attempts++
		if err == nil && rec.Status/100 == 2 {
			m.revoked = append(m.revoked, revocation{token, time.Now()})
		}
		m.mu.Unlock()
		// 503: not stored; 504: unknown whether it was stored.
		if err == nil && rec.Status/100 != 2 && rec.Status != http.StatusServiceUnavailable && rec.Status != http.StatusGatewayTimeout {
			m.violationf("revoke: status %d %s", rec.Status, rec.Body)
		}
		harness.Pause(ctx, 100*time.Millisecond)
	}
}

func (m *monitor) probeLive(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if err := m.r.Bouncer.Live(limited); err != nil {
			m.violationf("livez: %v", err)
		}
		cancel()
		harness.Pause(ctx, 50*time.Millisecond)
	}
}

// awaitRecovery waits until valid tokens are allowed again, and returns how long
// that took.
func (m *monitor) awaitRecovery(within time.Duration) time.Duration {
	m.t.Helper()
	start := time.Now()
	// Two of the last twenty answers may be 503: a check is cut off after 180 ms,
	// which a busy machine does not always meet.
	var last []bool
	var slow int
	for {
		a, ok := m.check(m.t.Context(), m.r.Token(nil))
		last = append(last, ok && a.Status == http.StatusOK)
		last = last[max(0, len(last)-20):]
		if a.Took > 90*time.Millisecond { // ten times as long as on an idle machine
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
			m.t.Errorf("%d of the last %d valid tokens were allowed %s after healing: %+v", good, len(last), within, a)
			return time.Since(start)
		}
		asleep := time.Now()
		harness.Pause(m.t.Context(), 5*time.Millisecond)
		if time.Since(asleep) > 15*time.Millisecond { // no CPU was free
			slow++
		}
	}
}

// checkDurable checks that the token of every acknowledged revocation is denied
// in the end.
func (m *monitor) checkDurable() {
	m.t.Helper()
	m.mu.Lock()
	all := append([]revocation(nil), m.revoked...)
	m.mu.Unlock()
	healed := time.Now()
	for _, rev := range all {
		deadline := rev.at.Add(maxStaleness)
		if m.mayAllowRevoked && deadline.Before(healed.Add(5*time.Second)) {
			deadline = healed.Add(5 * time.Second) // until revocation is known again
		}
		for began := time.Now(); ; {
			sent := time.Now()
			a, ok := m.check(m.t.Context(), rev.token)
			if ok && a.Status == http.StatusUnauthorized {
				break
			}
			if !assert.Falsef(m.t, sent.After(deadline) && (a.Status == http.StatusOK || time.Since(began) > maxStaleness+5*time.Second), "an acknowledged revocation is not enforced %s after its receipt: %+v", sent.Sub(rev.at), a) {
				break
			}
			harness.Pause(m.t.Context(), 10*time.Millisecond)
		}
	}
}

// awaitFreshReplica waits until the replica follows the store again, so that a
// fault does not start while the previous one has an effect.
func awaitFreshReplica(t *testing.T, r *harness.Rig) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "the replica is fresh", func(context.Context) error {
		for line := range strings.Lines(r.Bouncer.Metrics(t)) {
			if text, ok := strings.CutPrefix(line, "jwt_bouncer_replica_staleness_seconds "); ok {
				age, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
				if err == nil && age > 1 {
					err = fmt.Errorf("the replica is %v seconds old", age)
				}
				return err
			}
		}
		return nil // lookup mode
	})
}
