package authz

import "slices"

// Issuers are all issuers whose tokens can be valid.
type Issuers struct {
	Verified     []string             // issuers whose keys are configured, as tokens name them in "iss"
	Introspected []IntrospectedIssuer // issuers that are asked about tokens (RFC 7662)
}

// IntrospectedIssuer is an issuer that is asked about tokens (RFC 7662).
type IntrospectedIssuer struct {
	Issuer string
	All    bool // asked about every token; false: not about JWTs of verified issuers
}

// All returns the names of all issuers without duplicates, verified ones first.
func (i Issuers) All() []string {
	all := slices.Clone(i.Verified)
	for _, in := range i.Introspected {
		if !slices.Contains(all, in.Issuer) {
			all = append(all, in.Issuer)
		}
	}
	return all
}

// Introspecting returns the issuers that are asked about a JWT, which must be
// revoked under the name of each. foreign says that no verified issuer issued it.
func (i Issuers) Introspecting(foreign bool) []string {
	var out []string
	for _, in := range i.Introspected {
		if (in.All || foreign) && !slices.Contains(out, in.Issuer) {
			out = append(out, in.Issuer)
		}
	}
	return out
}
