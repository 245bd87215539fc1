package introspect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
)

// Options configure introspection. The zero value is usable.
type Options struct {
	// MaxTokenTTL bounds exp - iat of a response (without iat: exp - now),
	// because revocations expire by it; 0: 24h.
	MaxTokenTTL   time.Duration
	MaxStaleness  time.Duration // bounds cache_ttl; 0: 30s
	MaxTokenBytes int           // length of a token; 0: jose.DefaultMaxTokenBytes
	// RevocableClaims are the claims by which tokens can be revoked, in responses
	// and in JWTs.
	RevocableClaims []string
	Clock           authz.Clock           // nil: authz.SystemClock
	Registry        prometheus.Registerer // nil: no metrics
	Transport       http.RoundTripper     // nil: one for each endpoint
}

// Introspectors are the configured introspections.
type Introspectors struct {
	byName map[string]authz.Introspector
	all    []*introspection
}

// New returns an introspector for each entry. It sends no request before the
// first token. The caller calls Close in the end.
func New(configs []Config, o Options) (_ *Introspectors, err error) {
	o.MaxTokenTTL = cmp.Or(o.MaxTokenTTL, 24*time.Hour)
	o.MaxStaleness = cmp.Or(o.MaxStaleness, 30*time.Second)
	o.Clock = cmp.Or[authz.Clock](o.Clock, authz.SystemClock{})
	results := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_introspections_total", Help: "Introspections of tokens, by introspection and result: cached, active, inactive, refused, failed, overloaded, late (answered after its check had ended).",
	}, []string{"introspection", "result"})
	s := &Introspectors{byName: map[string]authz.Introspector{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := authz.ValidationErrors("introspection", func(report authz.Report) { ValidateAll(configs, o.MaxStaleness, report) }); err != nil {
		return nil, err
	}
	for _, c := range configs {
		n, err := newIntrospection(c.withDefaults(), o, results)
		if err != nil {
			return nil, fmt.Errorf("introspection %s: %w", c.Name, err)
		}
		s.byName[c.Name] = n
		s.all = append(s.all, n)
	}
	if o.Registry != nil && len(configs) > 0 {
		if err := o.Registry.Register(results); err != nil {
			return nil, fmt.Errorf("register metrics of introspection: %w", err)
		}
	}
	return s, nil
}

// ByName returns the introspectors by the names that routes use.
func (s *Introspectors) ByName() map[string]authz.Introspector { return s.byName }

// Close cancels the current requests, waits for them, and deletes all cached
// responses.
func (s *Introspectors) Close() {
	for _, n := range s.all {
		n.cancel()
		n.background.Close()
		n.breaker.Close()
		n.client.CloseIdleConnections()
		for _, c := range []*otter.Cache[cacheKey, *answer]{n.active, n.inactive} {
			c.InvalidateAll()
			c.StopAllGoroutines()
		}
	}
}

// introspection asks one endpoint and remembers its answers.
type introspection struct {
	cfg       Config
	maxTTL    int64    // seconds
	maxBytes  int      // length of a token
	revocable []string // claims
	clock     authz.Clock
	client    *http.Client
	// Two caches, so that a flood of invented tokens does not evict active ones. A
	// token in active is known to be good, even after its answer has ended.
	active, inactive *otter.Cache[cacheKey, *answer]
	questions        questions
	breaker          *breaker.Breaker
	results          map[string]prometheus.Counter // by result; resolved once, because every cached token counts

	base       context.Context //nolint:containedctx // ends with Close; a question outlives the check that asked it
	cancel     context.CancelFunc
	background authz.Background
}

type cacheKey = [sha256.Size]byte // of the token's whole text

var _ authz.Introspector = (*introspection)(nil)

func newIntrospection(c Config, o Options, results *prometheus.CounterVec) (*introspection, error) {
	n := &introspection{
		cfg: c, maxTTL: int64(o.MaxTokenTTL / time.Second), maxBytes: cmp.Or(o.MaxTokenBytes, jose.DefaultMaxTokenBytes), revocable: o.RevocableClaims, clock: o.Clock, results: map[string]prometheus.Counter{},
		questions: questions{limit: c.MaxConcurrent, asked: map[cacheKey]*question{}, byClient: map[netip.Addr]int{}},
	}
	for _, result := range []string{"cached", "active", "inactive", "refused", "failed", "overloaded", "late"} {
		n.results[result] = results.WithLabelValues(c.Name, result)
	}
	most := 2 * c.MaxConcurrent // see questions
	var err error
	n.client, err = fetch.NewClient(fetch.ClientOptions{Transport: o.Transport, Config: c.Config, Timeout: c.Timeout, ConnsPerHost: most, IdleConns: most})
	if err != nil {
		return nil, err
	}
	n.client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("redirect refused") // it would send the token to another URL than the configured one
	}
	n.active, n.inactive = newCache(c), newCache(c)
	n.breaker = breaker.New(breaker.Options{Dependency: "introspection " + c.Name, Timeout: c.Timeout, Inline: true, Concurrent: most, Probe: n.probe})
	n.base, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// newCache returns a cache bounded by bytes and by entries. The library supports
// one bound only, so an entry weighs at least its share of the bytes.
func newCache(c Config) *otter.Cache[cacheKey, *answer] {
	const heaviest = 1 << 30 // a weight has 32 bits
	entries := int64(c.CacheEntries)
	most := min(c.CacheBytes, entries*heaviest)
	share := (most + entries - 1) / entries
	return otter.Must(&otter.Options[cacheKey, *answer]{
		MaximumWeight: uint64(most),
		Weigher:       func(_ cacheKey, a *answer) uint32 { return uint32(max(share, int64(min(a.size(), heaviest)))) },
	})
}

// Local implements authz.Introspector.
func (n *introspection) Local(raw string) bool {
	_, jwt := authz.SignedPart(raw)
	return jwt && n.cfg.Tokens == "opaque"
}

// Introspect implements authz.Introspector.
func (n *introspection) Introspect(ctx context.Context, raw string, verified *authz.Token, client string) (*authz.Token, error) {
	if len(raw) > n.maxBytes || !authz.IsToken68(raw) {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "not a token")
	}
	key := sha256.Sum256([]byte(raw))
	arrived := n.clock.Boot()
	a, known := n.remembered(key, arrived)
	if a != nil {
		n.results["cached"].Inc()
		if known {
			n.renew(a, key, raw, verified, arrived) //nolint:contextcheck // early, so that no check waits for it
		}
		return n.judge(raw, a, verified).result(n.clock.Now())
	}
	if _, fail := n.readOwn(raw, verified); fail != nil { // which no answer would change
		return nil, fail
	}
	want := slot{kind: slotKnown}
	if !known && verified == nil {
		want = slot{client: clientOf(client)}
	}
	q := n.ask(key, raw, verified, want) //nolint:contextcheck // several callers may wait for the answer; none of them may cancel it
	if q == nil {
		n.results["overloaded"].Inc()
		return nil, &authz.Failure{Reason: authz.ReasonOverloaded, Detail: "too many introspections at once"}
	}
	select {
	case <-ctx.Done():
		n.results["late"].Inc()
		return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "introspection " + n.cfg.Name + " takes longer than a check can wait; its answer serves the next request"}
	case <-q.done:
	}
	switch {
	case q.fail != nil:
		return nil, q.fail
	case arrived >= q.answer.until:
		return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "introspection " + n.cfg.Name + " answered too late"}
	}
	return n.judge(raw, q.answer, verified).result(n.clock.Now())
}

// remembered returns the answer that serves a request that arrived at the given
// time, nil if there is none, and whether the token is known to be good.
func (n *introspection) remembered(key cacheKey, arrived time.Duration) (a *answer, known bool) {
	if a, known = n.active.GetIfPresent(key); known && arrived < a.until {
		return a, true
	}
	if a, ok := n.inactive.GetIfPresent(key); ok && arrived < a.until {
		return a, false
	}
	return nil, known
}

// renew asks again before a ends. It tries a few times while requests come in.
func (n *introspection) renew(a *answer, key cacheKey, raw string, verified *authz.Token, arrived time.Duration) {
	due := a.renew.Load()
	if int64(arrived) < due || !a.renew.CompareAndSwap(due, int64(arrived+n.cfg.CacheTTL/16)) {
		return
	}
	n.ask(key, raw, verified, slot{kind: slotRenewal})
}

// ask returns the question about the token, which goes on whatever becomes of the
// caller; nil: too many are under way.
func (n *introspection) ask(key cacheKey, raw string, verified *authz.Token, want slot) *question {
	q, fresh := n.questions.join(key, want)
	if !fresh {
		return q
	}
	raw = strings.Clone(raw) // it may share memory with the request
	if !n.background.Start(func() {
		defer n.questions.end(key, q, want)
		q.answer, q.fail = n.request(key, raw, verified)
	}) {
		q.fail = &authz.Failure{Reason: authz.ReasonOverloaded, Detail: "introspection is closed"}
		n.questions.end(key, q, want)
	}
	return q
}

// request sends an introspection request and remembers the answer.
func (n *introspection) request(key cacheKey, raw string, verified *authz.Token) (*answer, *authz.Failure) {
	var refused error // the endpoint works but refuses this token
	a, err := breaker.Do(n.base, n.breaker, func(ctx context.Context) (*answer, error) {
		sent := n.clock.Boot() // before the request: the answer is no older
		claims, text, err := n.post(ctx, raw)
		if err != nil {
			err = fmt.Errorf("introspection %s: %w", n.cfg.Name, err)
			if errors.Is(err, errTokenRefused) {
				refused, err = err, nil
			}
			return nil, err
		}
		a := &answer{claims: claims, text: text, until: sent + n.cfg.CacheTTL}
		// The next question will take about as long as this one.
		a.renew.Store(int64(a.until - max(n.cfg.CacheTTL/4, 2*(n.clock.Boot()-sent))))
		n.remember(key, a, n.judge(raw, a, verified))
		return a, nil
	})
	switch err = cmp.Or(err, refused); {
	case err == nil:
		return a, nil
	case errors.Is(err, breaker.ErrPanicked):
		return nil, &authz.Failure{Reason: authz.ReasonInternal, Detail: err.Error()}
	}
	n.results["failed"].Inc()
	return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: err.Error()}
}

// remember caches and counts an answer. It replaces what was answered before.
func (n *introspection) remember(key cacheKey, a *answer, j *judgement) {
	if j.token != nil {
		n.results["active"].Inc()
		n.active.Set(key, a)
		return
	}
	result := "refused"
	if j.fail.Reason == authz.ReasonInactive {
		result = "inactive"
	}
	n.results[result].Inc()
	n.inactive.Set(key, a)
	n.active.Invalidate(key)
}
