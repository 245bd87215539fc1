package httpapi

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// Config is the stanza "api".
type Config struct {
	TokenFile    string         `yaml:"token_file" doc:"File with the API's bearer tokens, one a line as TOKEN or NAME TOKEN, at least 16 characters each; re-read when it changes. Required unless listen.http is a loopback address; empty: no token is asked for."`
	Hosts        []string       `yaml:"hosts" doc:"Host names, besides localhost and IP addresses, under which the API may be called when no token is asked for; they stop other sites from reaching a loopback API by DNS rebinding."`
	Clients      []ClientConfig `yaml:"clients" doc:"OAuth clients that may call POST /oauth2/revoke (RFC 7009) with their secret. Empty: only the API token opens it."`
	Logout       LogoutConfig   `yaml:"logout" doc:"OpenID Connect back-channel logout."`
	Events       EventsConfig   `yaml:"events" doc:"Shared Signals events pushed as RFC 8935 describes."`
	Keycloak     KeycloakConfig `yaml:"keycloak" doc:"Keycloak's pushed admin actions."`
	Page         bool           `yaml:"page" doc:"Serve the operator's page at /. Default true."`
	ReadTimeout  time.Duration  `yaml:"read_timeout" doc:"How long a request may take to arrive whole; 0 means 15s."`
	WriteTimeout time.Duration  `yaml:"write_timeout" doc:"How long a request may take to be answered, the ledger's commit included (wait=enforced is not counted); 0 means 15s."`
}

// ClientConfig is an OAuth client of the RFC 7009 door.
type ClientConfig struct {
	ID         string `yaml:"id" doc:"The client_id."`
	SecretFile string `yaml:"secret_file" doc:"File with the client's secret, at least 16 characters; several lines are several valid secrets, re-read when it changes."`
}

// LogoutConfig is the stanza "api.logout".
type LogoutConfig struct {
	Audiences   []string      `yaml:"audiences" doc:"The client_ids that logout tokens are addressed to (aud). Empty: the door is closed."`
	MaxAge      time.Duration `yaml:"max_age" doc:"How old a logout token's iat may be; 0 means 5m."`
	AlsoSubject bool          `yaml:"also_subject" doc:"Revoke the subject's tokens as well when a logout token names session and subject; for issuers whose access tokens carry no sid. Default false."`
}

// EventsConfig is the stanza "api.events".
type EventsConfig struct {
	Audiences []string            `yaml:"audiences" doc:"The audiences (aud) under which the transmitter knows this receiver. Empty: the door is closed."`
	SpeaksFor map[string][]string `yaml:"speaks_for" doc:"For a transmitter that is not the issuer of the tokens: its iss, and the issuers whose subjects and sessions it speaks of. The transmitter must be under issuers, they there or under introspection. Empty: every transmitter speaks for itself alone."`
}

// KeycloakConfig is the stanza "api.keycloak".
type KeycloakConfig struct {
	Issuer  string   `yaml:"issuer" doc:"The configured issuer (realm) whose admin actions are taken; the messages themselves name none. May be left out with exactly one issuer."`
	Clients []string `yaml:"clients" doc:"The client ids that the actions are addressed to (resource). Empty: the door is closed."`
}

// DefaultConfig returns the stanza's defaults.
func DefaultConfig() Config {
	return Config{
		Page: true, ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second,
		Logout: LogoutConfig{MaxAge: 5 * time.Minute},
	}
}

// Validate reports what is wrong inside the stanza. ValidateListen checks it
// against the address it is served on.
func (c Config) Validate(fault authz.Fault) {
	for i, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "/: \t*") {
			fault("hosts["+strconv.Itoa(i)+"]", "%q is not a host name; give the name alone, without scheme or port", h)
		}
	}
	seen := map[string]bool{}
	for i, cl := range c.Clients {
		at := "clients[" + strconv.Itoa(i) + "]."
		if cl.ID == "" {
			fault(at+"id", "must not be empty")
		} else if seen[cl.ID] {
			fault(at+"id", "%q occurs twice", cl.ID)
		}
		seen[cl.ID] = true
		if cl.SecretFile == "" {
			fault(at+"secret_file", "must not be empty")
		}
	}
	for path, list := range map[string][]string{"logout.audiences": c.Logout.Audiences, "events.audiences": c.Events.Audiences, "keycloak.clients": c.Keycloak.Clients} {
		for i, s := range list {
			if s == "" {
				fault(path+"["+strconv.Itoa(i)+"]", "must not be empty")
			}
		}
	}
	for path, d := range map[string]time.Duration{"read_timeout": c.ReadTimeout, "write_timeout": c.WriteTimeout, "logout.max_age": c.Logout.MaxAge} {
		if d < 0 {
			fault(path, "%s is negative; a duration such as 15s is needed", d)
		}
	}
}

// ValidateListen checks listen.http and the stanza against each other. The
// paths it reports are the whole configuration's.
func (c Config) ValidateListen(addr string, fault authz.Fault) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		fault("listen.http", "%q is not an address; HOST:PORT is needed, such as 127.0.0.1:9192 or [::1]:9192", addr)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		fault("listen.http", "port %q is not a number from 0 to 65535", port)
	}
	if c.TokenFile == "" && !isLoopback(host) {
		fault("api.token_file", "is required because listen.http (%s) can be reached from other machines; set it, or listen on 127.0.0.1", addr)
	}
}

// ValidateUnserved reports the doors that are configured though listen.http is
// empty: nobody could reach them, and what is sent to them would be lost.
func (c Config) ValidateUnserved(fault authz.Fault) {
	for _, door := range []struct {
		path       string
		configured bool
	}{
		{"clients", len(c.Clients) > 0},
		{"logout.audiences", len(c.Logout.Audiences) > 0},
		{"events.audiences", len(c.Events.Audiences) > 0},
		{"keycloak.clients", len(c.Keycloak.Clients) > 0},
	} {
		if door.configured {
			fault(door.path, "the door is served on listen.http, which is empty; give listen.http an address, or remove this")
		}
	}
}

// ValidateIssuers checks the issuers that the stanza names against those whose
// keys are configured, and all whose tokens can be good. The paths it reports
// are the whole configuration's.
func (c Config) ValidateIssuers(issuers, all []string, fault authz.Fault) {
	known := func(path, iss string) {
		if !slices.Contains(issuers, iss) {
			fault(path, "%q is not under issuers; its keys are needed to believe it", iss)
		}
	}
	for _, transmitter := range slices.Sorted(maps.Keys(c.Events.SpeaksFor)) {
		known("api.events.speaks_for", transmitter)
		for _, iss := range c.Events.SpeaksFor[transmitter] {
			if !slices.Contains(all, iss) {
				fault("api.events.speaks_for", "%q is neither under issuers nor the issuer of an introspection", iss)
			}
		}
	}
	switch {
	case len(c.Keycloak.Clients) == 0:
	case c.Keycloak.Issuer != "":
		known("api.keycloak.issuer", c.Keycloak.Issuer)
	case len(issuers) != 1:
		fault("api.keycloak.issuer", "is needed because not exactly one issuer is configured")
	}
}

// isLoopback reports whether host can only be reached from this machine. A
// name other than localhost could resolve to anything, and an empty host is
// every address.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
