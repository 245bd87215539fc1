package sharedsignals

import (
	"cmp"
	"slices"
	"time"

	"jwtbouncer/authz"
)

// StreamConfig is one entry of the `event_streams` stanza: an event stream that is
// polled (RFC 8936).
type StreamConfig struct {
	TransmitterConfig `yaml:",inline"`
	Audiences         []string      `yaml:"audiences" doc:"Audiences (aud) of the stream's events. Empty: those that the stream's configuration at the transmitter has. Required with url."`
	StreamID          string        `yaml:"stream_id" doc:"The stream's stream_id. Empty: the only polled stream that this receiver has at the transmitter."`
	URL               string        `yaml:"url" doc:"URL that is polled, for a transmitter without stream management. Empty: the endpoint_url in the stream's configuration at the transmitter."`
	Interval          time.Duration `yaml:"interval" doc:"Time between the starts of two polls that bring no event, 1s to 1h: how late an event may be noticed. After an event, and after a long poll, the next poll is sent at once. 0: 5s."`
	LongPoll          time.Duration `yaml:"long_poll" doc:"How long the transmitter may keep a poll waiting for an event, up to 10m; what the transmitter's documentation says, because RFC 8936 leaves it to agreement. 0: it is asked to answer at once."`
	MaxEvents         int           `yaml:"max_events" doc:"Events in one response, 1 to 500; further ones are left for the next poll. 0: 50."`
}

// DefaultStreamConfig returns the defaults of empty fields.
func DefaultStreamConfig() StreamConfig {
	return StreamConfig{Interval: 5 * time.Second, MaxEvents: 50}
}

func (c StreamConfig) withDefaults() StreamConfig {
	d := DefaultStreamConfig()
	c.Interval = cmp.Or(c.Interval, d.Interval)
	c.MaxEvents = cmp.Or(c.MaxEvents, d.MaxEvents)
	return c
}

// Validate reports every invalid value of the entry.
func (c StreamConfig) Validate(report authz.Report) {
	c.TransmitterConfig.Validate(report)
	c = c.withDefaults()
	if i := slices.Index(c.Audiences, ""); i >= 0 {
		report(authz.ItemPath("audiences", i), "must not be empty")
	}
	if c.URL != "" {
		authz.CheckSecretURL("url", c.URL, report)
		if len(c.Audiences) == 0 {
			report("audiences", "are required with url, because no stream's configuration is read")
		}
		if c.StreamID != "" {
			report("stream_id", "has no effect with url")
		}
	}
	if c.Interval < time.Second || c.Interval > time.Hour {
		report("interval", "%s is out of range: 1s to 1h", c.Interval)
	}
	if c.LongPoll < 0 || c.LongPoll > 10*time.Minute {
		report("long_poll", "%s is out of range: up to 10m", c.LongPoll)
	}
	if c.MaxEvents < 1 || c.MaxEvents > 500 {
		report("max_events", "%d is out of range: 1 to 500", c.MaxEvents)
	}
}

// ValidateStreams reports every invalid value of the `event_streams` stanza, with
// paths relative to the list. verified are the issuers with configured keys.
func ValidateStreams(configs []StreamConfig, verified []string, report authz.Report) {
	first := map[string]int{}
	for i, c := range configs {
		at := authz.ItemPath("", i) + "."
		c.Validate(func(path, format string, args ...any) { report(at+path, format, args...) })
		if before, ok := first[c.Transmitter]; ok {
			report(at+"transmitter", "duplicate transmitter %q (first defined at event_streams[%d])", c.Transmitter, before)
			continue
		}
		first[c.Transmitter] = i
		if !slices.Contains(verified, c.Transmitter) {
			report(at+"transmitter", "%q is not under issuers; its keys are needed to verify its events", c.Transmitter)
		}
	}
}
