package issuer

import (
	"cmp"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// anyTenant in Config.Tenants stands for every tenant.
const anyTenant = "any"

// Names returns the exact names under which tokens may name the issuer: one for
// each tenant, and none if any tenant may.
func (c Config) Names() []string {
	if !strings.Contains(c.Issuer, authz.TenantPlaceholder) {
		return []string{c.Issuer}
	}
	var names []string
	for _, t := range c.Tenants {
		if t != anyTenant {
			names = append(names, strings.Replace(c.Issuer, authz.TenantPlaceholder, t, 1))
		}
	}
	return names
}

// Template returns the issuer's name with the placeholder if any tenant's tokens
// are accepted, otherwise "".
func (c Config) Template() string {
	if strings.Contains(c.Issuer, authz.TenantPlaceholder) && slices.Contains(c.Tenants, anyTenant) {
		return c.Issuer
	}
	return ""
}

// Covers reports whether iss is a name of the issuer.
func (c Config) Covers(iss string) bool {
	return slices.Contains(c.Names(), iss) || c.Template() != "" && authz.Tenant(c.Issuer, iss) != ""
}

// ExampleName returns a name that Covers.
func (c Config) ExampleName() string {
	if names := c.Names(); len(names) > 0 {
		return names[0]
	}
	return strings.Replace(c.Issuer, authz.TenantPlaceholder, "00000000-0000-0000-0000-000000000000", 1)
}

// trustDomain returns the SPIFFE trust domain of the issuer; "" if it has none.
func (c Config) trustDomain() string {
	domain, _ := strings.CutPrefix(c.Issuer, "spiffe://")
	if domain == c.Issuer {
		domain = ""
	}
	return cmp.Or(c.TrustDomain, domain)
}

// source returns the URL or file that the keys, or with discovery their address,
// come from. Entra serves what all tenants share under the name common.
func (c Config) source() string {
	return cmp.Or(c.JWKS, strings.Replace(c.Issuer, authz.TenantPlaceholder, "common", 1))
}

// Issuers returns the issuers of valid configurations.
func Issuers(configs []Config) authz.Issuers {
	var all authz.Issuers
	for _, c := range configs {
		all.Verified = append(all.Verified, c.Names()...)
		if t := c.Template(); t != "" {
			all.Templates = append(all.Templates, t)
		}
		if c.AllowMissingIss {
			all.Unnamed = append(all.Unnamed, authz.UnnamedIssuer{Issuer: c.Issuer, TrustDomain: c.trustDomain()})
		}
	}
	return all
}

// ValidateAll reports every invalid value of the stanza "issuers", with paths
// relative to the list: "[1].jwks".
func ValidateAll(configs []Config, report authz.Report) {
	seen, unnamed := map[string]int{}, map[string]int{}
	for i, c := range configs {
		at := authz.ItemPath("", i) + "."
		c.Validate(func(path, format string, args ...any) { report(at+path, format, args...) })
		names := c.Names()
		if t := c.Template(); t != "" {
			names = []string{t}
		}
		for _, name := range names {
			if first, twice := seen[name]; twice {
				report(at+"issuer", "duplicate issuer %s (first defined at issuers[%d])", authz.QuoteURL(name), first)
			} else {
				seen[name] = i
			}
		}
		if !c.AllowMissingIss {
			continue
		}
		domain := c.trustDomain()
		if first, twice := unnamed[domain]; twice {
			report(at+"allow_missing_iss", "issuers[%d] already accepts the tokens without iss of trust domain %q; nothing would tell whose they are", first, domain)
		} else {
			unnamed[domain] = i
		}
	}
}

func (c Config) validateNames(report authz.Report) {
	before, after, template := strings.Cut(c.Issuer, authz.TenantPlaceholder)
	switch {
	case strings.ContainsAny(before+after, "{}"):
		report("issuer", "has braces; they stand for one %s only", authz.TenantPlaceholder)
	case template && (!strings.HasSuffix(before, "/") || after != "" && !strings.HasPrefix(after, "/")):
		report("issuer", "%s must be a whole segment of the path", authz.TenantPlaceholder)
	case template && len(c.Tenants) == 0:
		report("tenants", "must name the tenants whose tokens are accepted, because issuer contains %s; [any] accepts every tenant of the provider, whoever has registered it", authz.TenantPlaceholder)
	case !template && len(c.Tenants) > 0:
		report("tenants", "has no effect: issuer does not contain %s", authz.TenantPlaceholder)
	case slices.Contains(c.Tenants, anyTenant) && len(c.Tenants) > 1:
		report("tenants", "any stands alone: it accepts every tenant")
	}
	for i, t := range c.Tenants {
		if !authz.IsTenant(t) {
			report(authz.ItemPath("tenants", i), "%s is no id of a tenant, such as 72f988bf-86f1-41af-91ab-2d7cd011db47", authz.QuoteShort(t))
		}
	}
	domain := c.trustDomain()
	if strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || len(domain) > 255 {
		report("trust_domain", "%s is no trust domain: lower-case letters, digits, dots, - and _, without spiffe:// and path (SPIFFE-ID, section 2.1)", authz.QuoteShort(domain))
	}
	if template && c.AllowMissingIss {
		report("allow_missing_iss", "cannot be combined with %s: nothing would name the tenant", authz.TenantPlaceholder)
	}
}

// admitsName applies the rules that tie a verified token to the issuer's name. A
// template needs a key that is published for the tenant and, unless the token is a
// security event token, the tenant in tid as well; an issuer with a trust domain
// needs a sub in it.
func (c Config) admitsName(t *authz.Token, keyIssuer string, event bool) *authz.Failure {
	if strings.Contains(c.Issuer, authz.TenantPlaceholder) {
		tenant := authz.Tenant(c.Issuer, t.Issuer)
		// Whose tenant the key is for matters, not the version of the endpoint.
		ofTenant := keyIssuer == "" || strings.Contains(keyIssuer, authz.TenantPlaceholder) || slices.Contains(strings.Split(keyIssuer, "/"), tenant)
		switch {
		case !ofTenant:
			return authz.Failuref(authz.ReasonUnknownKey, "the key is published for the tokens of another issuer, %s", authz.QuoteShort(keyIssuer))
		case !event && (tenant == "" || t.Claims["tid"] != tenant):
			return badClaim("tid is not the tenant in iss")
		}
	}
	if domain := c.trustDomain(); domain != "" && !event && !authz.InTrustDomain(t.Subject, domain) {
		return badClaim("sub is not in the trust domain " + domain)
	}
	return nil
}
