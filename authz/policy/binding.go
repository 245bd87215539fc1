package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// BindingConfig is the `binding` stanza: how sender-constrained tokens prove
// their sender. A token with "cnf" is never taken without its proof.
type BindingConfig struct {
	TrustForwardedCertificate bool       `yaml:"trust_forwarded_certificate" doc:"true: take the client certificate from x-forwarded-client-cert where it is present; only where Envoy sets or sanitises that header. false: only from the connection (include_peer_certificate)."`
	DPoP                      DPoPConfig `yaml:"dpop" doc:"Proofs of possession (RFC 9449)."`
}

// DPoPConfig says which DPoP proofs are taken.
type DPoPConfig struct {
	Algorithms    []string      `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA" doc:"Signature algorithms of proofs. Empty: ES256, EdDSA, PS256, RS256."`
	MaxAge        time.Duration `yaml:"max_age" doc:"How old a proof may be, by its iat; 1s to 10m."`
	Leeway        time.Duration `yaml:"leeway" doc:"Clock difference tolerated for a proof's iat, at most 1m; 0: none."`
	ExternalURLs  []string      `yaml:"external_urls" doc:"Scheme and host under which clients reach the resources, such as https://api.example, compared with htu. Empty: scheme and host of the request."`
	ReplayEntries int           `yaml:"replay_entries" doc:"Proofs remembered in memory where no Redis is configured, 1000 to 10000000; when full, bound tokens are refused with 503."`
}

// DefaultBindingConfig returns the defaults.
func DefaultBindingConfig() BindingConfig {
	return BindingConfig{DPoP: DPoPConfig{
		Algorithms: []string{"ES256", "EdDSA", "PS256", "RS256"}, MaxAge: time.Minute, Leeway: 5 * time.Second, ReplayEntries: 200_000,
	}}
}

// Validate reports every invalid value of the stanza.
func (c BindingConfig) Validate(report authz.Report) {
	d := c.DPoP
	for i, alg := range d.Algorithms {
		if !slices.Contains(jose.SupportedAlgorithms, alg) {
			report(authz.ItemPath("dpop.algorithms", i), "%q is not supported; one of %s", alg, strings.Join(jose.SupportedAlgorithms, ", "))
		}
	}
	if d.MaxAge < time.Second || d.MaxAge > 10*time.Minute {
		report("dpop.max_age", "%s is out of range: 1s to 10m", d.MaxAge)
	}
	if d.Leeway < 0 || d.Leeway > time.Minute {
		report("dpop.leeway", "%s is out of range: 0s to 1m", d.Leeway)
	}
	if d.ReplayEntries < 1000 || d.ReplayEntries > 10_000_000 {
		report("dpop.replay_entries", "%d is out of range: 1000 to 10000000", d.ReplayEntries)
	}
	for i, u := range d.ExternalURLs {
		origin, path, ok := readURL(u)
		if !ok || path != "/" || origin == "" {
			report(authz.ItemPath("dpop.external_urls", i), "%q: scheme and host only, such as https://api.example", u)
		}
	}
}

// Binding checks that a sender-constrained token comes with its proof.
type Binding struct {
	trustForwarded bool
	dpop           DPoPConfig
	origins        []string
	replay         authz.ReplayStore
	challenge      *authz.Challenge // asks for DPoP
	badProof       *authz.Challenge
	// assume lists the members of cnf that count as proven: for policy tests,
	// which have no keys. Nothing else sets it.
	assume []string
}

// NewBinding returns a Binding that records proofs in replay: a shared store
// where several sidecars serve the same resources, since a proof could
// otherwise be used once at each.
func NewBinding(c BindingConfig, replay authz.ReplayStore) (*Binding, error) {
	var messages []string
	c.Validate(func(path, format string, args ...any) {
		messages = append(messages, path+": "+fmt.Sprintf(format, args...))
	})
	if len(messages) > 0 {
		return nil, fmt.Errorf("binding: %s", strings.Join(messages, "; "))
	}
	if replay == nil {
		return nil, fmt.Errorf("binding: no replay store")
	}
	if len(c.DPoP.Algorithms) == 0 {
		c.DPoP.Algorithms = DefaultBindingConfig().DPoP.Algorithms
	}
	b := &Binding{trustForwarded: c.TrustForwardedCertificate, dpop: c.DPoP, replay: replay}
	for _, u := range c.DPoP.ExternalURLs {
		origin, _, _ := readURL(u)
		b.origins = append(b.origins, origin)
	}
	b.challenge = &authz.Challenge{Scheme: "dpop", Algorithms: b.dpop.Algorithms}
	b.badProof = &authz.Challenge{Scheme: "dpop", Algorithms: b.dpop.Algorithms, Error: "invalid_dpop_proof"}
	return b, nil
}

// bindingNeed is a route's `require`.
type bindingNeed uint8

const (
	needNone bindingNeed = iota
	needAny
	needDPoP
	needMTLS
)

var bindingNeeds = map[string]bindingNeed{"": needNone, "any": needAny, "dpop": needDPoP, "mtls": needMTLS}

// confirmation is the token's "cnf" (RFC 7800, section 3.1). Every member that
// is set must be proven.
type confirmation struct {
	jkt  string // RFC 9449, section 6.1
	x5t  string // "x5t#S256", RFC 8705, section 3.1
	held bool   // cnf is present
}

// readConfirmation refuses a cnf whose methods are all unknown. RFC 7800 would
// have them ignored, which makes a bound token a bearer token.
func readConfirmation(claims map[string]any) (confirmation, *authz.Failure) {
	v, present := claims["cnf"]
	if !present {
		return confirmation{}, nil
	}
	bad := &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: "cnf has no member that can be checked (jkt, x5t#S256)"}
	m, ok := v.(map[string]any)
	if !ok {
		return confirmation{}, bad
	}
	c := confirmation{held: true}
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

// checkBinding compares the token's "cnf" with what the request proves. A
// bound token without its proof is refused on every route, whatever the route
// requires.
func (r *Route) checkBinding(ctx context.Context, req *authz.Request, cred authz.Credential, t *authz.Token, now time.Time) *authz.Failure {
	cnf, fail := readConfirmation(t.Claims)
	if fail != nil {
		return fail
	}
	mismatch := func(detail string) *authz.Failure {
		f := &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: detail}
		if r.binding != nil && (cnf.jkt != "" || r.require == needDPoP) {
			f.Challenge = r.binding.challenge
		}
		return f
	}
	switch {
	case r.require == needDPoP && cnf.jkt == "":
		return mismatch("the route takes only tokens bound by DPoP")
	case r.require == needMTLS && cnf.x5t == "":
		return mismatch("the route takes only tokens bound to a client certificate")
	case r.require == needAny && !cnf.held:
		return mismatch("the route takes only sender-constrained tokens")
	case cred.Scheme == "dpop" && cnf.jkt == "":
		return mismatch("the scheme is DPoP, but the token is not bound to a key")
	case !cnf.held:
		return nil
	case r.binding == nil:
		return mismatch("sender-constrained tokens are not configured")
	case cnf.jkt != "" && cred.Scheme != "dpop":
		return mismatch("a token bound by DPoP was presented as a bearer token")
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
