package introspect

import (
	"bufio"
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

// IntrospectionOptions is what introspection works with.
type Options struct {
	// MaxTokenTTL bounds exp - iat of an answer (without iat: exp - now),
	// because revocations are forgotten by it; 0: 24h.
	MaxTokenTTL time.Duration
	// MaxStaleness bounds cache_ttl; 0: 30s.
	MaxStaleness time.Duration
	Clock        authz.Clock           // nil: SystemClock
	Registry     prometheus.Registerer // nil: no metrics
	Transport    http.RoundTripper     // nil: one of its own per endpoint
}

// Introspections are the configured introspectors.
type Introspectors struct {
	byName map[string]authz.Introspector
	all    []*introspection
}

// NewIntrospections returns an introspector per entry. They ask nothing before
// the first token. The caller ends them with Close.
func New(configs []Config, o Options) (*Introspectors, error) {
	if o.MaxTokenTTL == 0 {
		o.MaxTokenTTL = 24 * time.Hour
	}
	if o.MaxStaleness == 0 {
		o.MaxStaleness = 30 * time.Second
	}
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	asked := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_introspections_total", Help: "Opaque tokens judged, by introspection and result: cached, active, inactive, refused, failed, overloaded.",
	}, []string{"introspection", "result"})
	s := &Introspectors{byName: map[string]authz.Introspector{}}
	for i, c := range configs {
		var faults []error
		c.Validate(o.MaxStaleness, func(path, format string, args ...any) {
			faults = append(faults, fmt.Errorf("introspection[%d].%s: %s", i, path, fmt.Sprintf(format, args...)))
		})
		if s.byName[c.Name] != nil {
			faults = append(faults, fmt.Errorf("introspection[%d].name: %q occurs twice", i, c.Name))
		}
		if len(faults) > 0 {
			s.Close()
			return nil, errors.Join(faults...)
		}
		n, err := newIntrospection(c.withDefaults(), o, asked)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("introspection %s: %w", c.Name, err)
		}
		s.byName[c.Name] = n
		s.all = append(s.all, n)
	}
	if o.Registry != nil && len(configs) > 0 {
		if err := o.Registry.Register(asked); err != nil {
			s.Close()
			return nil, fmt.Errorf("register metrics of introspection: %w", err)
		}
	}
	return s, nil
}

// ByName returns the introspectors for PolicyOptions.
func (s *Introspectors) ByName() map[string]authz.Introspector { return s.byName }

// Close waits for the questions under way and forgets all answers.
func (s *Introspectors) Close() {
	for _, n := range s.all {
		n.background.Close()
		n.breaker.Close()
		n.closeIdle()
		n.answers.InvalidateAll()
		n.answers.StopAllGoroutines()
		n.refusals.InvalidateAll()
		n.refusals.StopAllGoroutines()
	}
}

// introspection asks one endpoint.
type introspection struct {
	cfg       Config
	maxTTL    int64
	clock     authz.Clock
	client    *http.Client
	closeIdle func()
	// Refusals are kept apart, so that a flood of invented tokens does not
	// push out the good ones.
	answers, refusals *otter.Cache[[sha256.Size]byte, introspected]
	flights           singleflight.Group
	breaker           *breaker.Breaker
	asked             map[string]prometheus.Counter // by result
	background        authz.Background
}

// introspected is an answer of the issuer and how long it may be believed.
type introspected struct {
	token *authz.Token
	fail  *authz.Failure // why there is none
	until time.Duration  // Clock.Boot
	text  int            // bytes of the answer, which the token's claims share
	// refused: the endpoint works but refused the question. Nothing else is set.
	refused error
}

// size estimates what remembering a takes in bytes.
func (a introspected) size() int {
	if a.token == nil {
		return 512 // the failure with its detail, the cache's node
	}
	return a.token.Size() + a.text
}

var _ authz.Introspector = (*introspection)(nil)

func newIntrospection(c Config, o Options, asked *prometheus.CounterVec) (*introspection, error) {
	n := &introspection{
		cfg: c, maxTTL: int64(o.MaxTokenTTL / time.Second), clock: o.Clock, closeIdle: func() {},
		asked: map[string]prometheus.Counter{},
	}
	for _, result := range []string{"cached", "active", "inactive", "refused", "failed", "overloaded"} {
		n.asked[result] = asked.WithLabelValues(c.Name, result)
	}
	transport := o.Transport
	if transport == nil {
		t, err := fetch.NewTransport(c.CAFile, c.Timeout)
		if err != nil {
			return nil, err
		}
		t.MaxConnsPerHost, t.MaxIdleConns, t.MaxIdleConnsPerHost = c.MaxConcurrent, c.MaxConcurrent, c.MaxConcurrent
		transport, n.closeIdle = t, t.CloseIdleConnections
	}
	n.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("redirect refused") // a token would go where nobody said it may
	}}
	n.answers, n.refusals = newAnswers(c), newAnswers(c)
	n.breaker = breaker.New(breaker.Options{Dependency: "introspection " + c.Name, Timeout: c.Timeout, Concurrent: c.MaxConcurrent, Probe: n.probe})
	return n, nil
}

// newAnswers returns a cache that is bounded by bytes and by number. The library
// knows one bound alone, so an answer weighs at least its share of the bytes.
func newAnswers(c Config) *otter.Cache[[sha256.Size]byte, introspected] {
	const heaviest = 1 << 30 // a weight has 32 bits
	entries := int64(c.CacheEntries)
	most := min(c.CacheBytes, entries*heaviest)
	share := (most + entries - 1) / entries
	return otter.Must(&otter.Options[[sha256.Size]byte, introspected]{
		MaximumWeight: uint64(most),
		Weigher: func(_ [sha256.Size]byte, a introspected) uint32 {
			return uint32(max(share, int64(min(a.size(), heaviest))))
		},
	})
}

// Local implements Introspector.
func (n *introspection) Local(raw string) bool {
	_, jwt := authz.SignedPart(raw)
	return jwt && n.cfg.Tokens == "opaque"
}

// Introspect implements Introspector.
func (n *introspection) Introspect(ctx context.Context, raw string) (*authz.Token, error) {
	if len(raw) > jose.DefaultMaxTokenBytes || !authz.IsToken68(raw) {
		return nil, authz.Failuref(authz.ReasonMalformedToken, "not a token")
	}
	key := sha256.Sum256([]byte(raw))
	if a, ok := n.cached(key); ok {
		n.asked["cached"].Inc()
		return a.result(n.clock.Now())
	}
	raw = strings.Clone(raw) // it may alias the request, which the question can outlive
	//nolint:contextcheck // several callers may wait for the answer: none of them may end the question
	flight := n.flights.DoChan(string(key[:]), func() (a any, err error) {
		if !n.background.Enter() {
			return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "introspection " + n.cfg.Name + ": shutting down"}
		}
		defer n.background.Leave()
		defer func() {
			if p := recover(); p != nil { // no answer, however strange, may end the process
				a, err = nil, &authz.Failure{Reason: authz.ReasonInternal, Detail: fmt.Sprintf("panic while introspecting: %T", p)}
			}
		}()
		return n.ask(key, raw)
	})
	select {
	case <-ctx.Done():
		return nil, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: "introspection took too long"}
	case r := <-flight:
		if r.Err != nil {
			return nil, r.Err
		}
		a, _ := r.Val.(introspected)
		return a.result(n.clock.Now())
	}
}

func (n *introspection) cached(key [sha256.Size]byte) (introspected, bool) {
	now := n.clock.Boot()
	if a, ok := n.answers.GetIfPresent(key); ok && now < a.until {
		return a, true
	}
	a, ok := n.refusals.GetIfPresent(key)
	return a, ok && now < a.until
}

func (a introspected) result(now time.Time) (*authz.Token, error) {
	switch {
	case a.fail != nil:
		return nil, a.fail
	case a.token == nil:
		return nil, &authz.Failure{Reason: authz.ReasonInternal, Detail: "introspection without a result"}
	case now.Unix() >= a.token.Expires:
		return nil, &authz.Failure{Reason: authz.ReasonExpired, Detail: "exp was " + authz.FormatTime(a.token.Expires)}
	case now.Unix() < a.token.NotValidBefore:
		return nil, &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "nbf is " + authz.FormatTime(a.token.NotValidBefore)}
	}
	return a.token, nil
}

// ask asks the endpoint and remembers its answer. It is bounded by the
// configured timeout rather than by a caller's: several may wait for it.
func (n *introspection) ask(key [sha256.Size]byte, raw string) (introspected, error) {
	if n.Local(raw) {
		// The verifier has passed it on as of a foreign issuer and read no more
		// of it. What it would refuse is refused all the same.
		_, rest, _ := strings.Cut(raw, ".")
		body, _, _ := strings.Cut(rest, ".")
		if _, err := segmentObject(body); err != nil {
			return introspected{}, authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
		}
	}
	a, err := breaker.Do(context.Background(), n.breaker, func(ctx context.Context) (a introspected, err error) {
		start := n.clock.Boot() // before the question: the answer is no older
		claims, text, err := n.post(ctx, raw)
		if err != nil {
			err = fmt.Errorf("introspection %s: %w", n.cfg.Name, err)
			if errors.Is(err, errBadQuestion) { // of one caller's token: the others' can be asked about
				a.refused, err = err, nil
			}
			return a, err
		}
		a = n.judge(raw, claims)
		a.until, a.text = start+n.cfg.CacheTTL, text
		return a, nil
	})
	if err == nil {
		err = a.refused
	}
	switch {
	case err == nil:
	case errors.Is(err, breaker.ErrBusy):
		n.asked["overloaded"].Inc()
		return introspected{}, &authz.Failure{Reason: authz.ReasonOverloaded, Detail: "too many introspections at once"}
	case errors.Is(err, breaker.ErrPanicked): // no answer, however strange, may end the process
		return introspected{}, &authz.Failure{Reason: authz.ReasonInternal, Detail: err.Error()}
	default:
		n.asked["failed"].Inc()
		return introspected{}, &authz.Failure{Reason: authz.ReasonRevocationUnknown, Detail: err.Error()}
	}
	switch {
	case a.token != nil:
		n.asked["active"].Inc()
		n.answers.Set(key, a)
	case a.fail.Reason == authz.ReasonInactive:
		n.asked["inactive"].Inc()
		n.answers.Invalidate(key)
		n.refusals.Set(key, a)
	default:
		n.asked["refused"].Inc()
		n.refusals.Set(key, a)
	}
	return a, nil
}

// errBadQuestion: the endpoint works, but not with this token.
var errBadQuestion = errors.New("the endpoint refused the question")

// refusesQuestion reports whether a status is about what was asked rather than
// about who asks, or about the endpoint.
func refusesQuestion(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// probe asks about a token that no issuer has made: an endpoint that has
// recovered says that it is not active, or refuses the question.
func (n *introspection) probe(ctx context.Context) error {
	_, _, err := n.post(ctx, "jwt-bouncer-probe")
	if errors.Is(err, errBadQuestion) {
		return nil
	}
	return err
}

// maxIntrospection bounds an answer, in bytes.
const maxIntrospection = 64 << 10

// post sends the question (RFC 7662, section 2.1) and returns the answer, with
// the length of its text. Errors never hold the token.
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
	b, err := fetch.Do(n.client, req, "application/json", maxIntrospection)
	if status := fetch.StatusError(0); errors.As(err, &status) && refusesQuestion(int(status)) {
		return nil, 0, fmt.Errorf("%w with %w", errBadQuestion, err)
	}
	if err != nil {
		return nil, 0, err
	}
	claims, err := jose.ParseObject(string(b))
	if err != nil {
		return nil, 0, fmt.Errorf("the endpoint's answer: %w", err)
	}
	if _, ok := claims["active"].(bool); !ok {
		return nil, 0, errors.New("the endpoint's answer has no active")
	}
	return claims, len(b), nil
}

// judge makes a Token of an answer (RFC 7662, section 2.2).
func (n *introspection) judge(raw string, claims map[string]any) introspected {
	refuse := func(r authz.Reason, detail string) introspected {
		return introspected{fail: &authz.Failure{Reason: r, Detail: detail}}
	}
	if claims["active"] != true {
		return refuse(authz.ReasonInactive, "the issuer says that the token is not active")
	}
	if use := otherUse(claims); use != "" {
		return refuse(authz.ReasonUnsupportedToken, "the issuer says that it is no access token: "+use)
	}
	t := &authz.Token{Raw: raw}
	if fail := issuer.ReadClaims(t, claims, true); fail != nil {
		return introspected{fail: fail}
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
		return refuse(authz.ReasonUnknownIssuer, "the answer names another issuer")
	case t.IssuedAt > now+issuer.Ahead(0):
		return refuse(authz.ReasonNotYetValid, "iat is "+authz.FormatTime(t.IssuedAt))
	case t.Expires-from > n.maxTTL:
		return refuse(authz.ReasonLifetimeTooLong, fmt.Sprintf("valid for %ds; at most %ds are accepted", t.Expires-from, n.maxTTL))
	}
	t.Accepted = (&issuer.Config{Audiences: n.cfg.Audiences}).Accepts(t.Audience)
	t.SetKeys(ownKeys(t.Issuer, raw)...)
	return introspected{token: t}
}

// otherUse returns what an active token is for, if not for access: endpoints
// call refresh and ID tokens active, too, whatever the hint. RFC 7662 has no
// word for it; token_use is that of Hydra and Cognito, typ that of Keycloak, and
// token_type (RFC 6749, section 7.1) some use for it.
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

// ownKeys returns the revocation keys by what a JWT says of itself, which an
// answer need not repeat (RFC 7662, section 2.2), and never does of the kid.
// Nobody has verified it here; but such keys can only deny.
func ownKeys(issuer, raw string) []authz.Key {
	var keys []authz.Key
	for _, k := range OwnNames(raw) {
		keys = append(keys, authz.RevocationKey(k.Kind, issuer, k.Value))
	}
	return keys
}

// OwnNames returns what a JWT says of itself by which it could be revoked.
// Nothing has verified it.
func OwnNames(raw string) []authz.KeyName {
	signed, jwt := authz.SignedPart(raw)
	if !jwt {
		return nil
	}
	head, body, _ := strings.Cut(signed, ".")
	header, _ := segmentObject(head) // nil when it is none
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

// segmentObject reads a JWT's header or payload.
func segmentObject(segment string) (map[string]any, error) {
	b, ok := authz.DecodeSegment(segment)
	if !ok {
		return nil, errors.New("not base64url without padding")
	}
	return jose.ParseObject(string(b))
}

// firstLine reads a secret.
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
	return "", errors.New("is empty")
}
