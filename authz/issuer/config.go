package issuer

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
)

// Config is one entry of the "issuers" stanza: an accepted issuer and the source
// of its keys.
type Config struct {
	Issuer          string   `yaml:"issuer" doc:"Exact value of the iss claim; for OIDC discovery also the base URL. {tenantid} in it stands for the tenants that the key tenants names."`
	Tenants         []string `yaml:"tenants" doc:"Required if issuer contains {tenantid}, as Microsoft Entra's common endpoint does: ids of the tenants whose tokens are accepted, equal to tid. any alone: every tenant, and so anybody who registers one."`
	AllowMissingIss bool     `yaml:"allow_missing_iss" doc:"Accept tokens without iss as this issuer's, such as SPIFFE JWT-SVIDs. One issuer at most for each trust domain, and one without. Default false."`
	TrustDomain     string   `yaml:"trust_domain" doc:"SPIFFE trust domain of the issuer: sub of its tokens must be spiffe://DOMAIN/... Empty: that of an issuer called spiffe://DOMAIN, and none for others."`
	Audiences       []string `yaml:"audiences" doc:"Values of which aud must hold at least one; \"*\" accepts any audience, and a token without."`
	JWKS            string   `yaml:"jwks" doc:"Key set: an http(s) URL, or a file path; empty means OIDC discovery at issuer/.well-known/openid-configuration."`
	fetch.Config    `yaml:",inline"`
	BearerTokenFile string        `yaml:"bearer_token_file" doc:"File with the bearer token for requests for keys and for discovery, one line, read for each request, so that it can be rotated; such as a Kubernetes service account's. It is sent to the host of jwks or, with discovery, of issuer only. Empty: none."`
	KeyUses         []string      `yaml:"key_uses" doc:"Values of use that a key of the set may have, beside none; such as jwt-svid in a SPIFFE bundle. Empty means sig."`
	Algorithms      []string      `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA" doc:"Signature algorithms accepted; empty means all of the listed ones."`
	Types           []string      `yaml:"types" doc:"Values of the typ header accepted, lower case and without application/; an empty string stands for an absent typ; empty list means absent, jwt and at+jwt."`
	AcceptIDTokens  bool          `yaml:"accept_id_tokens" doc:"Whether tokens pass that say that they are ID tokens (claims nonce, at_hash, c_hash or s_hash; typ, token_use or the like). Dex, authentik and Azure AD B2C write nonce into access tokens too. Refresh and logout tokens never pass."`
	Leeway          time.Duration `yaml:"leeway" doc:"Clock difference tolerated for exp, nbf and iat, at most 2m; 0: none for exp, and 5s for nbf and iat, because issuers' clocks run ahead."`
	RefreshInterval time.Duration `yaml:"refresh_interval" doc:"How often the key set is fetched again, at least 10s; 0 means 5m. Files are also looked at every 2s."`
	RefreshCooldown time.Duration `yaml:"refresh_cooldown" doc:"Least time between two fetches caused by tokens with an unknown kid, at least 100ms; 0 means 5s."`
	FetchTimeout    time.Duration `yaml:"fetch_timeout" doc:"Limit for one request for keys, at most 30s; 0 means 2s."`
	MaxKeyAge       time.Duration `yaml:"max_key_age" doc:"How long the last good keys are used while they cannot be fetched, at least 1m; 0 means 24h."`
}

// DefaultConfig returns the defaults of empty fields.
func DefaultConfig() Config {
	return Config{
		Algorithms:      slices.Clone(jose.SupportedAlgorithms),
		Types:           []string{"", "jwt", "at+jwt"},
		RefreshInterval: 5 * time.Minute,
		RefreshCooldown: 5 * time.Second,
		FetchTimeout:    2 * time.Second,
		MaxKeyAge:       24 * time.Hour,
	}
}

// withDefaults returns c with defaults in the place of empty fields. leeway is
// the default of Leeway.
func (c Config) withDefaults(leeway time.Duration) Config {
	d := DefaultConfig()
	c.Leeway = max(cmp.Or(c.Leeway, leeway), 0)
	c.RefreshInterval = cmp.Or(c.RefreshInterval, d.RefreshInterval)
	c.RefreshCooldown = cmp.Or(c.RefreshCooldown, d.RefreshCooldown)
	c.FetchTimeout = cmp.Or(c.FetchTimeout, d.FetchTimeout)
	c.MaxKeyAge = cmp.Or(c.MaxKeyAge, d.MaxKeyAge)
	if len(c.Algorithms) == 0 {
		c.Algorithms = d.Algorithms
	}
	if len(c.Types) == 0 {
		c.Types = d.Types
	}
	return c
}

// Validate reports every invalid value of the stanza.
func (c Config) Validate(report authz.Report) {
	switch {
	case c.Issuer == "":
		report("issuer", "must not be empty: it is the exact iss of the tokens, such as https://issuer.example")
	case len(c.Issuer) > authz.MaxIdentifier || !authz.ValidText(c.Issuer):
		report("issuer", "must be text of at most %d bytes", authz.MaxIdentifier)
	case strings.Contains(c.Issuer, "/.well-known/"):
		report("issuer", "is the URL of a discovery document; write the issuer, which is the iss of its tokens: the URL before /.well-known/")
	}
	if len(c.Audiences) == 0 {
		report("audiences", `must name at least one audience; ["*"] accepts any`)
	}
	for i, aud := range c.Audiences {
		if aud == "" {
			report(authz.ItemPath("audiences", i), "must not be empty")
		}
	}
	c.validateNames(report)
	c.validateSource(report)
	c.Config.Validate(report)
	for i, use := range c.KeyUses {
		if use == "" || use == "enc" || len(use) > 64 {
			report(authz.ItemPath("key_uses", i), "%s is no use for signatures; sig is the standard's (RFC 7517, section 4.2)", authz.QuoteShort(use))
		}
	}
	for i, alg := range c.Algorithms {
		if !slices.Contains(jose.SupportedAlgorithms, alg) {
			report(authz.ItemPath("algorithms", i), "%s is not supported; one of %s is needed (symmetric algorithms and none are never accepted)",
				authz.QuoteShort(alg), strings.Join(jose.SupportedAlgorithms, ", "))
		}
	}
	for i, typ := range c.Types {
		if typ != jose.MediaType(typ) {
			report(authz.ItemPath("types", i), "%s must be written in lower case and without application/", authz.QuoteShort(typ))
		}
	}
	within := func(name string, v, low, high time.Duration) {
		if v != 0 && (v < low || v > high) {
			report(name, "%s is out of range; %s to %s are allowed, 0 means the default", v, low, high)
		}
	}
	if c.Leeway > authz.MaxLeeway {
		report("leeway", "%s is too long; at most %s is allowed", c.Leeway, authz.MaxLeeway)
	}
	within("refresh_interval", c.RefreshInterval, 10*time.Second, 24*time.Hour)
	within("refresh_cooldown", c.RefreshCooldown, 100*time.Millisecond, time.Hour)
	within("fetch_timeout", c.FetchTimeout, 100*time.Millisecond, 30*time.Second)
	within("max_key_age", c.MaxKeyAge, time.Minute, 365*24*time.Hour)
}

func (c Config) validateSource(report authz.Report) {
	if path, ok := c.keyFile(); ok {
		if path != c.JWKS && !strings.HasPrefix(path, "/") {
			report("jwks", "a file URL must be file:///absolute/path")
		}
		for _, remote := range [][2]string{{"ca_file", c.CAFile}, {"cert_file", c.CertFile}, {"proxy", c.Proxy}, {"bearer_token_file", c.BearerTokenFile}} {
			if remote[1] != "" {
				report(remote[0], "has no effect: jwks is a file")
			}
		}
		return
	}
	discovery, key := c.JWKS == "", "jwks"
	if discovery {
		key = "issuer"
	}
	u, err := url.Parse(c.source())
	isURL := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
	switch {
	case discovery && c.Issuer == "": // reported by Validate
	case discovery && !isURL:
		report("jwks", "is empty, which means OIDC discovery, but issuer is not an http(s) URL; set jwks to the URL or file of the key set")
	case err != nil:
		report(key, "is not a URL")
	case !isURL:
		report(key, "is not an http(s) URL with a host, nor a file path")
	case u.User != nil:
		report(key, "URL must not contain a user name or password")
	case u.Fragment != "" || (discovery && u.RawQuery != ""):
		report(key, "URL must not have a fragment, and an issuer must not have a query")
	case c.BearerTokenFile != "" && c.plaintext():
		report("bearer_token_file", "would be sent without TLS; %s must be an https URL", key)
	}
}

// SetRules returns the rules for the members of the issuer's key set.
func (c Config) SetRules(l LimitsConfig) jose.SetRules {
	rules := jose.SetRules{MaxKeys: l.SetKeys}
	if len(c.KeyUses) > 0 {
		rules.Uses = c.KeyUses
	}
	return rules
}

// Accepts reports whether audience contains one of the configured audiences.
func (c Config) Accepts(audience []string) bool {
	return slices.ContainsFunc(c.Audiences, func(want string) bool { return want == "*" || slices.Contains(audience, want) })
}
