package cache

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// RevocationConfig is the stanza "revocation".
type RevocationConfig struct {
	Replica             bool          `yaml:"replica" doc:"Whether to hold every live revocation in memory, so that a check needs no network. When off, every check asks Redis, then the store."`
	MaxStaleness        time.Duration `yaml:"max_staleness" doc:"Maximum age of the knowledge on which a token is allowed; the bound of the guarantee. A smaller value in the store wins."`
	SyncInterval        time.Duration `yaml:"sync_interval" doc:"Mean time between two syncs with the store, ± 25 %; at most half of max_staleness."`
	SyncTimeout         time.Duration `yaml:"sync_timeout" doc:"Maximum time that a sync waits for data from the store before it fails. After a sync that failed so, the next one waits twice as long, up to a third of max_staleness; a full load waits at least ten times as long."`
	CatchUpWait         time.Duration `yaml:"catch_up_wait" doc:"Maximum time that a check waits for a shared sync when the replica is not fresh; 0 means no wait."`
	MaxTokenTTL         time.Duration `yaml:"max_token_ttl" doc:"Maximum lifetime (exp - iat) of a token. Longer ones are refused, because their revocation could expire first."`
	OnRevocationUnknown string        `yaml:"on_revocation_unknown" enum:"deny,allow" doc:"What to do with a valid token when nothing can prove that it is not revoked; deny answers 503. Routes can override it."`
	Claims              []string      `yaml:"claims" doc:"Up to four claims by which tokens can be revoked, such as tenant_id or device_id. Every sidecar must name the same. A token is refused if it has one of them that is neither text nor a number nor a boolean, or has more than 1024 bytes."`
	SweepInterval       time.Duration `yaml:"sweep_interval" doc:"Time in which the sweep examines every entry once. It drops entries that expired more than five minutes ago."`
}

// DefaultRevocationConfig returns the defaults.
func DefaultRevocationConfig() RevocationConfig {
	return RevocationConfig{
		Replica:             true,
		MaxStaleness:        30 * time.Second,
		SyncInterval:        2 * time.Second,
		SyncTimeout:         3 * time.Second,
		CatchUpWait:         150 * time.Millisecond,
		MaxTokenTTL:         24 * time.Hour,
		OnRevocationUnknown: "deny",
		SweepInterval:       time.Minute,
	}
}

// maxRevocationClaims bounds RevocationConfig.Claims: each adds a lookup to every check.
const maxRevocationClaims = 4

// builtInClaims are revocable without configuration, or hold no single value.
var builtInClaims = map[string]string{
	"jti": "tokens can be revoked by it already", "sub": "tokens can be revoked by it already", "sid": "tokens can be revoked by it already",
	"iss": "tokens can be revoked by it already", "client_id": "the kind client revokes by it", "azp": "the kind client revokes by it", "act": "the kind actor revokes by it",
	"aud": "it can have several values", "exp": "it names no party", "iat": "not_before limits a revocation by it", "nbf": "it names no party",
}

// Validate reports every invalid value of the stanza.
func (c *RevocationConfig) Validate(report authz.Report) {
	within := func(path string, d, low, high time.Duration) bool {
		if d < low || d > high {
			report(path, "must be between %s and %s, is %s", low, high, d)
			return false
		}
		return true
	}
	stale := within("max_staleness", c.MaxStaleness, 100*time.Millisecond, time.Hour)
	if within("sync_interval", c.SyncInterval, 10*time.Millisecond, time.Hour) && stale && c.SyncInterval > c.MaxStaleness/2 {
		report("sync_interval", "must be at most half of max_staleness (%s), or one late sync would make every check fail; is %s", c.MaxStaleness, c.SyncInterval)
	}
	within("sync_timeout", c.SyncTimeout, 10*time.Millisecond, time.Minute)
	within("catch_up_wait", c.CatchUpWait, 0, time.Minute)
	within("max_token_ttl", c.MaxTokenTTL, time.Second, 10*365*24*time.Hour)
	within("sweep_interval", c.SweepInterval, time.Second, 24*time.Hour)
	if len(c.Claims) > maxRevocationClaims {
		report("claims", "must not have more than %d claims, has %d", maxRevocationClaims, len(c.Claims))
	}
	for i, name := range c.Claims {
		path := fmt.Sprintf("claims[%d]", i)
		switch {
		case name == "" || len(name) > 128 || strings.Contains(name, "=") || !authz.ValidText(name):
			report(path, "must be the name of a claim: 1 to 128 bytes without =")
		case slices.Contains(c.Claims[:i], name):
			report(path, "%q is named twice", name)
		case builtInClaims[name] != "":
			report(path, "%q needs no entry: %s", name, builtInClaims[name])
		}
	}
	if c.OnRevocationUnknown != "deny" && c.OnRevocationUnknown != "allow" {
		report("on_revocation_unknown", "must be deny or allow, is %q", c.OnRevocationUnknown)
	}
}
