package statuslist

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
)

// Config is the `status_lists` stanza. Without hosts, the "status" claim of
// tokens is ignored.
type Config struct {
	Hosts        []string `yaml:"hosts" doc:"Hosts, with port unless it is 443, that lists may be fetched from, by https; loopback addresses also by http. Empty: status lists are off."`
	fetch.Config `yaml:",inline"`
	MaxAge       time.Duration `yaml:"max_age" doc:"How long a list is believed after it was fetched, 1s up to revocation.max_staleness; the list's own ttl and exp can shorten it. 0: revocation.max_staleness."`
	Timeout      time.Duration `yaml:"timeout" doc:"Limit for fetching one list, 50ms to 30s; 0: 2s."`
	MaxBytes     int           `yaml:"max_bytes" doc:"Size of a list in bytes, unpacked, up to 268435456; 0: 16777216, which is 134 million one-bit entries."`
	MaxLists     int           `yaml:"max_lists" doc:"Lists kept in memory, up to 10000; 0: 64. When there are more, the issuer that has the most loses the one that was used least recently."`
	MaxTotal     int64         `yaml:"max_total" doc:"Size of all lists in memory together in bytes, unpacked, from max_bytes to 1099511627776; beyond it, the issuer that takes the most loses the list that was used least recently. 0: 8 times max_bytes."`
}

func (c Config) withDefaults(maxStaleness time.Duration) Config {
	c.MaxAge = cmp.Or(c.MaxAge, maxStaleness)
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	c.MaxBytes = cmp.Or(c.MaxBytes, 16<<20)
	c.MaxLists = cmp.Or(c.MaxLists, 64)
	c.MaxTotal = cmp.Or(c.MaxTotal, 8*int64(c.MaxBytes))
	return c
}

// Validate reports every invalid value of the stanza. maxStaleness bounds max_age.
func (c Config) Validate(maxStaleness time.Duration, report authz.Report) {
	for i, h := range c.Hosts {
		if u, err := url.Parse("https://" + h); err != nil || u.Host != h || h != strings.ToLower(h) || u.Hostname() == "" {
			report(authz.ItemPath("hosts", i), "%q: a host in lower case is required, with a port unless it is 443", h)
		}
	}
	c.Config.Validate(report)
	c = c.withDefaults(maxStaleness)
	if c.MaxAge < time.Second || c.MaxAge > maxStaleness {
		report("max_age", "%s is out of range: 1s to revocation.max_staleness (%s)", c.MaxAge, maxStaleness)
	}
	if c.Timeout < 50*time.Millisecond || c.Timeout > 30*time.Second {
		report("timeout", "%s is out of range: 50ms to 30s", c.Timeout)
	}
	if c.MaxBytes < 1 || c.MaxBytes > 256<<20 {
		report("max_bytes", "%d is out of range: 1 to 268435456", c.MaxBytes)
	}
	if c.MaxLists < 1 || c.MaxLists > 10_000 {
		report("max_lists", "%d is out of range: 1 to 10000", c.MaxLists)
	}
	if c.MaxTotal < int64(c.MaxBytes) || c.MaxTotal > 1<<40 {
		report("max_total", "%d is out of range: max_bytes (%d) to 1099511627776", c.MaxTotal, c.MaxBytes)
	}
}

// SecurityEventVerifier verifies signed messages that are no access tokens.
type SecurityEventVerifier interface {
	// VerifySecurityEvent returns the message of a configured issuer, or an error
	// that wraps an *authz.Failure.
	VerifySecurityEvent(ctx context.Context, raw string, s authz.SecurityEventRules) (*authz.Token, error)
}

var _ SecurityEventVerifier = issuer.RevocationAwareVerifier{}

// Options configure Lists.
type Options struct {
	Verifier     SecurityEventVerifier // required
	MaxStaleness time.Duration         // 0: 30s
	Clock        authz.Clock           // nil: authz.SystemClock
	Registry     prometheus.Registerer // nil: no metrics
	Transport    http.RoundTripper     // nil: one of its own
}

// Lists is a tier of the revocations that issuers publish in status lists. It
// knows no other revocations: combine it with other tiers by authz.All.
type Lists struct {
	cfg      Config
	verifier SecurityEventVerifier
	clock    authz.Clock
	client   *http.Client
	fetches  *prometheus.CounterVec

	base       context.Context
	cancel     context.CancelFunc
	background authz.Background

	mu       sync.RWMutex
	lists    map[listKey]*entry
	fetching map[string]int // current fetches, by configured issuer
}

var _ authz.Tier = (*Lists)(nil)

// New returns a tier that fetches a list when a token refers to it. The caller
// calls Close in the end.
func New(c Config, o Options) (*Lists, error) {
	o.MaxStaleness = cmp.Or(o.MaxStaleness, 30*time.Second)
	o.Clock = cmp.Or[authz.Clock](o.Clock, authz.SystemClock{})
	err := authz.ValidationErrors("status_lists.", func(report authz.Report) { c.Validate(o.MaxStaleness, report) })
	if o.Verifier == nil {
		err = errors.Join(err, errors.New("status_lists: no verifier"))
	}
	if err != nil {
		return nil, err
	}
	c = c.withDefaults(o.MaxStaleness)
	client, err := fetch.NewClient(fetch.ClientOptions{Transport: o.Transport, Config: c.Config, Timeout: c.Timeout, ConnsPerHost: 8, IdleConns: 2})
	if err != nil {
		return nil, fmt.Errorf("status_lists: %w", err)
	}
	s := &Lists{
		cfg: c, verifier: o.Verifier, clock: o.Clock, client: client, lists: map[listKey]*entry{}, fetching: map[string]int{},
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_status_list_fetches_total", Help: "Status lists fetched, by result: ok, failed, overloaded.",
		}, []string{"result"}),
	}
	if o.Registry != nil {
		if err := o.Registry.Register(s.fetches); err != nil {
			return nil, fmt.Errorf("register metrics of status lists: %w", err)
		}
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close cancels the current fetches and waits for them.
func (s *Lists) Close() {
	s.cancel()
	s.background.Close()
	s.client.CloseIdleConnections()
}

// Name implements authz.Tier.
func (*Lists) Name() string { return "status_list" }

// Lookup implements authz.Tier. A token without a status list is not revoked. The
// clock is read after the lookup, as in every proof of freshness.
func (s *Lists) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if q.Status == nil {
		return authz.NotRevoked, nil
	}
	if err := s.mayFetch(q.Status.URI); err != nil {
		return authz.Unknown, err
	}
	e := s.use(listKey{issuer: q.Issuer, uri: q.Status.URI})
	list := e.list.Load()
	v, err := list.verdict(q.Status.Index)
	switch age := s.age(list); {
	case age <= s.cfg.MaxAge/2:
		return v, err
	case age <= s.cfg.MaxAge:
		s.refresh(e) //nolint:contextcheck // early, so that no check waits for it
		return v, err
	}
	f := s.refresh(e) //nolint:contextcheck // several callers may wait for it; none of them may cancel it
	select {
	case <-f.done:
	case <-ctx.Done():
		return authz.Unknown, ctx.Err()
	}
	list = e.list.Load()
	v, err = list.verdict(q.Status.Index)
	if v == authz.Revoked || s.age(list) <= s.cfg.MaxAge { // an old revocation still holds
		return v, err
	}
	return authz.Unknown, fmt.Errorf("status list could not be fetched: %w", cmp.Or(f.err, errors.New("it is too old")))
}

// LookupNow implements authz.Tier. A list that is due for a refresh is left to Lookup.
// So Lookup also marks a list that is used all the time as used.
func (s *Lists) LookupNow(q *authz.Query) (authz.Verdict, bool) {
	if q.Status == nil {
		return authz.NotRevoked, true
	}
	if s.mayFetch(q.Status.URI) != nil {
		return authz.Unknown, false
	}
	s.mu.RLock()
	e := s.lists[listKey{issuer: q.Issuer, uri: q.Status.URI}]
	s.mu.RUnlock()
	if e == nil {
		return authz.Unknown, false
	}
	list := e.list.Load()
	v, err := list.verdict(q.Status.Index)
	if err != nil || s.age(list) > s.cfg.MaxAge/2 {
		return authz.Unknown, false
	}
	return v, true
}

// age returns the time since the list was requested. It is infinite for a list
// that is absent or beyond its ttl or exp.
func (s *Lists) age(l *statusList) time.Duration {
	const infinite = time.Duration(1<<63 - 1)
	if l == nil || l.expires != 0 && s.clock.Now().Unix() >= l.expires {
		return infinite
	}
	age := s.clock.Boot() - l.asof
	if l.ttl != 0 && age > l.ttl {
		return infinite
	}
	return age
}

// mayFetch prevents a token from choosing the hosts that the sidecar connects to.
func (s *Lists) mayFetch(uri string) error {
	if uri == "" {
		return errors.New("the token's status claim is malformed")
	}
	u, err := url.Parse(uri)
	if err != nil || u.User != nil || u.Fragment != "" || !slices.ContainsFunc(s.cfg.Hosts, func(h string) bool { return sameHost(h, u) }) ||
		u.Scheme != "https" && (u.Scheme != "http" || !authz.IsLoopback(u.Hostname())) {
		return fmt.Errorf("status list %s is not on a configured host", authz.QuoteShort(uri))
	}
	return nil
}

// sameHost reports whether u is on the configured host. The default port may be
// explicit or omitted in both.
func sameHost(host string, u *url.URL) bool {
	defaultPort := ":443"
	if u.Scheme == "http" {
		defaultPort = ":80"
	}
	return strings.TrimSuffix(host, defaultPort) == strings.TrimSuffix(u.Host, defaultPort)
}

type listKey struct{ issuer, uri string }

// entry is the status list of one address.
type entry struct {
	key  listKey
	list atomic.Pointer[statusList]
	used atomic.Int64 // Clock.Boot
	size int64        // of the list in bytes, under Lists.mu; 0: no list

	mu     sync.Mutex
	flight *flight       // the last fetch; nil: none yet
	busy   bool          // the last fetch continues
	retry  time.Duration // Clock.Boot from which another fetch may begin
}

type flight struct {
	done chan struct{}
	err  error // valid once done is closed
}

// use returns the entry of k, or creates it and evicts another if there are too
// many.
func (s *Lists) use(k listKey) *entry {
	now := int64(s.clock.Boot())
	s.mu.RLock()
	e := s.lists[k]
	s.mu.RUnlock()
	if e == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e = s.lists[k]; e == nil {
			k.issuer, k.uri = strings.Clone(k.issuer), strings.Clone(k.uri)
			e = &entry{key: k}
			s.lists[k] = e
			s.evict(e, int64(s.cfg.MaxLists), func(*entry) int64 { return 1 })
		}
	}
	e.used.Store(now)
	return e
}

// install sets the entry's list, and evicts others if all lists together are too
// large. An entry that has been evicted meanwhile still serves its callers.
func (s *Lists) install(e *entry, list *statusList) {
	e.list.Store(list)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.size = int64(cap(list.data))
	s.evict(e, s.cfg.MaxTotal, func(e *entry) int64 { return e.size })
}

// evict removes entries other than newest until their weight is at most limit.
// It removes the least recently used entry of the issuer with the most weight,
// so that no issuer evicts the lists of others. s.mu is held.
func (s *Lists) evict(newest *entry, limit int64, weigh func(*entry) int64) {
	total, byIssuer := int64(0), map[string]int64{}
	for _, e := range s.lists {
		total += weigh(e)
		byIssuer[e.key.issuer] += weigh(e)
	}
	for total > limit {
		var victim *entry
		for _, e := range s.lists {
			if e != newest && weigh(e) != 0 && (victim == nil ||
				cmp.Or(cmp.Compare(byIssuer[victim.key.issuer], byIssuer[e.key.issuer]), cmp.Compare(e.used.Load(), victim.used.Load())) < 0) {
				victim = e
			}
		}
		if victim == nil {
			return // newest alone is within every bound
		}
		total -= weigh(victim)
		byIssuer[victim.key.issuer] -= weigh(victim)
		delete(s.lists, victim.key)
	}
}

// minInterval is the minimum time between two fetches of one list.
const minInterval = 500 * time.Millisecond

// maxFetches bounds the lists of one issuer that are fetched, verified and
// decompressed at once: each may take maxListToken and twice max_bytes, even
// after its callers have left. Further fetches fail rather than queue.
const maxFetches = 4

// acquire reports whether another list of the issuer may be fetched now. If so,
// the caller calls release in the end.
func (s *Lists) acquire(issuer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching[issuer] >= maxFetches {
		return false
	}
	s.fetching[issuer]++
	return true
}

func (s *Lists) release(issuer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetching[issuer]--
}

// refresh joins the current fetch or starts one. It returns the last fetch if
// that ended less than minInterval ago.
func (s *Lists) refresh(e *entry) *flight {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy || e.flight != nil && s.clock.Boot() < e.retry {
		return e.flight
	}
	f := &flight{done: make(chan struct{})}
	e.busy, e.flight = true, f
	end := func(err error) {
		e.busy, f.err = false, err
		close(f.done)
	}
	if !s.acquire(e.key.issuer) {
		s.fetches.WithLabelValues("overloaded").Inc()
		end(errors.New("too many lists of this issuer are being fetched"))
		return f
	}
	started := s.background.Start(func() {
		err := s.update(e)
		s.release(e.key.issuer)
		s.fetches.WithLabelValues(map[bool]string{true: "ok", false: "failed"}[err == nil]).Inc()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.retry = s.clock.Boot() + minInterval
		end(err)
	})
	if !started {
		s.release(e.key.issuer)
		end(errors.New("shutting down"))
	}
	return f
}

// update fetches the entry's list and installs it. Neither an older list, such as
// from an HTTP cache, nor one that proves denials only replaces a good one.
func (s *Lists) update(e *entry) error {
	list, err := s.fetch(e.key)
	cached := e.list.Load()
	switch {
	case list == nil:
	case cached != nil && list.issued < cached.issued:
		return errors.New("it is older than the cached list")
	case err == nil || s.age(cached) > s.cfg.MaxAge:
		s.install(e, list)
	}
	return err
}

// maxListToken bounds a status list token, in bytes.
const maxListToken = 8 << 20

// fetch fetches and verifies a status list token (section 8.1) with the keys of
// the issuer of the referring token, because it need not name its own (section
// 5.1). A list that is returned with an error proves denials only.
func (s *Lists) fetch(k listKey) (_ *statusList, err error) {
	defer func() {
		if p := recover(); p != nil { // no list may end the process
			err = fmt.Errorf("panic while fetching: %T", p)
		}
	}()
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timeout)
	defer cancel()
	asof := s.clock.Boot() // before the request
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.uri, http.NoBody)
	if err != nil {
		return nil, err
	}
	const mediaType = "application/statuslist+jwt"
	req.Header.Set("Accept", mediaType)
	document, err := fetch.Do(s.client, req, mediaType, maxListToken)
	if err != nil {
		return nil, err
	}
	raw := string(document.Body)
	rules := authz.SecurityEventRules{Types: []string{"statuslist+jwt"}, ExpOptional: true, DefaultIssuer: k.issuer, AnyAudience: true, AnyLifetime: true, MaxBytes: maxListToken}
	t, err := s.verifier.VerifySecurityEvent(ctx, raw, rules)
	fail := authz.AsFailure(err)
	if v, ok := s.verifier.(issuer.RevocationAwareVerifier); ok && fail != nil && fail.Reason == authz.ReasonRevocationUnknown {
		t, err = v.Verifier.VerifySecurityEvent(ctx, raw, rules) // the list may still deny
	}
	if err != nil {
		return nil, err
	}
	if t.Issuer != k.issuer || t.Subject != k.uri || t.IssuedAt == 0 {
		return nil, errors.New("the list is of another issuer or address, or has no iat")
	}
	list, err := readStatusList(t.Claims, s.cfg.MaxBytes)
	if err != nil {
		return nil, err
	}
	list.asof, list.issued, list.expires = asof, t.IssuedAt, t.Expires
	if fail != nil {
		list.asof -= s.cfg.MaxAge + time.Nanosecond // too old to prove more than denials
		return list, fail
	}
	return list, nil
}

// statusList is a decompressed list. It is immutable.
type statusList struct {
	bits    uint64 // per entry: 1, 2, 4 or 8
	data    []byte
	asof    time.Duration // Clock.Boot before the request
	ttl     time.Duration // 0: none
	issued  int64         // Unix seconds
	expires int64         // Unix seconds; 0: none
}

// readStatusList decompresses the claim "status_list" (section 4.2).
func readStatusList(claims map[string]any, maxBytes int) (*statusList, error) {
	m, _ := claims["status_list"].(map[string]any)
	n, _ := m["bits"].(json.Number)
	bits, err := n.Int64()
	if err != nil || !slices.Contains([]int64{1, 2, 4, 8}, bits) {
		return nil, errors.New("bits is not 1, 2, 4 or 8")
	}
	l := &statusList{bits: uint64(bits)}
	if v, present := claims["ttl"]; present {
		n, _ := v.(json.Number)
		seconds, err := n.Float64()
		if err != nil || seconds <= 0 {
			return nil, errors.New("ttl is not a positive number")
		}
		l.ttl = time.Duration(min(seconds, 1e6) * float64(time.Second))
	}
	text, _ := m["lst"].(string)
	packed, ok := authz.DecodeSegment(text)
	if !ok {
		return nil, errors.New("lst is not base64url")
	}
	var data []byte
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err == nil {
		data, err = fetch.ReadBounded(r, maxBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("lst: %w", err)
	}
	l.data = bytes.Clone(data) // without spare capacity
	return l, nil
}

// verdict returns the verdict of the entry, least significant bits first (section
// 4.1). VALID is 0; every other status is a revocation.
func (l *statusList) verdict(index uint64) (authz.Verdict, error) {
	if l == nil {
		return authz.Unknown, nil
	}
	perByte := 8 / l.bits
	if index/perByte >= uint64(len(l.data)) {
		return authz.Unknown, errors.New("the token's index is beyond the end of the status list")
	}
	value := uint64(l.data[index/perByte]) >> (index % perByte * l.bits) & (1<<l.bits - 1)
	if value != 0 {
		return authz.Revoked, nil
	}
	return authz.NotRevoked, nil
}
