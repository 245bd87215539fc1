package authz

import (
	"slices"
	"strings"
)

// Issuers are all issuers whose tokens can be valid, and so can be revoked.
type Issuers struct {
	Verified     []string             // issuers whose keys are configured, as tokens name them in "iss"
	Templates    []string             // names with TenantPlaceholder, of which every tenant's tokens are verified
	Unnamed      []UnnamedIssuer      // those of Verified whose tokens may have no "iss"
	Introspected []IntrospectedIssuer // issuers that are asked about tokens (RFC 7662)
	Claims       []string             // claims of any of them by which tokens can be revoked
}

// IntrospectedIssuer is an issuer that is asked about tokens (RFC 7662).
type IntrospectedIssuer struct {
	Issuer string
	All    bool // asked about every token; false: not about JWTs of verified issuers
}

// UnnamedIssuer is an issuer whose tokens may have no "iss".
type UnnamedIssuer struct {
	Issuer      string
	TrustDomain string // its tokens have a "sub" in this SPIFFE trust domain; empty: any "sub"
}

// FindUnnamed returns the issuer of a token without "iss" by its "sub": the one of
// its trust domain, otherwise the one without a trust domain; "" if there is none.
func FindUnnamed(unnamed []UnnamedIssuer, sub string) string {
	other := ""
	for _, u := range unnamed {
		switch {
		case u.TrustDomain == "":
			other = u.Issuer
		case InTrustDomain(sub, u.TrustDomain):
			return u.Issuer
		}
	}
	return other
}

// InTrustDomain reports whether sub is the SPIFFE ID of a workload in the trust
// domain (SPIFFE-ID, section 2).
func InTrustDomain(sub, domain string) bool {
	path, ok := strings.CutPrefix(sub, "spiffe://"+domain+"/")
	return ok && path != ""
}

// TenantPlaceholder stands for the tenant in the name of an issuer that has one
// name for each tenant, such as Microsoft Entra.
const TenantPlaceholder = "{tenantid}"

// Tenant returns the tenant with which iss is the template; "" if it is not.
func Tenant(template, iss string) string {
	before, after, ok := strings.Cut(template, TenantPlaceholder)
	rest, ok1 := strings.CutPrefix(iss, before)
	tenant, ok2 := strings.CutSuffix(rest, after)
	if !ok || !ok1 || !ok2 || !IsTenant(tenant) {
		return ""
	}
	return tenant
}

// IsTenant reports whether s can be the id of a tenant: letters, digits, "-", "_"
// and ".", at most 64. It cannot contain a slash, a brace or a space.
func IsTenant(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, alphanumeric+"-_.") == "" && s[0] != '.'
}

// MatchIssuer reports whether iss is the configured name or, if that is a
// template, the name of one of its tenants.
func MatchIssuer(name, iss string) bool { return name == iss || Tenant(name, iss) != "" }

// Verifies reports whether the issuer's keys are configured.
func (i Issuers) Verifies(iss string) bool {
	return slices.Contains(i.Verified, iss) || slices.ContainsFunc(i.Templates, func(t string) bool { return Tenant(t, iss) != "" })
}

// Known reports whether tokens of the issuer can be valid.
func (i Issuers) Known(iss string) bool { return slices.Contains(i.All(), iss) || i.Verifies(iss) }

// NameOf returns the issuer of a JWT with these claims, whether configured or not;
// "" if it names none and none is configured for such tokens.
func (i Issuers) NameOf(c UnverifiedClaims) string {
	if c.Issuer != "" {
		return c.Issuer
	}
	sub, _ := c.Subject.(string)
	return FindUnnamed(i.Unnamed, sub)
}

// All returns the names of all issuers without duplicates, verified ones first.
// It cannot name the tenants of Templates.
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
