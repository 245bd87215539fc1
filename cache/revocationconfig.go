package cache

import (
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
	if c.OnRevocationUnknown != "deny" && c.OnRevocationUnknown != "allow" {
		report("on_revocation_unknown", "must be deny or allow, is %q", c.OnRevocationUnknown)
	}
}
