package issuer

import (
	"cmp"
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

// VerifierOptions configure a Verifier. The zero value is usable.
type VerifierOptions struct {
	// MaxTokenTTL bounds exp - iat (without iat: exp - now); 0 means 24h. It has
	// no "unlimited", because revocations expire by it.
	MaxTokenTTL time.Duration
	// Leeway of issuers that set none; 0: none for exp, 5s for nbf and iat.
	Leeway time.Duration
	Limits LimitsConfig
	// RevocableClaims are the claims by which tokens can be revoked.
	RevocableClaims []string
	Clock           authz.Clock           // nil: authz.SystemClock
	Logger          *slog.Logger          // nil: no log
	Registry        prometheus.Registerer // nil: no metrics
	Transport       http.RoundTripper     // for fetching keys; nil: one for each issuer
}

// Verifier verifies the tokens of the configured issuers.
type Verifier struct {
	issuers  map[string]namedRing  // by exact name
	any      []*KeyRing            // of issuers with any tenant
	unnamed  []authz.UnnamedIssuer // whose tokens may have no iss
	rings    []*KeyRing            // by slot
	names    []string              // of the issuers as configured, for messages
	maxTTL   int64                 // seconds
	claims   []string              // by which tokens can be revoked
	limits   LimitsConfig
	clock    authz.Clock
	registry prometheus.Registerer

	base       context.Context
	cancel     context.CancelFunc
	background authz.Background
}

// namedRing is a key ring with one of its issuer's names.
type namedRing struct {
	*KeyRing
	name string
}

var (
	_ authz.Verifier        = (*Verifier)(nil)
	_ authz.TracingVerifier = (*Verifier)(nil)
)

// NewVerifier returns a verifier for the issuers, which must be valid (see
// Config.Validate). It fetches nothing before Start, Refresh or the first token.
// The caller calls Close in the end.
func NewVerifier(issuers []Config, o VerifierOptions) (*Verifier, error) {
	if len(issuers) == 0 {
		return nil, errors.New("no issuer is configured: no token could be accepted")
	}
	if len(issuers) >= 1<<(64-slotShift) {
		return nil, errors.New("too many issuers")
	}
	o.MaxTokenTTL = cmp.Or(o.MaxTokenTTL, 24*time.Hour)
	if o.MaxTokenTTL < time.Second || o.Leeway > authz.MaxLeeway {
		return nil, fmt.Errorf("max token ttl must be at least 1s, and leeway at most %s", authz.MaxLeeway)
	}
	if err := authz.ValidationErrors("limits.", o.Limits.Validate); err != nil {
		return nil, err
	}
	o.Limits = o.Limits.withDefaults()
	o.Clock = cmp.Or[authz.Clock](o.Clock, authz.SystemClock{})
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	v := &Verifier{
		issuers: make(map[string]namedRing, len(issuers)), maxTTL: int64(o.MaxTokenTTL / time.Second),
		claims: o.RevocableClaims, limits: o.Limits, clock: o.Clock,
	}
	if err := authz.ValidationErrors("issuers", func(report authz.Report) { ValidateAll(issuers, report) }); err != nil {
		return nil, err
	}
	v.unnamed = Issuers(issuers).Unnamed
	v.base, v.cancel = context.WithCancel(context.Background())
	for _, c := range issuers {
		if err := v.add(c, o); err != nil {
			v.Close()
			return nil, fmt.Errorf("issuer %s: %w", c.Issuer, err)
		}
	}
	if o.Registry != nil {
		if err := o.Registry.Register(v); err != nil {
			v.Close()
			return nil, fmt.Errorf("register metrics of the keys: %w", err)
		}
		v.registry = o.Registry
	}
	return v, nil
}

func (v *Verifier) add(c Config, o VerifierOptions) error {
	c = c.withDefaults(o.Leeway)
	fetch, err := c.keySource(o.Transport, o.Clock, o.Limits.SetBytes)
	if err != nil {
		return err
	}
	r := &KeyRing{
		cfg: c, limits: o.Limits, fetch: fetch, clock: o.Clock, log: o.Logger.With("issuer", c.Issuer), slot: uint64(len(v.rings)),
		base: v.base, background: &v.background, unknown: map[uint64]time.Duration{}, seed: maphash.MakeSeed(),
	}
	if c.plaintext() {
		r.log.Warn("signing keys are fetched without TLS: an attacker on the network path can replace them and mint tokens")
	}
	for _, name := range c.Names() {
		v.issuers[name] = namedRing{r, name}
	}
	if c.Template() != "" {
		v.any = append(v.any, r)
	}
	v.rings = append(v.rings, r)
	v.names = append(v.names, c.Issuer)
	return nil
}

// Start keeps every issuer's keys fresh in the background until ctx ends or
// Close. It does not wait for the first fetch.
func (v *Verifier) Start(ctx context.Context) {
	for _, r := range v.rings {
		v.background.Start(func() { r.run(ctx) })
	}
}

// Refresh fetches every issuer's keys now and returns the joined errors of all
// issuers whose keys could not be fetched.
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

// Close stops the refreshers and waits for them. Tokens can still be verified
// with the current keys.
func (v *Verifier) Close() {
	v.cancel()
	v.background.Close()
	if v.registry != nil {
		v.registry.Unregister(v)
	}
}

// Verify implements authz.Verifier.
func (v *Verifier) Verify(ctx context.Context, raw string) (*authz.Token, error) {
	return v.verify(ctx, raw, nil, nil)
}

// VerifyTraced implements authz.TracingVerifier.
func (v *Verifier) VerifyTraced(ctx context.Context, raw string, tr *authz.Trace) (*authz.Token, error) {
	return v.verify(ctx, raw, nil, tr)
}

// verify verifies a bearer token if s is nil, otherwise a security event token.
func (v *Verifier) verify(ctx context.Context, raw string, s *authz.SecurityEventRules, tr *authz.Trace) (t *authz.Token, err error) {
	defer func() {
		if p := recover(); p != nil { // a defect must not accept the token
			t, err = nil, authz.Failuref(authz.ReasonInternal, "panic while verifying: %T", p)
		}
	}()
	limits := v.limits
	if s != nil && s.MaxBytes > 0 {
		limits.TokenBytes = s.MaxBytes
	}
	c, iss, fail := parse(raw, limits)
	if tr.Halt("form", fail, func() string { return "a signed JWT" }) {
		return nil, fail
	}
	ring, name, fail := v.ring(iss, s)
	if tr.Halt("issuer", fail, func() string { return authz.QuoteShort(name) + " is configured" }) {
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
	t = &authz.Token{Raw: strings.Clone(raw), KeyID: key.Kid, Type: c.Header.Typ, Generation: generation}
	var names []authz.KeyName
	if fail = readPayload(t, c.Payload, v.limits, s); fail == nil && s == nil {
		fail = CheckUse(t.Type, t.Claims, ring.cfg.AcceptIDTokens)
	}
	if fail == nil && s == nil {
		names, fail = authz.ClaimNames(t.Claims, v.claims)
	}
	if fail != nil {
		tr.Halt("claims", fail, nil)
		return nil, fail
	}
	t.Issuer = name // equal to iss, if present
	if s == nil && !iss.Present {
		t.Claims["iss"] = name // rules and headers may read it
	}
	if fail = ring.cfg.admitsName(t, key.Issuer, s != nil); fail != nil && tr.Judge("issuer's name", fail, nil) {
		return nil, fail
	}
	if namesNoIssuer(s) {
		t.Accepted = true
	} else {
		fail = v.checkTimes(t, ring.leeway(), s != nil && s.AnyLifetime)
		if tr.Judge("times", fail, func() string { return v.describeTimes(t) }) {
			return nil, fail
		}
		t.Accepted = ring.cfg.Accepts(t.Audience)
	}
	if s == nil {
		t.SetKeys(append(key.Aliases(t.Issuer), authz.KeysOf(t.Issuer, names)...)...)
	} else {
		t.SetSecurityEventKeys(key.Aliases(t.Issuer))
	}
	return t, nil
}

// parse parses a token and finds its issuer, which needs no key.
func parse(raw string, limits LimitsConfig) (c *jose.Compact, iss jose.IssuerClaim, fail *authz.Failure) {
	if c, fail = jose.ParseCompact(raw, limits.TokenBytes); fail != nil {
		return nil, iss, fail
	}
	iss, err := jose.SkimIssuer(c.Payload, limits.TokenValues)
	if err != nil {
		return nil, iss, authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
	}
	return c, iss, nil
}

// readPayload sets the token's fields from its payload.
func readPayload(t *authz.Token, payload string, limits LimitsConfig, s *authz.SecurityEventRules) *authz.Failure {
	claims, err := jose.ParseObjectOf(payload, limits.TokenValues)
	if err != nil {
		return authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
	}
	if s != nil {
		// Some senders write null for a sid or exp that they leave out. What a message
		// must not contain at all, such as nonce, stays.
		for _, name := range []string{"sub", "jti", "sid", "aud", "exp", "nbf", "iat"} {
			if claims[name] == nil {
				delete(claims, name)
			}
		}
	}
	if namesNoIssuer(s) {
		t.Claims = claims
		return nil
	}
	return ReadClaims(t, claims, s == nil || !s.ExpOptional)
}

// namesNoIssuer reports whether the messages of s have no iss, and no claims of
// RFC 7519 either.
func namesNoIssuer(s *authz.SecurityEventRules) bool { return s != nil && s.Issuer != "" }

// checkSignature returns the issuer's key that made the signature and the
// generation of its key set.
func (v *Verifier) checkSignature(ctx context.Context, ring *KeyRing, c *jose.Compact, tr *authz.Trace) (*jose.PublicKey, uint64, *authz.Failure) {
	if tr != nil {
		return v.traceSignature(ctx, ring, c, tr), 0, nil // generation 0 is never current
	}
	key, generation, fail := ring.key(ctx, c.Header)
	if fail != nil {
		return nil, 0, fail
	}
	if !key.Verify(c) {
		if c.Header.Kid == "" {
			ring.refresh() // a token without a kid cannot name a new key
		}
		return nil, 0, &authz.Failure{Reason: authz.ReasonBadSignature, Settled: c.Header.Kid != "" || ring.settled(), Detail: "the signature does not verify"}
	}
	return key, generation, nil
}

// traceSignature records the step "signature" and continues after a failure. It
// returns the token's key, or one with the kid alone if it is not known.
func (v *Verifier) traceSignature(ctx context.Context, ring *KeyRing, c *jose.Compact, tr *authz.Trace) (key *jose.PublicKey) {
	_, local := ring.cfg.keyFile()
	switch {
	case tr.Refused():
		tr.Skip("signature", authz.ReasonUnsupportedToken, "not verified, because of the header")
	case tr.Offline && !local && ring.state.Load() == nil:
		tr.Skip("signature", authz.ReasonKeysUnavailable, "the issuer's keys would have to be fetched")
	default:
		var fail *authz.Failure
		key, _, fail = v.checkSignature(ctx, ring, c, nil)
		tr.Judge("signature", fail, func() string { return "made with a key of the issuer" })
	}
	if cached := ring.state.Load(); key == nil && cached != nil {
		key, _ = cached.set.Find(c.Header)
	}
	if key == nil {
		return &jose.PublicKey{Kid: c.Header.Kid}
	}
	tr.Aliases = key.OtherKids
	return key
}

func describeHeader(h jose.Header) string {
	return fmt.Sprintf("alg %s, typ %s, %s", h.Alg, authz.QuoteShort(h.Typ), h.KeyName())
}

func (v *Verifier) describeTimes(t *authz.Token) string {
	detail := fmt.Sprintf("expires %s (in %s)", authz.FormatTime(t.Expires), time.Unix(t.Expires, 0).Sub(v.clock.Now()).Round(time.Second))
	if t.IssuedAt != 0 {
		detail = "issued " + authz.FormatTime(t.IssuedAt) + ", " + detail
	}
	return detail
}

// ring returns the key ring of the issuer that the token names, and the name.
// Nothing else of the claims is used before the signature is verified, except the
// subject of a token without iss.
func (v *Verifier) ring(iss jose.IssuerClaim, s *authz.SecurityEventRules) (*KeyRing, string, *authz.Failure) {
	unknown := func(detail string) (*KeyRing, string, *authz.Failure) {
		return nil, "", &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: detail}
	}
	name := iss.Name
	switch {
	case namesNoIssuer(s) && iss.Present:
		return unknown("the message must not name an issuer (iss)")
	case namesNoIssuer(s):
		name = s.Issuer
	case !iss.Present && s != nil:
		name = s.DefaultIssuer
	case !iss.Present:
		name = authz.FindUnnamed(v.unnamed, iss.Subject)
	}
	if name == "" {
		return unknown("the token names no issuer (iss)")
	}
	if r, ok := v.issuers[name]; ok {
		return r.KeyRing, r.name, nil
	}
	for _, r := range v.any {
		if authz.Tenant(r.cfg.Issuer, name) != "" {
			return r, strings.Clone(name), nil
		}
	}
	return unknown(authz.Mismatch("iss", []string{name}, "configured", v.names))
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

// Current implements authz.Verifier. Every request with a cached token calls it.
func (v *Verifier) Current(t *authz.Token, now int64) bool {
	r := v.ringOf(t)
	if r == nil {
		return false
	}
	leeway := r.leeway()
	return r.generation.Load() == t.Generation && now < t.Expires+leeway && now+FutureLeeway(leeway) >= t.NotValidBefore
}

// Expired implements authz.Verifier.
func (v *Verifier) Expired(t *authz.Token, now int64) bool {
	r := v.ringOf(t)
	return r != nil && now >= t.Expires+r.leeway()
}

// ringOf returns the keys of the issuer whose token it verified; nil: it did not.
func (v *Verifier) ringOf(t *authz.Token) *KeyRing {
	slot := t.Generation >> slotShift
	if t.Generation == 0 || slot >= uint64(len(v.rings)) {
		return nil
	}
	return v.rings[slot]
}
