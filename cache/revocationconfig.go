package cache

import (
	"time"

	"jwtbouncer/authz"
)

// RevocationConfig is the stanza "revocation".
type RevocationConfig struct {
	Replica             bool          `yaml:"replica" doc:"Hold every live revocation in memory, so that a check needs no network; off: look up in Redis, then in the store, and fill Redis."`
	MaxStaleness        time.Duration `yaml:"max_staleness" doc:"No token is allowed on knowledge older than this; the bound of the guarantee. A smaller value set in the store wins."`
	SyncInterval        time.Duration `yaml:"sync_interval" doc:"Mean time between two looks at the store's changes, spread by a quarter either way; at most half of max_staleness."`
	SyncTimeout         time.Duration `yaml:"sync_timeout" doc:"A sync that hears nothing from the store for so long is given up; a first load gets ten times as long to begin with."`
	CatchUpWait         time.Duration `yaml:"catch_up_wait" doc:"How long a check may wait for one shared sync when the replica is not fresh; 0: not at all."`
	MaxTokenTTL         time.Duration `yaml:"max_token_ttl" doc:"Tokens that live longer than this (exp - iat) are refused, because their revocation could expire before them."`
	OnRevocationUnknown string        `yaml:"on_revocation_unknown" enum:"deny,allow" doc:"What happens to a valid token when nothing can prove that it is not revoked: deny answers 503. Routes may differ."`
	SweepInterval       time.Duration `yaml:"sweep_interval" doc:"Every entry is looked at once in so long to see whether it expired more than five minutes ago and can be dropped."`
}

// DefaultRevocationConfig returns the stanza as it is when nothing is written.
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

// Validate reports every invalid value of the stanza.
func (c *RevocationConfig) Validate(report authz.Report) {
	within := func(path string, d, low, high time.Duration) bool {
		if d < low || d > high {
			report(path, "%s is not between %s and %s", d, low, high)
			return false
		}
		return true
	}
	stale := within("max_staleness", c.MaxStaleness, 100*time.Millisecond, time.Hour)
	if within("sync_interval", c.SyncInterval, 10*time.Millisecond, time.Hour) && stale && c.SyncInterval > c.MaxStaleness/2 {
		report("sync_interval", "%s is more than half of max_staleness (%s): one late sync would make every check fail", c.SyncInterval, c.MaxStaleness)
	}
	within("sync_timeout", c.SyncTimeout, 10*time.Millisecond, time.Minute)
	within("catch_up_wait", c.CatchUpWait, 0, time.Minute)
	within("max_token_ttl", c.MaxTokenTTL, time.Second, 10*365*24*time.Hour)
	within("sweep_interval", c.SweepInterval, time.Second, 24*time.Hour)
	if c.OnRevocationUnknown != "deny" && c.OnRevocationUnknown != "allow" {
		report("on_revocation_unknown", "%q is neither deny nor allow", c.OnRevocationUnknown)
	}
}
