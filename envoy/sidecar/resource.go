package sidecar

import (
	"slices"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
)

// accessTokenIssuers returns the names of the issuers whose access tokens can be
// valid by p: without transmitters that speak for other issuers only, and without
// introspected issuers whom no route asks.
func (s *Settings) accessTokenIssuers(p *policy.Policy, introspectors map[string]authz.Introspector) []string {
	var names []string
	add := func(iss string) {
		if !slices.Contains(names, iss) {
			names = append(names, iss)
		}
	}
	for _, iss := range s.RevocableIssuers().Verified {
		if others, transmits := s.API.Events.SpeaksFor[iss]; !transmits || slices.Contains(others, iss) {
			add(iss)
		}
	}
	for _, in := range s.Introspection {
		asks := func(r *policy.Route) bool {
			return !r.Public && r.Introspector != nil && r.Introspector == introspectors[in.Name]
		}
		if slices.ContainsFunc(p.Routes(), asks) {
			add(in.Issuer)
		}
	}
	return names
}
