package statuslist

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// StatusListConfig is the `status_lists` stanza: which published lists are
// looked at. Without hosts, the "status" of tokens is not looked at.
type Config struct {
	Hosts    []string      `yaml:"hosts" doc:"Hosts, with port unless it is 443, that lists may be fetched from, by https; loopback addresses also by http. Empty: status lists are off."`
	CAFile   string        `yaml:"ca_file" doc:"PEM file of certificate authorities trusted for fetching lists, instead of the system's; empty: the system's."`
	MaxAge   time.Duration `yaml:"max_age" doc:"How long a list is believed after it was fetched, 1s up to revocation.max_staleness; the list's own ttl and exp can shorten it. 0: revocation.max_staleness."`
	Timeout  time.Duration `yaml:"timeout" doc:"Limit for fetching one list, 50ms to 30s; 0: 2s."`
	MaxBytes int           `yaml:"max_bytes" doc:"Size of a list in bytes, unpacked, up to 268435456; 0: 16777216, which is 134 million one-bit entries."`
	MaxLists int           `yaml:"max_lists" doc:"Lists kept in memory, up to 10000; 0: 64. When there are more, the issuer that has the most loses the one that was used least recently."`
	MaxTotal int64         `yaml:"max_total" doc:"Size of all lists in memory together in bytes, unpacked, from max_bytes to 1099511627776; beyond it, the issuer that takes the most loses the list that was used least recently. 0: 8 times max_bytes."`
}

func (c Config) withDefaults(maxStaleness time.Duration) Config {
	if c.MaxAge == 0 {
		c.MaxAge = maxStaleness
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 16 << 20
	}
	if c.MaxLists == 0 {
		c.MaxLists = 64
	}
	if c.MaxTotal == 0 {
		c.MaxTotal = 8 * int64(c.MaxBytes)
	}
	return c
}

// Validate reports every invalid value of the stanza. maxStaleness bounds max_age.
func (c Config) Validate(maxStaleness time.Duration, report authz.Report) {
	for i, h := range c.Hosts {
		if u, err := url.Parse("https://" + h); err != nil || u.Host != h || h != strings.ToLower(h) || u.Hostname() == "" {
			report(authz.ItemPath("hosts", i), "%q: a host in lower case is needed, with port where it is not 443", h)
		}
	}
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

// StatementVerifier verifies signed messages that are no access tokens.
type SecurityEventVerifier interface {
	// VerifySecurityEvent returns the message of a configured issuer, or an error
	// that wraps a *Failure.
	VerifySecurityEvent(ctx context.Context, raw string, s authz.SecurityEventRules) (*authz.Token, error)
}

var _ SecurityEventVerifier = issuer.RevocationAwareVerifier{}

// StatusListOptions is what StatusLists work with; Verifier is needed.
type Options struct {
	Verifier     SecurityEventVerifier
	MaxStaleness time.Duration         // 0: 30s
	Clock        authz.Clock           // nil: SystemClock
	Registry     prometheus.Registerer // nil: no metrics
	Transport    http.RoundTripper     // nil: one of its own
}

// StatusLists is a Tier that knows what issuers publish about their tokens. It
// knows nothing of other revocations, so it belongs beside them, in All.
type Lists struct {
	cfg       Config
	verifier  SecurityEventVerifier
	clock     authz.Clock
	client    *http.Client
	closeIdle func()
	fetches   *prometheus.CounterVec

	base       context.Context
	cancel     context.CancelFunc
	background authz.Background

	mu       sync.RWMutex
	lists    map[statusKey]*statusEntry
	fetching map[string]int // fetches under way, by issuer
}

var _ authz.Tier = (*Lists)(nil)

// NewStatusLists returns a tier that fetches lists when tokens refer to them.
// The caller ends it with Close.
func New(c Config, o Options) (*Lists, error) {
	if o.MaxStaleness == 0 {
		o.MaxStaleness = 30 * time.Second
	}
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	var errs []error
	c.Validate(o.MaxStaleness, func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("status_lists.%s: %s", path, fmt.Sprintf(format, args...)))
	})
	if o.Verifier == nil {
		errs = append(errs, errors.New("status_lists: no verifier"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s := &Lists{
		cfg: c.withDefaults(o.MaxStaleness), verifier: o.Verifier, clock: o.Clock, closeIdle: func() {}, lists: map[statusKey]*statusEntry{}, fetching: map[string]int{},
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_status_list_fetches_total", Help: "Status lists fetched, by result: ok, failed, overloaded.",
		}, []string{"result"}),
	}
	transport := o.Transport
	if transport == nil {
		t, err := fetch.NewTransport(c.CAFile, s.cfg.Timeout)
		if err != nil {
			return nil, fmt.Errorf("status_lists: %w", err)
		}
		t.MaxConnsPerHost = 8
		transport, s.closeIdle = t, t.CloseIdleConnections
	}
	s.client = &http.Client{Transport: transport, CheckRedirect: fetch.SameOrigin}
	if o.Registry != nil {
		if err := o.Registry.Register(s.fetches); err != nil {
			return nil, fmt.Errorf("register metrics of status lists: %w", err)
		}
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the fetches under way.
func (s *Lists) Close() {
	s.cancel()
	s.background.Close()
	s.closeIdle()
}

// Name implements Tier.
func (*Lists) Name() string { return "status_list" }

// Lookup implements Tier. A token without a place in a list is not revoked by
// one. As with every proof of freshness, the clock is read last.
func (s *Lists) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if q.Status == nil {
		return authz.NotRevoked, nil
	}
	if err := s.mayFetch(q.Status.URI); err != nil {
		return authz.Unknown, err
	}
	e := s.entry(statusKey{issuer: q.Issuer, uri: q.Status.URI})
	list := e.list.Load()
	v, err := list.verdict(q.Status.Index)
	switch age := s.age(list); {
	case age <= s.cfg.MaxAge/2:
		return v, err
	case age <= s.cfg.MaxAge:
		s.refresh(e) //nolint:contextcheck // early, so that nobody has to wait; it outlives the check
		return v, err
	}
	select {
	case <-s.refresh(e): //nolint:contextcheck // shared by callers: none of them may end it
	case <-ctx.Done():
		return authz.Unknown, ctx.Err()
	}
	list = e.list.Load()
	v, err = list.verdict(q.Status.Index)
	if v == authz.Revoked || s.age(list) <= s.cfg.MaxAge { // revoked once is reason enough, however long ago
		return v, err
	}
	return authz.Unknown, fmt.Errorf("status list could not be fetched: %w", e.failure())
}

// age is how old the list is for the purpose of believing it: what its ttl or
// exp forbids is too old.
func (s *Lists) age(l *statusList) time.Duration {
	const tooOld = time.Duration(1<<63 - 1)
	if l == nil || l.expires != 0 && s.clock.Now().Unix() >= l.expires {
		return tooOld
	}
	age := s.clock.Boot() - l.asof
	if l.ttl != 0 && age > l.ttl {
		return tooOld
	}
	return age
}

// mayFetch keeps a token from choosing whom the sidecar talks to.
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

// sameHost reports whether u is on the configured host. Either may spell out
// the port that is meant without one.
func sameHost(host string, u *url.URL) bool {
	usual := ":443"
	if u.Scheme == "http" {
		usual = ":80"
	}
	return strings.TrimSuffix(host, usual) == strings.TrimSuffix(u.Host, usual)
}

type statusKey struct{ issuer, uri string }

// statusEntry is a list under its address, whether fetched yet or not.
type statusEntry struct {
	key  statusKey
	list atomic.Pointer[statusList]
	used atomic.Int64 // Clock.Boot
	size int64        // of the list in bytes, under StatusLists.mu; 0: none

	mu     sync.Mutex
	flight chan struct{} // closed when the last fetch ended; nil: none was made
	busy   bool
	err    error         // of the last fetch
	retry  time.Duration // Clock.Boot from which another fetch may be made
}

// entry finds or makes the entry. When there are too many, another gives way.
func (s *Lists) entry(k statusKey) *statusEntry {
	now := int64(s.clock.Boot())
	s.mu.RLock()
	e := s.lists[k]
	s.mu.RUnlock()
	if e == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e = s.lists[k]; e == nil {
			k.issuer, k.uri = strings.Clone(k.issuer), strings.Clone(k.uri)
			e = &statusEntry{key: k}
			s.lists[k] = e
			s.shrink(e, int64(s.cfg.MaxLists), func(*statusEntry) int64 { return 1 })
		}
	}
	e.used.Store(now)
	return e
}

// keep gives the entry its list. When all lists are too large together, others
// give way. An entry that gave way itself meanwhile serves those who wait for
// it, and takes memory no longer than they do.
func (s *Lists) keep(e *statusEntry, list *statusList) {
	e.list.Store(list)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.size = int64(cap(list.data))
	s.shrink(e, s.cfg.MaxTotal, func(e *statusEntry) int64 { return e.size })
}

// shrink forgets entries other than the newest until they weigh no more than
// most. The issuer with the most weight loses the one that was not used for
// longest: no issuer can take the others' share by naming many lists or large
// ones. s.mu is held.
func (s *Lists) shrink(newest *statusEntry, most int64, weigh func(*statusEntry) int64) {
	total, byIssuer := int64(0), map[string]int64{}
	for _, e := range s.lists {
		total += weigh(e)
		byIssuer[e.key.issuer] += weigh(e)
	}
	for total > most {
		var victim *statusEntry
		for _, e := range s.lists {
			if e == newest || weigh(e) == 0 {
				continue
			}
			if victim == nil || byIssuer[e.key.issuer] > byIssuer[victim.key.issuer] ||
				byIssuer[e.key.issuer] == byIssuer[victim.key.issuer] && e.used.Load() < victim.used.Load() {
				victim = e
			}
		}
		if victim == nil {
			return // the newest alone is within every bound
		}
		total -= weigh(victim)
		byIssuer[victim.key.issuer] -= weigh(victim)
		delete(s.lists, victim.key)
	}
}

func (e *statusEntry) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		return errors.New("it is too old already")
	}
	return e.err
}

// statusRetry is the least time between two fetches of one list.
const statusRetry = 500 * time.Millisecond

// statusFetches bounds the lists of one issuer that are fetched, verified and
// unpacked at once: each may hold maxStatusToken of text and twice max_bytes,
// whether or not anybody still waits for it. Further ones fail at once rather
// than wait: what waits would only grow. Each issuer has its own, so that one
// whose lists come slowly does not keep the others' from being fetched.
const statusFetches = 4

// begin reports whether another list of the issuer may be fetched now; whoever
// may calls end.
func (s *Lists) begin(issuer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching[issuer] >= statusFetches {
		return false
	}
	s.fetching[issuer]++
	return true
}

func (s *Lists) end(issuer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching[issuer]--; s.fetching[issuer] == 0 {
		delete(s.fetching, issuer)
	}
}

// refresh joins the fetch under way or starts one, and returns what is closed
// when it has ended.
func (s *Lists) refresh(e *statusEntry) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := s.clock.Boot()
	if e.busy || e.flight != nil && now < e.retry {
		return e.flight
	}
	e.busy, e.flight = true, make(chan struct{})
	refuse := func(reason string) {
		e.busy, e.err = false, errors.New(reason)
		close(e.flight)
	}
	if !s.begin(e.key.issuer) {
		s.fetches.WithLabelValues("overloaded").Inc()
		refuse("too many lists of this issuer are being fetched already")
		return e.flight
	}
	started := s.background.Start(func() {
		list, err := s.fetch(e.key)
		held := e.list.Load()
		switch {
		case list == nil:
		case held != nil && list.issued < held.issued:
			err = errors.New("it is older than the one held already") // out of some cache: what has been revoked since would live again
		case err == nil || s.age(held) > s.cfg.MaxAge:
			s.keep(e, list)
		}
		result := "ok"
		if err != nil {
			result = "failed"
		}
		s.end(e.key.issuer)
		s.fetches.WithLabelValues(result).Inc()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.busy, e.err, e.retry = false, err, s.clock.Boot()+statusRetry
		close(e.flight)
	})
	if !started {
		s.end(e.key.issuer)
		refuse("shutting down")
	}
	return e.flight
}

// maxStatusToken bounds a status list token, in bytes.
const maxStatusToken = 8 << 20

// fetch gets and verifies a status list token (section 8.1). A list with an
// error is good for denials only. It need not name
// its issuer (section 5.1): the keys are those of the issuer whose token refers
// to it.
func (s *Lists) fetch(k statusKey) (_ *statusList, err error) {
	defer func() {
		if p := recover(); p != nil { // no list, however strange, may end the process
			err = fmt.Errorf("panic while fetching: %T", p)
		}
	}()
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timeout)
	defer cancel()
	asof := s.clock.Boot() // before the question
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.uri, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/statuslist+jwt")
	raw, err := fetch.Do(s.client, req, "application/statuslist+jwt", maxStatusToken)
	if err != nil {
		return nil, err
	}
	form := authz.SecurityEventRules{Types: []string{"statuslist+jwt"}, ExpOptional: true, DefaultIssuer: k.issuer, AnyAudience: true, AnyLifetime: true, MaxBytes: maxStatusToken}
	t, err := s.verifier.VerifySecurityEvent(ctx, string(raw), form)
	var doubt *authz.Failure
	if speakers, ok := s.verifier.(issuer.RevocationAwareVerifier); ok && errors.As(err, &doubt) && doubt.Reason == authz.ReasonRevocationUnknown {
		// Nobody can tell whether its key has been revoked. What it says may
		// still deny.
		t, err = speakers.Verifier.VerifySecurityEvent(ctx, string(raw), form)
	} else {
		doubt = nil
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
	if doubt != nil {
		list.asof -= s.cfg.MaxAge + time.Nanosecond // too old for anything but a denial
		return list, doubt
	}
	return list, nil
}

// statusList is an unpacked list. It is immutable.
type statusList struct {
	bits    uint64 // per entry: 1, 2, 4 or 8
	data    []byte
	asof    time.Duration // Clock.Boot before it was asked for
	ttl     time.Duration // 0: none given
	issued  int64         // Unix seconds
	expires int64         // Unix seconds; 0: none given
}

// readStatusList unpacks "status_list" (section 4.2).
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
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("lst: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(maxBytes)+1))
	if err != nil {
		return nil, fmt.Errorf("lst: %w", err)
	}
	if len(data) > maxBytes {
		return nil, fmt.Errorf("the list is larger than %d bytes", maxBytes)
	}
	l.data = bytes.Clone(data) // without the room in which it grew
	return l, nil
}

// verdict looks the entry up, least significant bits first (section 4.1).
// VALID is 0; INVALID, SUSPENDED and what an application means by other values
// are all no.
func (l *statusList) verdict(index uint64) (authz.Verdict, error) {
	if l == nil {
		return authz.Unknown, nil
	}
	perByte := 8 / l.bits
	if index/perByte >= uint64(len(l.data)) {
		return authz.Unknown, errors.New("the token's place is not in the status list")
	}
	value := uint64(l.data[index/perByte]) >> (index % perByte * l.bits) & (1<<l.bits - 1)
	if value != 0 {
		return authz.Revoked, nil
	}
	return authz.NotRevoked, nil
}
