package httpapi

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/sharedsignals"
)

// Config is the stanza "api". It includes the settings of packages receiver and
// page, because they share the stanza.
type Config struct {
	TokenFile           string               `yaml:"token_file" doc:"File with the API's bearer tokens, one per line as TOKEN or NAME TOKEN, at least 16 characters each; read again when it changes. Required unless listen.http is a loopback address. Empty: no token is required."`
	Hosts               []string             `yaml:"hosts" doc:"Host names, besides localhost and IP addresses, under which callers without a token may reach the API. They keep other sites from reaching a loopback API by DNS rebinding."`
	Clients             []ClientConfig       `yaml:"clients" doc:"OAuth clients that may call POST /oauth2/revoke (RFC 7009) with their secret. Empty: only the API token is accepted."`
	UnverifiedPerMinute int                  `yaml:"unverified_per_minute" doc:"How many tokens one caller of POST /oauth2/revoke may have revoked per minute although this sidecar cannot verify them, such as those of introspected issuers; as many may come at once. Further ones are answered 503 with Retry-After. Each occupies a row of the ledger for up to max_token_ttl. Between 1 and 60000; 0 means 60."`
	Logout              LogoutConfig         `yaml:"logout" doc:"OpenID Connect back-channel logout."`
	Events              sharedsignals.Config `yaml:"events" doc:"Shared Signals events pushed according to RFC 8935."`
	Keycloak            KeycloakConfig       `yaml:"keycloak" doc:"Keycloak's pushed admin actions."`
	Global              GlobalConfig         `yaml:"global_token_revocation" doc:"Global Token Revocation, which Okta\'s Universal Logout calls."`
	Page                bool                 `yaml:"page" doc:"Serve the operator's page at /. Default true."`
	ReadTimeout         time.Duration        `yaml:"read_timeout" doc:"Maximum time to receive a request; 0 means 15s."`
	WriteTimeout        time.Duration        `yaml:"write_timeout" doc:"Maximum time to answer a request, including the ledger's commit but not the wait of wait=enforced; 0 means 15s."`
}

// ClientConfig is an OAuth client that may revoke tokens (RFC 7009).
type ClientConfig struct {
	ID         string `yaml:"id" doc:"The client_id."`
	SecretFile string `yaml:"secret_file" doc:"File with the client's secret, at least 16 characters; read again when it changes. A line is a secret, whole, with spaces and #. Each line is valid, so that a new secret can be added before the old one is removed."`
}

// LogoutConfig is the stanza "api.logout".
type LogoutConfig struct {
	Audiences   []string      `yaml:"audiences" doc:"The client_ids that logout tokens are addressed to (aud). Empty: the endpoint does not exist."`
	MaxAge      time.Duration `yaml:"max_age" doc:"Maximum age of a logout token by its iat; 0 means 5m."`
	AlsoSubject bool          `yaml:"also_subject" doc:"Revoke the subject's tokens as well if a logout token names session and subject; for issuers whose access tokens carry no sid. Default false."`
}

// KeycloakConfig is the stanza "api.keycloak".
type KeycloakConfig struct {
	Issuer  string   `yaml:"issuer" doc:"The configured issuer (realm) whose admin actions are accepted; the actions themselves name none. Optional if exactly one issuer is configured."`
	Clients []string `yaml:"clients" doc:"The client ids that the actions are addressed to (resource). Empty: the endpoints do not exist."`
}

// GlobalConfig is the stanza "api.global_token_revocation".
type GlobalConfig struct {
	Audiences []string `yaml:"audiences" doc:"The audiences (aud) of the JWTs with which identity providers, which must be under issuers, authenticate their requests; Okta's is the URL of the endpoint. Each may end the tokens of its own subjects and those of api.events.speaks_for. Empty: the endpoint accepts API tokens only."`
}

// DefaultConfig returns the stanza's defaults.
func DefaultConfig() Config {
	return Config{
		Page: true, UnverifiedPerMinute: 60, ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second,
		Logout: LogoutConfig{MaxAge: 5 * time.Minute},
	}
}

// withDefaults replaces the numbers and durations that are 0.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	c.UnverifiedPerMinute = cmp.Or(c.UnverifiedPerMinute, d.UnverifiedPerMinute)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, d.ReadTimeout)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, d.WriteTimeout)
	c.Logout.MaxAge = cmp.Or(c.Logout.MaxAge, d.Logout.MaxAge)
	return c
}

// Validate reports the invalid values of the stanza itself. ValidateListen checks it
// against the address it is served on.
func (c Config) Validate(report authz.Report) {
	for i, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "/: \t*") {
			report(authz.ItemPath("hosts", i), "%q is not a host name; give the name alone, without scheme or port", h)
		}
	}
	first := map[string]int{}
	for i, cl := range c.Clients {
		at := authz.ItemPath("clients", i) + "."
		if cl.ID == "" {
			report(at+"id", "must not be empty")
		} else if before, ok := first[cl.ID]; ok {
			report(at+"id", "duplicate client %q (first defined at clients[%d])", cl.ID, before)
		} else {
			first[cl.ID] = i
		}
		if cl.SecretFile == "" {
			report(at+"secret_file", "must not be empty")
		}
	}
	if c.UnverifiedPerMinute < 0 || c.UnverifiedPerMinute > 60_000 {
		report("unverified_per_minute", "must be between 1 and 60000, not %d", c.UnverifiedPerMinute)
	}
	for path, list := range map[string][]string{"logout.audiences": c.Logout.Audiences, "keycloak.clients": c.Keycloak.Clients, "global_token_revocation.audiences": c.Global.Audiences} {
		for i, s := range list {
			if s == "" {
				report(authz.ItemPath(path, i), "must not be empty")
			}
		}
	}
	c.Events.Validate(func(path, format string, args ...any) { report("events."+path, format, args...) })
	for path, d := range map[string]time.Duration{"read_timeout": c.ReadTimeout, "write_timeout": c.WriteTimeout, "logout.max_age": c.Logout.MaxAge} {
		if d < 0 {
			report(path, "%s is negative; use a duration such as 15s", d)
		}
	}
}

// ValidateListen checks listen.http and the stanza against each other. It reports
// paths of the whole configuration.
func (c Config) ValidateListen(addr string, report authz.Report) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && host == "*" {
		report("listen.http", "%q: every address is written :%s or 0.0.0.0:%s", addr, port, port)
		return
	}
	if err != nil {
		report("listen.http", "%q is not an address; use HOST:PORT, such as 127.0.0.1:9192 or [::1]:9192", addr)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		report("listen.http", "port %q is not a number from 0 to 65535", port)
	}
	if c.TokenFile == "" && !authz.IsLoopback(strings.ToLower(host)) {
		report("api.token_file", "is required because listen.http (%s) can be reached from other machines; set it, or listen on 127.0.0.1", addr)
	}
}

// ValidateUnserved reports the endpoints that are configured although
// listen.http is empty: messages to them would be lost.
func (c Config) ValidateUnserved(report authz.Report) {
	for path, n := range map[string]int{
		"clients": len(c.Clients), "logout.audiences": len(c.Logout.Audiences),
		"events.audiences": len(c.Events.Audiences), "keycloak.clients": len(c.Keycloak.Clients),
		"global_token_revocation.audiences": len(c.Global.Audiences),
	} {
		if n > 0 {
			report(path, "the endpoint is served on listen.http, which is empty; set listen.http, or remove this setting")
		}
	}
}

// ValidateIssuers checks the issuers that the stanza names. It reports paths of the
// whole configuration.
func (c Config) ValidateIssuers(issuers authz.Issuers, report authz.Report) {
	verified := func(path, iss string) {
		if !slices.Contains(issuers.Verified, iss) {
			report(path, "%q is not under issuers; its keys are needed to verify its messages", iss)
		}
	}
	c.Events.ValidateIssuers(issuers, func(path, format string, args ...any) { report("api.events."+path, format, args...) })
	switch {
	case len(c.Keycloak.Clients) == 0:
	case c.Keycloak.Issuer != "":
		verified("api.keycloak.issuer", c.Keycloak.Issuer)
	case len(issuers.Verified) != 1:
		report("api.keycloak.issuer", "is required unless exactly one issuer is configured")
	}
}
