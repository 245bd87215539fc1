package policy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// BindingConfig is the stanza "binding": how the senders of sender-constrained
// tokens prove possession. A token with "cnf" is never accepted without its proof.
type BindingConfig struct {
	TrustForwardedCertificate bool       `yaml:"trust_forwarded_certificate" doc:"true: read the client certificate from x-forwarded-client-cert if the header is present, which is safe only if Envoy sets or sanitises it. false: read it only from the connection (include_peer_certificate)."`
	DPoP                      DPoPConfig `yaml:"dpop" doc:"Proofs of possession (RFC 9449)."`
}

// DPoPConfig says which DPoP proofs are accepted.
type DPoPConfig struct {
	Algorithms    []string      `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA" doc:"Signature algorithms accepted in proofs. Empty: ES256, EdDSA, PS256, RS256."`
	MaxAge        time.Duration `yaml:"max_age" doc:"Maximum age of a proof, measured from its iat; 1s to 10m."`
	Leeway        time.Duration `yaml:"leeway" doc:"Clock skew tolerated for the iat of a proof, at most 1m; 0: none."`
	ExternalURLs  []string      `yaml:"external_urls" doc:"Scheme and host that clients use for the resources, such as https://api.example; compared with htu. Empty: scheme and host of the request."`
	ReplayEntries int           `yaml:"replay_entries" doc:"Maximum number of used proofs that this sidecar remembers, besides Redis, 1000 to 10000000; when it is reached, DPoP-bound tokens are denied with 503. A proof is remembered for max_age + leeway + 61s, so N requests with proofs per second need N times that many entries, of up to 100 bytes each."`
	// OnReplayUnknown says what happens while Redis is configured but cannot say
	// whether a proof was used; empty: deny.
	OnReplayUnknown string `yaml:"on_replay_unknown" enum:"deny,allow" doc:"What happens to DPoP-bound tokens while Redis is configured but does not answer. deny: 503. allow: the memory of each sidecar decides, so a proof can be used once at each sidecar."`
}

// DefaultBindingConfig returns the configuration of an empty stanza.
func DefaultBindingConfig() BindingConfig {
	return BindingConfig{DPoP: DPoPConfig{
		Algorithms: []string{"ES256", "EdDSA", "PS256", "RS256"}, MaxAge: time.Minute, Leeway: 5 * time.Second, ReplayEntries: 200_000, OnReplayUnknown: "deny",
	}}
}

// Validate reports every invalid value of the stanza.
func (c BindingConfig) Validate(report authz.Report) {
	d := c.DPoP
	for i, alg := range d.Algorithms {
		if !slices.Contains(jose.SupportedAlgorithms, alg) {
			report(authz.ItemPath("dpop.algorithms", i), "unsupported algorithm %q; use one of %s", alg, strings.Join(jose.SupportedAlgorithms, ", "))
		}
	}
	if d.MaxAge < time.Second || d.MaxAge > 10*time.Minute {
		report("dpop.max_age", "must be between 1s and 10m, not %s", d.MaxAge)
	}
	if d.Leeway < 0 || d.Leeway > time.Minute {
		report("dpop.leeway", "must be between 0s and 1m, not %s", d.Leeway)
	}
	if d.ReplayEntries < 1000 || d.ReplayEntries > 10_000_000 {
		report("dpop.replay_entries", "must be between 1000 and 10000000, not %d", d.ReplayEntries)
	}
	if !slices.Contains([]string{"", "deny", "allow"}, d.OnReplayUnknown) {
		report("dpop.on_replay_unknown", "must be deny or allow, not %q", d.OnReplayUnknown)
	}
	for i, u := range d.ExternalURLs {
		origin, path, ok := readURL(u)
		if !ok || path != "/" || origin == "" {
			report(authz.ItemPath("dpop.external_urls", i), "%q: scheme and host required, and nothing else, such as https://api.example", u)
		}
	}
}

// Binding checks the proofs of sender-constrained tokens.
type Binding struct {
	trustForwarded bool
	dpop           DPoPConfig
	origins        []string
	replay         authz.ReplayStore
	challenge      *authz.Challenge // requires DPoP
	badProof       *authz.Challenge
	// assume lists the members of cnf that count as proven. Only policy tests,
	// which have no keys, set it.
	assume []string
}

// NewBinding returns a Binding that records used proofs in replay. Sidecars that
// serve the same resources must share the store: otherwise a proof could be used
// once at each of them.
func NewBinding(c BindingConfig, replay authz.ReplayStore) (*Binding, error) {
	if err := authz.ValidationErrors("binding.", c.Validate); err != nil {
		return nil, err
	}
	if replay == nil {
		return nil, errors.New("binding: no replay store")
	}
	if len(c.DPoP.Algorithms) == 0 {
		c.DPoP.Algorithms = DefaultBindingConfig().DPoP.Algorithms
	}
	b := &Binding{
		trustForwarded: c.TrustForwardedCertificate, dpop: c.DPoP, replay: replay,
		challenge: &authz.Challenge{Scheme: "dpop", Algorithms: c.DPoP.Algorithms},
		badProof:  &authz.Challenge{Scheme: "dpop", Algorithms: c.DPoP.Algorithms, Error: "invalid_dpop_proof"},
	}
	for _, u := range c.DPoP.ExternalURLs {
		origin, _, _ := readURL(u)
		b.origins = append(b.origins, origin)
	}
	return b, nil
}

// Values of "require" of a route.
const (
	requireAny  = "any"
	requireDPoP = "dpop"
	requireMTLS = "mtls"
)

// confirmation is the claim "cnf" of a token (RFC 7800, section 3.1). Every
// member that is set must be proven.
type confirmation struct {
	jkt     string // RFC 9449, section 6.1
	x5t     string // "x5t#S256", RFC 8705, section 3.1
	present bool
}

// readConfirmation rejects a cnf without a known member. RFC 7800 says to ignore
// unknown members, which would turn a bound token into a bearer token.
func readConfirmation(claims map[string]any) (confirmation, *authz.Failure) {
	v, present := claims["cnf"]
	if !present {
		return confirmation{}, nil
	}
	bad := &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: "cnf contains neither jkt nor x5t#S256"}
	m, ok := v.(map[string]any)
	if !ok {
		return confirmation{}, bad
	}
	c := confirmation{present: true}
	for name, into := range map[string]*string{"jkt": &c.jkt, "x5t#S256": &c.x5t} {
		v, present := m[name]
		if !present {
			continue
		}
		if *into, ok = v.(string); !ok || len(*into) != 43 { // base64url of 32 bytes
			return confirmation{}, &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: "cnf." + name + " is not a SHA-256 thumbprint"}
		}
	}
	if c.jkt == "" && c.x5t == "" {
		return confirmation{}, bad
	}
	return c, nil
}

// checkBinding checks the request's proof of the token's "cnf". A bound token
// without its proof is denied on every route, even if the route requires no
// binding.
func (r *Route) checkBinding(ctx context.Context, req *authz.Request, cred authz.Credential, t *authz.Token, now time.Time) *authz.Failure {
	cnf, fail := readConfirmation(t.Claims)
	if fail != nil {
		return fail
	}
	mismatch := func(detail string) *authz.Failure {
		f := &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: detail}
		if r.binding != nil && (cnf.jkt != "" || r.require == requireDPoP) {
			f.Challenge = r.binding.challenge
		}
		return f
	}
	switch {
	case r.require == requireDPoP && cnf.jkt == "":
		return mismatch("the route accepts only DPoP-bound tokens")
	case r.require == requireMTLS && cnf.x5t == "":
		return mismatch("the route accepts only certificate-bound tokens")
	case r.require == requireAny && !cnf.present:
		return mismatch("the route accepts only sender-constrained tokens")
	case cred.Scheme == "dpop" && cnf.jkt == "":
		return mismatch("the scheme is DPoP, but the token is not bound to a key")
	case !cnf.present:
		return nil
	case r.binding == nil:
		return mismatch("sender-constrained tokens are not configured")
	case cnf.jkt != "" && cred.Scheme != "dpop":
		return mismatch("a DPoP-bound token was presented as a bearer token")
	}
	if cnf.x5t != "" && !slices.Contains(r.binding.assume, "mtls") {
		if err := r.binding.checkCertificate(req, cnf.x5t); err != nil {
			return mismatch(err.Error())
		}
	}
	if cnf.jkt != "" && !slices.Contains(r.binding.assume, "dpop") {
		return r.binding.checkProof(ctx, req, cred.Raw, cnf.jkt, now)
	}
	return nil
}
