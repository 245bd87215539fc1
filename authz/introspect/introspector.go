package introspect

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/jose"
)

// Options configure introspection. The zero value is usable.
type Options struct {
	// MaxTokenTTL bounds exp - iat of a response (without iat: exp - now),
	// because revocations expire by it; 0: 24h.
	MaxTokenTTL   time.Duration
	MaxStaleness  time.Duration         // bounds cache_ttl; 0: 30s
	MaxTokenBytes int                   // length of a token; 0: jose.DefaultMaxTokenBytes
	Clock         authz.Clock           // nil: authz.SystemClock
	Registry      prometheus.Registerer // nil: no metrics
	Transport     http.RoundTripper     // nil: one for each endpoint
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
		Name: "jwt_bouncer_introspections_total", Help: "Introspections of tokens, by introspection and result: cached, active, inactive, refused, failed, overloaded.",
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

// Close waits for the current requests and deletes all cached responses.
func (s *Introspectors) Close() {
	for _, n := range s.all {
		n.breaker.Close()
		n.client.CloseIdleConnections()
		for _, c := range []*otter.Cache[cacheKey, response]{n.active, n.inactive} {
			c.InvalidateAll()
			c.StopAllGoroutines()
		}
	}
}

// introspection sends requests to one endpoint and caches the responses.
type introspection struct {
	cfg      Config
	maxTTL   int64 // seconds
	maxBytes int   // length of a token
	clock    authz.Clock
	client   *http.Client
	// Two caches, so that a flood of invented tokens does not evict active ones.
	active, inactive *otter.Cache[cacheKey, response]
	flights          singleflight.Group
	breaker          *breaker.Breaker
	results          map[string]prometheus.Counter // by result; resolved once, because every cached token counts
}

type cacheKey = [sha256.Size]byte

// response is a response of the endpoint: a token or a failure.
type response struct {
	token *authz.Token
	fail  *authz.Failure
	until time.Duration // Clock.Boot until which it is used
	text  int           // bytes of the response, with which the token's claims share memory
}

// size estimates the memory of r in bytes.
func (r response) size() int {
	if r.token == nil {
		return 512 // the failure with its detail, the cache's node
	}
	return r.token.Size() + r.text
}

var _ authz.Introspector = (*introspection)(nil)

func newIntrospection(c Config, o Options, results *prometheus.CounterVec) (*introspection, error) {
	n := &introspection{cfg: c, maxTTL: int64(o.MaxTokenTTL / time.Second), maxBytes: cmp.Or(o.MaxTokenBytes, jose.DefaultMaxTokenBytes), clock: o.Clock, results: map[string]prometheus.Counter{}}
	for _, result := range []string{"cached", "active", "inactive", "refused", "failed", "overloaded"} {
		n.results[result] = results.WithLabelValues(c.Name, result)
	}
	var err error
	n.client, err = fetch.NewClient(fetch.ClientOptions{Transport: o.Transport, Config: c.Config, Timeout: c.Timeout, ConnsPerHost: c.MaxConcurrent, IdleConns: c.MaxConcurrent})
	if err != nil {
		return nil, err
	}
	n.client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("redirect refused") // it would send the token to another URL than the configured one
	}
	n.active, n.inactive = newCache(c), newCache(c)
	n.breaker = breaker.New(breaker.Options{Dependency: "introspection " + c.Name, Timeout: c.Timeout, Inline: true, Concurrent: c.MaxConcurrent, Probe: n.probe})
	return n, nil
}

// newCache returns a cache bounded by bytes and by entries. The library supports
// one bound only, so an entry weighs at least its share of the bytes.
func newCache(c Config) *otter.Cache[cacheKey, response] {
	const heaviest = 1 << 30 // a weight has 32 bits
	entries := int64(c.CacheEntries)
	most := min(c.CacheBytes, entries*heaviest)
	share := (most + entries - 1) / entries
	return otter.Must(&otter.Options[cacheKey, response]{
		MaximumWeight: uint64(most),
		Weigher:       func(_ cacheKey, r response) uint32 { return uint32(max(share, int64(min(r.size(), heaviest)))) },
	})
}

// Local implements authz.Introspector.
func (n *introspection) Local(raw string) bool {
	_, jwt := authz.SignedPart(raw)
	return jwt && n.cfg.Tokens == "opaque"
}

// Introspect implements authz.Introspector.
func (n *introspection) Introspect(ctx context.Context, raw string) (*authz.Token, error) {
	if len(raw) > n.maxBytes || !authz.IsToken68(raw) {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "not a token")
	}
	key := sha256.Sum256([]byte(raw))
	if r, ok := n.cached(key); ok {
		n.results["cached"].Inc()
		return r.result(n.clock.Now())
	}
	if n.Local(raw) {
		// The verifier did not read more of it than the foreign issuer. What
		// it would refuse is refused here.
		_, rest, _ := strings.Cut(raw, ".")
		payload, _, _ := strings.Cut(rest, ".")
		if _, err := segmentObject(payload); err != nil {
			return nil, authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
		}
	}
	raw = strings.Clone(raw) // it may share memory with the request, which may end before the flight
	//nolint:contextcheck // several callers may wait for the response; none of them may cancel it
	flight := n.flights.DoChan(string(key[:]), func() (any, error) { return n.request(key, raw) })
	select {
	case <-ctx.Done():
		return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "introspection took too long"}
	case f := <-flight:
		if f.Err != nil {
			return nil, f.Err
		}
		r, _ := f.Val.(response)
		return r.result(n.clock.Now())
	}
}

func (n *introspection) cached(key cacheKey) (response, bool) {
	now := n.clock.Boot()
	if r, ok := n.active.GetIfPresent(key); ok && now < r.until {
		return r, true
	}
	r, ok := n.inactive.GetIfPresent(key)
	return r, ok && now < r.until
}

func (r response) result(now time.Time) (*authz.Token, error) {
	switch {
	case r.fail != nil:
		return nil, r.fail
	case r.token == nil:
		return nil, &authz.Failure{Reason: authz.ReasonInternal, Detail: "introspection without a result"}
	case now.Unix() >= r.token.Expires:
		return nil, &authz.Failure{Reason: authz.ReasonExpired, Detail: "exp was " + authz.FormatTime(r.token.Expires)}
	case now.Unix() < r.token.NotValidBefore:
		return nil, &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "nbf is " + authz.FormatTime(r.token.NotValidBefore)}
	}
	return r.token, nil
}

// request sends an introspection request and caches the response.
func (n *introspection) request(key cacheKey, raw string) (response, error) {
	var refused error // the endpoint works but refuses this token
	r, err := breaker.Do(context.Background(), n.breaker, func(ctx context.Context) (r response, err error) {
		start := n.clock.Boot() // before the request: the response is no older
		claims, text, err := n.post(ctx, raw)
		if err != nil {
			err = fmt.Errorf("introspection %s: %w", n.cfg.Name, err)
			if errors.Is(err, errTokenRefused) {
				refused, err = err, nil
			}
			return r, err
		}
		r = n.evaluate(raw, claims)
		r.until, r.text = start+n.cfg.CacheTTL, text
		n.remember(key, r)
		return r, nil
	})
	if err == nil {
		err = refused
	}
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, breaker.ErrBusy):
		n.results["overloaded"].Inc()
		return response{}, &authz.Failure{Reason: authz.ReasonOverloaded, Detail: "too many introspections at once"}
	case errors.Is(err, breaker.ErrPanicked):
		return response{}, &authz.Failure{Reason: authz.ReasonInternal, Detail: err.Error()}
	}
	n.results["failed"].Inc()
	return response{}, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: err.Error()}
}

// remember caches and counts a response.
func (n *introspection) remember(key cacheKey, r response) {
	if r.token != nil {
		n.results["active"].Inc()
		n.active.Set(key, r)
		return
	}
	result := "refused"
	if r.fail.Reason == authz.ReasonInactive {
		result = "inactive"
		n.active.Invalidate(key)
	}
	n.results[result].Inc()
	n.inactive.Set(key, r)
}

// errTokenRefused is an error response that concerns the token of the request,
// not the client or the endpoint.
var errTokenRefused = errors.New("the endpoint refused the token")

func refusesToken(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// probe introspects a token that no issuer has issued. A working endpoint
// responds that it is inactive, or refuses it.
func (n *introspection) probe(ctx context.Context) error {
	_, _, err := n.post(ctx, "jwt-bouncer-probe")
	if errors.Is(err, errTokenRefused) {
		return nil
	}
	return err
}

// maxResponse bounds a response, in bytes.
const maxResponse = 64 << 10

// post sends an introspection request (RFC 7662, section 2.1). It returns the
// members of the response and its length in bytes. Errors never contain the
// token.
func (n *introspection) post(ctx context.Context, raw string) (_ map[string]any, text int, _ error) {
	secret, err := firstLine(n.cfg.ClientSecretFile)
	if err != nil {
		return nil, 0, fmt.Errorf("client_secret_file: %w", err)
	}
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	if n.cfg.ClientAuth == "post" {
		form.Set("client_id", n.cfg.ClientID)
		form.Set("client_secret", secret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.cfg.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, err
	}
	switch n.cfg.ClientAuth {
	case "basic": // RFC 6749, section 2.3.1: form-encoded first
		req.SetBasicAuth(url.QueryEscape(n.cfg.ClientID), url.QueryEscape(secret))
	case "bearer":
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	document, err := fetch.Do(n.client, req, "application/json", maxResponse)
	if status := fetch.StatusError(0); errors.As(err, &status) && refusesToken(int(status)) {
		return nil, 0, fmt.Errorf("%w with %w", errTokenRefused, err)
	}
	if err != nil {
		return nil, 0, err
	}
	claims, err := jose.ParseDocument(document.Body)
	if err != nil {
		return nil, 0, fmt.Errorf("%s where an introspection response is needed: %w", document, err)
	}
	if _, ok := claims["active"].(bool); !ok {
		return nil, 0, fmt.Errorf("%s where an introspection response is needed: it has no active", document)
	}
	return claims, len(document.Body), nil
}

// evaluate converts the members of a response (RFC 7662, section 2.2).
func (n *introspection) evaluate(raw string, claims map[string]any) response {
	refuse := func(r authz.Reason, detail string) response {
		return response{fail: &authz.Failure{Reason: r, Detail: detail}}
	}
	if claims["active"] != true {
		return refuse(authz.ReasonInactive, "the issuer says that the token is not active")
	}
	if name := otherUse(claims); name != "" {
		return refuse(authz.ReasonUnsupportedToken, "the issuer says that it is not an access token: "+name)
	}
	t := &authz.Token{Raw: raw}
	if fail := issuer.ReadClaims(t, claims, true); fail != nil {
		return response{fail: fail}
	}
	if t.Issuer == "" {
		t.Issuer = n.cfg.Issuer
		claims["iss"] = n.cfg.Issuer
	}
	now := n.clock.Now().Unix()
	from := now
	if _, ok := claims["iat"]; ok {
		from = t.IssuedAt
	}
	switch {
	case t.Issuer != n.cfg.Issuer:
		return refuse(authz.ReasonUnknownIssuer, "the response names another issuer")
	case t.IssuedAt > now+issuer.FutureLeeway(0):
		return refuse(authz.ReasonNotYetValid, "iat is "+authz.FormatTime(t.IssuedAt))
	case t.Expires-from > n.maxTTL:
		return refuse(authz.ReasonLifetimeTooLong, fmt.Sprintf("valid for %ds; at most %ds are accepted", t.Expires-from, n.maxTTL))
	}
	t.Accepted = issuer.Config{Audiences: n.cfg.Audiences}.Accepts(t.Audience)
	var own []authz.Key // they can only deny
	for _, k := range OwnNames(raw) {
		own = append(own, authz.RevocationKey(k.Kind, t.Issuer, k.Value))
	}
	t.SetKeys(own...)
	return response{token: t}
}

// otherUse returns the member that says that an active token is not an access
// token, or "". Endpoints also report refresh and ID tokens as active, despite
// the hint. RFC 7662 defines no member for the use of a token: Hydra and Cognito
// have token_use, Keycloak has typ, others reuse token_type (RFC 6749, section 7.1).
func otherUse(claims map[string]any) string {
	if use, ok := claims["token_use"].(string); ok && use != "access_token" && use != "access" {
		return "token_use"
	}
	for _, name := range []string{"typ", "token_type"} {
		switch s, _ := claims[name].(string); strings.ToLower(s) {
		case "refresh", "refresh_token", "offline", "id", "id_token":
			return name
		}
	}
	return ""
}

// OwnNames returns the names in the text of a JWT by which it can be revoked.
// A response need not repeat them (RFC 7662, section 2.2) and never contains the
// kid. Nothing has verified them.
func OwnNames(raw string) []authz.KeyName {
	signed, jwt := authz.SignedPart(raw)
	if !jwt {
		return nil
	}
	head, body, _ := strings.Cut(signed, ".")
	header, _ := segmentObject(head) // nil if malformed
	claims, _ := segmentObject(body)
	var names []authz.KeyName
	for _, p := range []struct {
		kind  authz.Kind
		value any
	}{{authz.KindJTI, claims["jti"]}, {authz.KindSub, claims["sub"]}, {authz.KindSID, claims["sid"]}, {authz.KindKID, header["kid"]}} {
		if s, _ := p.value.(string); s != "" {
			names = append(names, authz.KeyName{Kind: p.kind, Value: s})
		}
	}
	return names
}

// segmentObject parses a JWT's header or payload.
func segmentObject(segment string) (map[string]any, error) {
	b, ok := authz.DecodeSegment(segment)
	if !ok {
		return nil, errors.New("not base64url without padding")
	}
	return jose.ParseObject(string(b))
}

// firstLine reads a secret from the first line of a file.
func firstLine(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	lines.Scan()
	if line := strings.TrimSpace(lines.Text()); line != "" {
		return line, nil
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	return "", errors.New("its first line is empty")
}
