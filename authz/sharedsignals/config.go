package sharedsignals

import (
	"maps"
	"slices"

	"jwtbouncer/authz"
)

// Config is the stanza "api.events".
type Config struct {
	Audiences []string            `yaml:"audiences" doc:"The audiences (aud) under which the transmitter knows this receiver. Empty: the endpoint does not exist."`
	SpeaksFor map[string][]string `yaml:"speaks_for" doc:"For a transmitter that is not the issuer of the tokens: its iss, and the issuers whose subjects and sessions it may report. The transmitter must be under issuers; the issuers must be there or under introspection. Empty: every transmitter reports its own subjects only."`
}

// Validate reports the invalid values of the stanza itself.
func (c Config) Validate(report authz.Report) {
	for i, s := range c.Audiences {
		if s == "" {
			report(authz.ItemPath("audiences", i), "must not be empty")
		}
	}
}

// ValidateIssuers checks the issuers that the stanza names against those with
// configured keys, and all. Its paths are relative to the stanza.
func (c Config) ValidateIssuers(verified, all []string, report authz.Report) {
	for _, transmitter := range slices.Sorted(maps.Keys(c.SpeaksFor)) {
		if !slices.Contains(verified, transmitter) {
			report("speaks_for", "%q is not under issuers; its keys are needed to verify its messages", transmitter)
		}
		for _, iss := range c.SpeaksFor[transmitter] {
			if !slices.Contains(all, iss) {
				report("speaks_for", "%q is neither under issuers nor the issuer of an introspection", iss)
			}
		}
	}
}
