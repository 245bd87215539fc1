package issuer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// VerifierOptions is what a JWTVerifier works with. The zero value works.
type VerifierOptions struct {
	// MaxTokenTTL bounds exp - iat (without iat: exp - now); 0: 24h. Revocations
	// are forgotten by it, so it cannot be switched off.
	MaxTokenTTL time.Duration
	// Leeway of issuers that set none; 0: none for exp, 5s for nbf and iat.
	Leeway time.Duration
	// MaxTokenBytes bounds the text of a token; 0: DefaultMaxTokenBytes.
	MaxTokenBytes int
	Clock         authz.Clock           // nil: SystemClock
	Logger        *slog.Logger          // nil: nothing is logged
	Registry      prometheus.Registerer // nil: no metrics
	Transport     http.RoundTripper     // for fetching keys; nil: one of the verifier's own per issuer
}

// JWTVerifier verifies the tokens of the configured issuers.
type Verifier struct {
	issuers  map[string]*KeyRing
	rings    []*KeyRing // by slot
	maxTTL   int64      // seconds
	maxBytes int
	clock    authz.Clock
	registry prometheus.Registerer

	base       context.Context
	cancel     context.CancelFunc
	background authz.Background
	closeIdle  []func()
}

var (
	_ authz.Verifier        = (*Verifier)(nil)
	_ authz.TracingVerifier = (*Verifier)(nil)
)

// NewVerifier returns a verifier for the issuers, which must be valid
// (IssuerConfig.Validate). It fetches nothing before Start, Refresh or the
// first token. The caller ends it with Close.
func NewVerifier(issuers []Config, o VerifierOptions) (*Verifier, error) {
	if len(issuers) == 0 {
		return nil, errors.New("no issuer is configured: no token could be accepted")
	}
	if len(issuers) >= 1<<(64-slotShift) {
		return nil, errors.New("too many issuers")
	}
	if o.MaxTokenTTL == 0 {
		o.MaxTokenTTL = 24 * time.Hour
	}
	if o.MaxTokenBytes == 0 {
		o.MaxTokenBytes = jose.DefaultMaxTokenBytes
	}
	if o.MaxTokenTTL < time.Second || o.MaxTokenBytes < 0 || o.Leeway > authz.MaxLeeway {
		return nil, fmt.Errorf("max token ttl must be at least 1s, max token bytes positive, and leeway at most %s", authz.MaxLeeway)
	}
	if o.Clock == nil {
		o.Clock = authz.SystemClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{
		issuers: make(map[string]*KeyRing, len(issuers)), maxTTL: int64(o.MaxTokenTTL / time.Second),
		maxBytes: o.MaxTokenBytes, clock: o.Clock, registry: o.Registry,
	}
	v.base, v.cancel = context.WithCancel(context.Background())
	for i, c := range issuers {
		if err := v.add(i, c, o); err != nil {
			v.Close()
			return nil, fmt.Errorf("issuer %s: %w", c.Issuer, err)
		}
	}
	if o.Registry != nil {
		if err := o.Registry.Register(v); err != nil {
			v.registry = nil
			v.Close()
			return nil, fmt.Errorf("register metrics of the keys: %w", err)
		}
	}
	return v, nil
}

func (v *Verifier) add(slot int, c Config, o VerifierOptions) error {
	var errs []error
	c.Validate(func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	})
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if v.issuers[c.Issuer] != nil {
		return errors.New("is configured twice")
	}
	c = c.withDefaults(o.Leeway)
	source, closeIdle, err := newKeySource(c, o.Transport, o.Clock)
	if err != nil {
		return err
	}
	r := &KeyRing{
		cfg: c, source: source, clock: o.Clock, log: o.Logger.With("issuer", c.Issuer), slot: uint64(slot),
		base: v.base, background: &v.background, unknown: map[uint64]time.Duration{}, seed: maphash.MakeSeed(),
	}
	if c.plaintext() {
		r.log.Warn("signing keys are fetched without TLS: whoever can change them on the way can mint tokens")
	}
	v.issuers[c.Issuer] = r
	v.rings = append(v.rings, r)
	v.closeIdle = append(v.closeIdle, closeIdle)
	return nil
}

// Start begins to keep every issuer's keys fresh, until ctx ends or Close. It
// does not wait: an issuer that cannot be reached delays nobody.
func (v *Verifier) Start(ctx context.Context) {
	for _, r := range v.rings {
		v.background.Start(func() { r.run(ctx) })
	}
}

// Refresh fetches every issuer's keys now and returns the errors of those
// whose could not be.
func (v *Verifier) Refresh(ctx context.Context) error {
	errs := make([]error, len(v.rings))
	var wg sync.WaitGroup
	for i, r := range v.rings {
		wg.Go(func() {
			if err := r.Refresh(ctx); err != nil {
				errs[i] = fmt.Errorf("issuer %s: %w", r.cfg.Issuer, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close ends the refreshers and waits for them. Tokens can still be verified
// with the keys at hand.
func (v *Verifier) Close() {
	v.cancel()
	v.background.Close()
	for _, f := range v.closeIdle {
		f()
	}
	if v.registry != nil {
		v.registry.Unregister(v)
	}
}

// Verify implements Verifier.
func (v *Verifier) Verify(ctx context.Context, raw string) (*authz.Token, error) {
	return v.verify(ctx, raw, nil, nil)
}

// VerifyTraced implements TracingVerifier.
func (v *Verifier) VerifyTraced(ctx context.Context, raw string, tr *authz.Trace) (*authz.Token, error) {
	return v.verify(ctx, raw, nil, tr)
}

func (v *Verifier) verify(ctx context.Context, raw string, s *authz.SecurityEventRules, tr *authz.Trace) (t *authz.Token, err error) {
	defer func() {
		if p := recover(); p != nil { // whatever broke, the token is not good
			t, err = nil, authz.Failuref(authz.ReasonInternal, "panic while verifying: %T", p)
		}
	}()
	limit := v.maxBytes
	if s != nil && s.MaxBytes > 0 {
		limit = s.MaxBytes
	}
	c, payload, iss, fail := readToken(raw, limit)
	if tr.Halt("form", fail, func() string { return "a signed JWT" }) {
		return nil, fail
	}
	ring, fail := v.ring(iss, s)
	if tr.Halt("issuer", fail, func() string { return authz.QuoteShort(iss.Name) + " is configured" }) {
		return nil, fail
	}
	fail = ring.cfg.admits(c.Header, s)
	if tr.Judge("header", fail, func() string { return describeHeader(c.Header) }) {
		return nil, fail
	}
	key, generation, fail := v.checkSignature(ctx, ring, c, tr)
	if fail != nil {
		return nil, fail
	}
	claims, err := jose.ParseObject(payload)
	if err != nil {
		fail = authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
		tr.Halt("claims", fail, nil)
		return nil, fail
	}
	t = &authz.Token{Raw: strings.Clone(raw), KeyID: key.Kid, Type: c.Header.Typ, Generation: generation}
	if foreign(s) {
		t.Issuer, t.Claims, t.Accepted = s.Issuer, claims, true
		t.SetSecurityEventKeys(key.Aliases(t.Issuer))
		return t, nil
	}
	fail = ReadClaims(t, claims, s == nil || !s.ExpOptional)
	if _, event := claims["events"]; fail == nil && event && s == nil { // RFC 8417, section 4: a message about tokens is none
		fail = authz.Failuref(authz.ReasonUnsupportedToken, "a security event is no credential")
	}
	if fail != nil {
		tr.Halt("claims", fail, nil)
		return nil, fail
	}
	t.Issuer = ring.cfg.Issuer // the same as iss, where there is one
	fail = v.checkTimes(t, ring.leeway(), s != nil && s.AnyLifetime)
	if tr.Judge("times", fail, func() string { return v.describeTimes(t) }) {
		return nil, fail
	}
	t.Accepted = ring.cfg.Accepts(t.Audience)
	if s == nil {
		t.SetKeys(key.Aliases(t.Issuer)...)
	} else {
		t.SetSecurityEventKeys(key.Aliases(t.Issuer))
	}
	return t, nil
}

// readToken takes a token apart as far as that needs no key.
func readToken(raw string, limit int) (c *jose.Compact, payload string, iss jose.IssuerClaim, fail *authz.Failure) {
	if c, fail = jose.ParseCompact(raw, limit); fail != nil {
		return nil, "", iss, fail
	}
	payload = string(c.Payload)
	iss, err := jose.SkimIssuer(payload)
	if err != nil {
		return nil, "", iss, authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
	}
	return c, payload, iss, nil
}

// checkSignature returns the issuer's key that made the signature, and the
// generation of the key set it is from.
func (v *Verifier) checkSignature(ctx context.Context, ring *KeyRing, c *jose.Compact, tr *authz.Trace) (*jose.PublicKey, uint64, *authz.Failure) {
	if tr != nil {
		return v.traceSignature(ctx, ring, c, tr), 0, nil // generation 0: never taken from a cache
	}
	key, generation, fail := ring.key(ctx, c.Header)
	if fail != nil {
		return nil, 0, fail
	}
	if !jose.Algorithms[c.Header.Alg].Verify(key.Key, c.Input, c.Signature) {
		if !c.Header.Keyed {
			ring.ask() // without a kid nothing else tells of a new key
		}
		return nil, 0, &authz.Failure{Reason: authz.ReasonBadSignature, Settled: c.Header.Keyed || ring.settled(), Detail: "the signature does not verify"}
	}
	return key, generation, nil
}

// traceSignature records the step about the signature and never ends the walk.
// It returns the key as far as it is known.
func (v *Verifier) traceSignature(ctx context.Context, ring *KeyRing, c *jose.Compact, tr *authz.Trace) *jose.PublicKey {
	_, local := ring.cfg.keyFile()
	switch {
	case tr.Refused():
		tr.Skip("signature", authz.ReasonUnsupportedToken, "not verified, because of the header")
	case tr.Offline && !local && ring.state.Load() == nil:
		tr.Skip("signature", authz.ReasonKeysUnavailable, "the issuer's keys would have to be fetched")
	default:
		key, _, fail := v.checkSignature(ctx, ring, c, nil)
		tr.Judge("signature", fail, func() string { return "made with a key of the issuer" })
		if key != nil {
			tr.Aliases = key.Others
			return key
		}
	}
	if key := ring.held(c.Header); key != nil {
		tr.Aliases = key.Others
		return key
	}
	return &jose.PublicKey{Kid: c.Header.Kid}
}

func describeHeader(h jose.Header) string {
	return fmt.Sprintf("alg %s, typ %s, kid %s", h.Alg, authz.QuoteShort(h.Typ), authz.QuoteShort(h.Kid))
}

func (v *Verifier) describeTimes(t *authz.Token) string {
	detail := fmt.Sprintf("expires %s (in %s)", authz.FormatTime(t.Expires), time.Unix(t.Expires, 0).Sub(v.clock.Now()).Round(time.Second))
	if t.IssuedAt != 0 {
		detail = "issued " + authz.FormatTime(t.IssuedAt) + ", " + detail
	}
	return detail
}

// ring finds the issuer a token claims to be from. Until the signature has
// been verified, that is all that is believed of the claims.
func (v *Verifier) ring(iss jose.IssuerClaim, s *authz.SecurityEventRules) (*KeyRing, *authz.Failure) {
	if foreign(s) {
		if iss.Present {
			return nil, &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: "the message names an issuer (iss) where none belongs"}
		}
		iss = jose.IssuerClaim{Present: true, Text: true, Name: s.Issuer}
	}
	if !iss.Present && s != nil && s.DefaultIssuer != "" {
		iss = jose.IssuerClaim{Present: true, Text: true, Name: s.DefaultIssuer}
	}
	if !iss.Present || !iss.Text {
		return nil, &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: "the token names no issuer (iss)"}
	}
	r := v.issuers[iss.Name]
	if r == nil {
		return nil, &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: "issuer " + authz.QuoteShort(iss.Name) + " is not configured"}
	}
	return r, nil
}

// admits applies the issuer's lists of algorithms and types.
func (c *Config) admits(h jose.Header, s *authz.SecurityEventRules) *authz.Failure {
	types := c.Types
	if s != nil {
		types = s.Types
	}
	switch {
	case !slices.Contains(c.Algorithms, h.Alg):
		return authz.Failuref(authz.ReasonUnsupportedToken, "alg %s is not accepted from this issuer", h.Alg)
	case !slices.Contains(types, h.Typ):
		return authz.Failuref(authz.ReasonUnsupportedToken, "typ %s is not accepted here", authz.QuoteShort(h.Typ))
	}
	return nil
}

// Current implements Verifier. It is on the path of every request: two loads
// and three comparisons.
func (v *Verifier) Current(t *authz.Token, now int64) bool {
	slot := t.Generation >> slotShift
	if t.Generation == 0 || slot >= uint64(len(v.rings)) {
		return false
	}
	r := v.rings[slot]
	leeway := r.leeway()
	return r.generation.Load() == t.Generation && now < t.Expires+leeway && now+Ahead(leeway) >= t.NotValidBefore
}
