package sidecar

import (
	"log/slog"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/statuslist"
)

// Rules is everything that judges a request except revocation: the issuers'
// keys, the introspection endpoints and the routes.
type Rules struct {
	Verifier *issuer.Verifier
	Policy   *policy.Policy

	introspectors *introspect.Introspectors
	options       policy.Options // for policies compiled later
}

// NewRules returns the rules of s. It needs no network. replays stores used
// DPoP proofs; nil: they are stored in memory.
func NewRules(s Settings, replays authz.ReplayStore, log *slog.Logger, registry prometheus.Registerer) (_ *Rules, err error) {
	clock := authz.SystemClock{}
	r := &Rules{}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.Verifier, err = issuer.NewVerifier(s.Issuers, issuer.VerifierOptions{MaxTokenTTL: s.Revocation.MaxTokenTTL, RevocableClaims: s.Revocation.Claims, Limits: s.Limits, Clock: clock, Logger: log, Registry: registry}); err != nil {
		return nil, err
	}
	if r.introspectors, err = introspect.New(s.Introspection, introspect.Options{MaxTokenTTL: s.Revocation.MaxTokenTTL, MaxStaleness: s.Revocation.MaxStaleness, MaxTokenBytes: s.Limits.TokenBytes, RevocableClaims: s.Revocation.Claims, Clock: clock, Registry: registry}); err != nil {
		return nil, err
	}
	if r.options, err = s.policyOptions(r.introspectors.ByName(), replays); err != nil {
		return nil, err
	}
	r.Policy, err = policy.Compile(s.Routes, r.options)
	return r, err
}

// StatusLists returns the status lists of s, nil if none are configured. Lists
// signed with a key that is revoked according to revocations are rejected.
func (r *Rules) StatusLists(s Settings, revocations authz.Tier, registry prometheus.Registerer) (*statuslist.Lists, error) {
	if len(s.StatusLists.Hosts) == 0 {
		return nil, nil
	}
	return statuslist.New(s.StatusLists, statuslist.Options{
		Verifier: issuer.RevocationAwareVerifier{Verifier: r.Verifier, Revocations: revocations}, MaxStaleness: s.Revocation.MaxStaleness, Clock: authz.SystemClock{}, Registry: registry,
	})
}

// Close ends the background work of the parts.
func (r *Rules) Close() {
	if r.Verifier != nil {
		r.Verifier.Close()
	}
	if r.introspectors != nil {
		r.introspectors.Close()
	}
}

// OfflinePolicy compiles the routes of s for tests: introspection endpoints are
// not contacted, and no file is read.
func (s *Settings) OfflinePolicy() (*policy.Policy, error) {
	introspectors := introspect.ValidateAll(s.Introspection, s.Revocation.MaxStaleness, func(string, string, ...any) {}) // Load has reported the errors
	options, err := s.policyOptions(introspectors, nil)
	if err != nil {
		return nil, err
	}
	return policy.Compile(s.Routes, options)
}

// templates returns the names with {tenantid} that routes may use; see
// policy.Options.
func (s *Settings) templates() map[string][]string {
	all := map[string][]string{}
	for _, c := range s.Issuers {
		if names := c.Names(); !slices.Contains(names, c.Issuer) {
			all[c.Issuer] = names
		}
	}
	return all
}

// policyOptions returns what routes may refer to.
func (s *Settings) policyOptions(introspectors map[string]authz.Introspector, replays authz.ReplayStore) (policy.Options, error) {
	if replays == nil {
		replays = policy.NewMemoryReplay(s.Binding.DPoP.ReplayEntries, authz.SystemClock{})
	}
	binding, err := policy.NewBinding(s.Binding, replays)
	return policy.Options{
		Issuers: s.TokenIssuers(), Templates: s.templates(), AllowRevocationUnknown: s.Revocation.OnRevocationUnknown == "allow",
		Introspectors: introspectors, Binding: binding, Audiences: s.audiencesOf,
	}, err
}

// audiencesOf returns the audiences that are configured for an issuer.
func (s *Settings) audiencesOf(name string) []string {
	for _, c := range s.Issuers {
		if c.Covers(name) {
			return c.Audiences
		}
	}
	for _, c := range s.Introspection {
		if c.Issuer == name {
			return c.Audiences
		}
	}
	return nil
}
