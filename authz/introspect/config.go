package introspect

import (
	"cmp"
	"context"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
)

// Config is one entry of the `introspection` stanza: an authorization server
// that introspects opaque tokens (RFC 7662) for the routes that name it.
type Config struct {
	Name             string `yaml:"name" doc:"Name by which routes choose it: letters, digits, - and _; unique."`
	Endpoint         string `yaml:"endpoint" doc:"URL of the introspection endpoint; https, or http to a loopback address."`
	fetch.Config     `yaml:",inline"`
	Issuer           string        `yaml:"issuer" doc:"Issuer of the tokens: revocations are scoped by it, and an iss in an answer must be equal to it."`
	Audiences        []string      `yaml:"audiences" doc:"Values of which aud must hold at least one, on routes without audiences of their own; \"*\" accepts any, and an answer without aud."`
	ClientID         string        `yaml:"client_id" doc:"Client that asks. Empty: client_secret_file holds a bearer token instead."`
	ClientSecretFile string        `yaml:"client_secret_file" doc:"File with the client's secret, or with a bearer token; one line, which is read for every question, so that it can be rotated."`
	ClientAuth       string        `yaml:"client_auth" enum:"basic,post,bearer" doc:"How the client proves itself: HTTP Basic, form fields, or a bearer token. Empty: basic with client_id, bearer without."`
	Tokens           string        `yaml:"tokens" enum:"opaque,all" doc:"opaque: JWTs of the configured issuers are verified here and only the rest is asked about. all: every token is asked about, and JWTs of the configured issuers are verified here as well. Empty: opaque."`
	AcceptIDTokens   bool          `yaml:"accept_id_tokens" doc:"Whether tokens pass of which the answer, or the token itself, says that they are ID tokens; see issuers[].accept_id_tokens."`
	Timeout          time.Duration `yaml:"timeout" doc:"Limit for one question, 10ms to 10s, and at most cache_ttl beyond 180ms. A check waits for 180ms at most; a later answer serves the next request with the token. 0: 2s, or cache_ttl if that is less."`
	CacheTTL         time.Duration `yaml:"cache_ttl" doc:"How long an answer is believed, counted from when the question was sent; at most revocation.max_staleness and never beyond exp. Answers in use are renewed before they end. 0: 10s."`
	CacheEntries     int           `yaml:"cache_entries" doc:"Answers remembered of each kind, active and not, up to 10000000; 0: 10000."`
	CacheBytes       int64         `yaml:"cache_bytes" doc:"Memory for the answers of each kind in bytes, from 1048576 to 1099511627776; the least used give way, also while there are fewer than cache_entries. 0: 67108864 (64 MiB)."`
	MaxConcurrent    int           `yaml:"max_concurrent" doc:"Questions under way at once about tokens not known to be good, up to 1000; more are answered 503, and so are those of one client address when it holds more than are left. As many again are kept for tokens known to be good: active before, or JWTs verified here. 0: 64."`
}

const (
	leastTimeout = 10 * time.Millisecond
	checkTime    = 180 * time.Millisecond // all that a check has
)

// DefaultConfig returns the defaults of empty fields.
func DefaultConfig() Config {
	return Config{
		ClientAuth: "basic", Tokens: "opaque", Timeout: 2 * time.Second, CacheTTL: 10 * time.Second, CacheEntries: 10_000, CacheBytes: 64 << 20, MaxConcurrent: 64,
	}
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.ClientID == "" {
		d.ClientAuth = "bearer"
	}
	c.ClientAuth = cmp.Or(c.ClientAuth, d.ClientAuth)
	c.Tokens = cmp.Or(c.Tokens, d.Tokens)
	c.CacheTTL = cmp.Or(c.CacheTTL, d.CacheTTL)
	c.Timeout = cmp.Or(c.Timeout, max(min(d.Timeout, c.CacheTTL), leastTimeout))
	c.CacheEntries = cmp.Or(c.CacheEntries, d.CacheEntries)
	c.CacheBytes = cmp.Or(c.CacheBytes, d.CacheBytes)
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, d.MaxConcurrent)
	return c
}

// Validate reports every invalid value of the entry. maxStaleness bounds cache_ttl.
func (c Config) Validate(maxStaleness time.Duration, report authz.Report) {
	if !authz.IsLabel(c.Name) {
		report("name", "%q: use letters, digits, - and _, at most 64", c.Name)
	}
	authz.CheckSecretURL("endpoint", c.Endpoint, report)
	c.Config.Validate(report)
	if c.Issuer == "" || len(c.Issuer) > authz.MaxIdentifier || !authz.ValidText(c.Issuer) {
		report("issuer", "must be text of 1 to %d bytes", authz.MaxIdentifier)
	} else if strings.Contains(c.Issuer, "/.well-known/") {
		report("issuer", "is the URL of a discovery document; write the issuer, which is the iss of its tokens: the URL before /.well-known/")
	}
	if len(c.Audiences) == 0 {
		report("audiences", `must name at least one audience; ["*"] accepts any`)
	}
	c = c.withDefaults()
	switch {
	case c.ClientAuth != "basic" && c.ClientAuth != "post" && c.ClientAuth != "bearer":
		report("client_auth", "%q: basic, post or bearer", c.ClientAuth)
	case c.ClientAuth == "bearer" && c.ClientID != "":
		report("client_id", "has no effect with client_auth bearer")
	case c.ClientAuth != "bearer" && c.ClientID == "":
		report("client_id", "is required with client_auth %s", c.ClientAuth)
	}
	if c.ClientSecretFile == "" {
		report("client_secret_file", "is required: an open endpoint would let anyone probe for tokens (RFC 7662, section 4)")
	}
	if c.Tokens != "opaque" && c.Tokens != "all" {
		report("tokens", "%q: opaque or all", c.Tokens)
	}
	switch {
	case c.Timeout < leastTimeout || c.Timeout > 10*time.Second:
		report("timeout", "%s is out of range: 10ms to 10s", c.Timeout)
	case c.Timeout > max(c.CacheTTL, checkTime):
		report("timeout", "%s is longer than cache_ttl (%s): an answer that takes longer is too old to be used", c.Timeout, c.CacheTTL)
	}
	if c.CacheTTL < 0 || c.CacheTTL > maxStaleness {
		report("cache_ttl", "%s is out of range: up to revocation.max_staleness (%s)", c.CacheTTL, maxStaleness)
	}
	if c.CacheEntries < 1 || c.CacheEntries > 10_000_000 {
		report("cache_entries", "%d is out of range: 1 to 10000000", c.CacheEntries)
	}
	if c.CacheBytes < 1<<20 || c.CacheBytes > 1<<40 {
		report("cache_bytes", "%d is out of range: 1048576 (1 MiB) to 1099511627776 (1 TiB)", c.CacheBytes)
	}
	if c.MaxConcurrent < 1 || c.MaxConcurrent > 1000 {
		report("max_concurrent", "%d is out of range: 1 to 1000", c.MaxConcurrent)
	}
}

// ValidateAll reports every invalid value of the `introspection` stanza, with
// paths relative to the list: "[1].endpoint". It returns introspectors that can
// stand for the real ones when routes are validated.
func ValidateAll(configs []Config, maxStaleness time.Duration, report authz.Report) map[string]authz.Introspector {
	names := map[string]authz.Introspector{}
	for i, c := range configs {
		c.Validate(maxStaleness, func(path, format string, args ...any) { report(authz.ItemPath("", i)+"."+path, format, args...) })
		if names[c.Name] != nil {
			report(authz.ItemPath("", i)+".name", "duplicate name %q", c.Name)
		}
		names[c.Name] = placeholder{}
	}
	return names
}

// placeholder is an introspector that introspects nothing.
type placeholder struct{}

func (placeholder) Local(string) bool { return false }

func (placeholder) Introspect(context.Context, string, *authz.Token, string) (*authz.Token, error) {
	return nil, &authz.Failure{Reason: authz.ReasonInternal, Detail: "introspection is only being validated"}
}
