// Package sidecar is the running product: it reads the settings, wires the parts
// of the other packages, and runs them until its context ends. It makes no
// decisions about requests itself.
package sidecar

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/sharedsignals"
	"jwtbouncer/authz/statuslist"
	"jwtbouncer/cache"
	"jwtbouncer/cache/rediscache"
	"jwtbouncer/envoy"
	"jwtbouncer/store"
)

// Settings is the configuration file. Each stanza belongs to the package that it
// configures.
type Settings struct {
	Listen            ListenSettings               `yaml:"listen" doc:"Where the sidecar listens."`
	Issuers           []issuer.Config              `yaml:"issuers" doc:"Issuers whose tokens are accepted; at least one is needed."`
	Limits            issuer.LimitsConfig          `yaml:"limits" doc:"How much of what clients and issuers send is read."`
	Store             string                       `yaml:"store" doc:"The authority on revocations: sqlite:///absolute/path or postgres://user@host/database."`
	StorePasswordFile string                       `yaml:"store_password_file" doc:"File with the password of the Postgres store, read for every new connection so that it can be rotated. Empty: the password in the URL, or none."`
	StoreStandby      []string                     `yaml:"store_standby" doc:"URLs of hot standbys of the Postgres store, from which a sidecar reads the bulk of a full load. They prove nothing, and what they cannot serve the store serves. Empty: none."`
	Redis             rediscache.Config            `yaml:"redis" doc:"Redis or Valkey, which distributes revocations quickly: a URL or a mapping. Left out: none."`
	Revocation        cache.RevocationConfig       `yaml:"revocation" doc:"How revocation is enforced."`
	Tokens            cache.TokenCacheConfig       `yaml:"token_cache" doc:"The cache of verified tokens."`
	Headers           envoy.HeadersConfig          `yaml:"headers" doc:"Headers sent to the upstream."`
	Replies           envoy.RepliesConfig          `yaml:"replies" doc:"Replies to denied callers."`
	DecisionLog       envoy.DecisionLogConfig      `yaml:"decision_log" doc:"Which decisions are logged."`
	API               httpapi.Config               `yaml:"api" doc:"Who may revoke over HTTP."`
	Routes            []policy.RouteConfig         `yaml:"routes" doc:"Rules per route; the first route that matches decides. None: every path needs a valid token."`
	Binding           policy.BindingConfig         `yaml:"binding" doc:"Proof of possession for sender-constrained tokens (RFC 8705, RFC 9449)."`
	Introspection     []introspect.Config          `yaml:"introspection" doc:"Issuers whose introspection endpoint is asked about opaque tokens (RFC 7662), for routes that name them."`
	EventStreams      []sharedsignals.StreamConfig `yaml:"event_streams" doc:"Shared Signals event streams that are polled (RFC 8936), one of each transmitter; for places that nothing can reach from outside."`
	StatusLists       statuslist.Config            `yaml:"status_lists" doc:"Token Status Lists that issuers publish."`
	Resource          policy.ResourceConfig        `yaml:"resource" doc:"Metadata of the protected resource (RFC 9728), served on listen.http and named in challenges."`
	Log               LogConfig                    `yaml:"log" doc:"The log of the process (JSON, standard error)."`
	Tracing           TracingConfig                `yaml:"tracing" doc:"OpenTelemetry traces."`

	text fingerprint // of the file, without environment and flags
}

// ListenSettings is the stanza "listen".
type ListenSettings struct {
	envoy.ListenConfig `yaml:",inline"`
	HTTP               string `yaml:"http" doc:"host:port of /livez, /readyz, /metrics and the revocation API. Empty: not served."`
}

// LogConfig is the stanza "log".
type LogConfig struct {
	Level string `yaml:"level" enum:"debug,info,warn,error" doc:"Minimum level of the records that are written."`
}

// Defaults returns the settings of an empty file.
func Defaults() Settings {
	e := envoy.DefaultConfig()
	return Settings{
		Listen:      ListenSettings{ListenConfig: e.Listen, HTTP: "127.0.0.1:9192"},
		Store:       "sqlite:///var/lib/jwt-bouncer/revocations.db",
		Redis:       rediscache.DefaultConfig(),
		Revocation:  cache.DefaultRevocationConfig(),
		Tokens:      cache.DefaultTokenCacheConfig(),
		Headers:     e.Headers,
		Replies:     e.Replies,
		DecisionLog: e.DecisionLog,
		API:         httpapi.DefaultConfig(),
		Binding:     policy.DefaultBindingConfig(),
		Log:         LogConfig{Level: "info"},
		Tracing:     TracingConfig{Ratio: 0.01, Service: "jwt-bouncer"},
	}
}

// Load reads file (empty: none), then the environment, then the flags, and
// validates the result. Errors are a config.Error.
func Load(file string, env func(string) (string, bool), flags ...Flag) (Settings, error) {
	var text []byte
	name := "configuration"
	if file != "" {
		var err error
		if text, err = config.Read(file); err != nil {
			return Settings{}, err
		}
		name = file
	}
	s, err := parse(name, text, env, flags...)
	s.text = sha256.Sum256(text)
	return s, err
}

// Parse reads a configuration from text, without environment, then the flags, and
// validates the result. name is for messages. Errors are a config.Error.
func Parse(name string, text []byte, flags ...Flag) (Settings, error) {
	return parse(name, text, nil, flags...)
}

func parse(name string, text []byte, env func(string) (string, bool), flags ...Flag) (Settings, error) {
	s := Defaults()
	f := config.Parse(name, text, &s)
	if env != nil {
		s.seedEnvironment(f, env)
		f.Overlay(&s, env)
	}
	s.setFlags(f, flags)
	s.validate(f)
	return s, f.Err()
}

// seedEnvironment applies the variables of the product's predecessor: REDIS_HOST,
// REDIS_PORT, CACHE_TTL (seconds) and ENABLE_CACHE.
func (s *Settings) seedEnvironment(f *config.File, env func(string) (string, bool)) {
	if host, ok := env("REDIS_HOST"); ok && host != "" && !f.IsSet("redis") {
		port := "6379"
		if p, ok := env("REDIS_PORT"); ok && p != "" {
			// Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 for a Service called redis.
			if i := strings.LastIndexByte(p, ':'); i >= 0 {
				p = p[i+1:]
			}
			port = p
		}
		f.SetEnv("redis.url", "REDIS_HOST", reflect.ValueOf(&s.Redis.URL).Elem(), "redis://"+net.JoinHostPort(host, port)+"/0")
	}
	if ttl, ok := env("CACHE_TTL"); ok && ttl != "" {
		if n, err := strconv.Atoi(ttl); err == nil && n > 0 {
			ttl = (time.Duration(n) * time.Second).String()
		}
		f.SetEnv("token_cache.ttl", "CACHE_TTL", reflect.ValueOf(&s.Tokens.TTL).Elem(), ttl)
		s.Redis.MaxTTL = s.Tokens.TTL
	}
	if on, ok := env("ENABLE_CACHE"); ok && on != "" {
		f.SetEnv("token_cache.enabled", "ENABLE_CACHE", reflect.ValueOf(&s.Tokens.Enabled).Elem(), on)
	}
}

func (s *Settings) validate(f *config.File) {
	s.Listen.Validate(f.At("listen"))
	if len(s.Issuers) == 0 {
		f.Invalid("issuers", "at least one issuer is needed, such as\n  issuers:\n    - issuer: https://issuer.example\n      audiences: [api]")
	}
	issuer.ValidateAll(s.Issuers, f.At("issuers"))
	s.Limits.Validate(f.At("limits"))
	if err := store.CheckURL(s.Store); err != nil {
		f.Invalid("store", "%s", err)
	}
	for i, standby := range s.StoreStandby {
		at := fmt.Sprintf("store_standby[%d]", i)
		if err := store.CheckStandbyURL(standby); err != nil {
			f.Invalid(at, "%s", err)
		} else if kind := s.StoreKind(); !strings.HasPrefix(kind, "postgres") {
			f.Invalid(at, "the store is not Postgres, so it has no standby")
		}
	}
	if s.Redis.Enabled() {
		s.Redis.Validate(f.At("redis"))
	}
	s.checkPlaceholders(f.At(""))
	s.Revocation.Validate(f.At("revocation"))
	s.Tokens.Validate(f.At("token_cache"))
	s.Headers.Validate(f.At("headers"))
	s.Replies.Validate(f.At("replies"))
	s.DecisionLog.Validate(f.At("decision_log"))
	s.API.Validate(f.At("api"))
	if s.Listen.HTTP != "" {
		s.API.ValidateListen(s.Listen.HTTP, f.At(""))
		s.API.ValidateIssuers(s.RevocableIssuers(), f.At(""))
	}
	introspectors := introspect.ValidateAll(s.Introspection, s.Revocation.MaxStaleness, f.At("introspection"))
	// Errors of the binding stanza itself are reported below.
	options, _ := s.policyOptions(introspectors, nil)
	policy.ValidateRoutes(s.Routes, options, f.At("routes"), func(path string) bool { return f.IsInvalid("routes" + path) })
	if i := s.endsStreams(); i >= 0 && !s.Revocation.Replica {
		f.Invalid(fmt.Sprintf("routes[%d].end_streams", i), "needs revocation.replica: on, because every open stream is examined whenever a revocation arrives")
	}
	s.Binding.Validate(f.At("binding"))
	sharedsignals.ValidateStreams(s.EventStreams, s.RevocableIssuers().Verified, f.At("event_streams"))
	s.StatusLists.Validate(s.Revocation.MaxStaleness, f.At("status_lists"))
	s.Resource.Validate(f.At("resource"))
	if s.Listen.HTTP == "" {
		s.API.ValidateUnserved(f.At("api"))
		s.API.Events.ValidateIssuers(s.RevocableIssuers(), f.At("api.events"))
		if s.Resource.Resource != "" {
			f.Invalid("resource", "the metadata is served on listen.http, which is empty")
		}
	}
	s.Tracing.Validate(f.At("tracing"))
	if _, err := s.logLevel(); err != nil {
		f.Invalid("log.level", "must be debug, info, warn or error, not %q", s.Log.Level)
	}
}

// endsStreams returns the index of the first route with end_streams; -1: there is none.
func (s *Settings) endsStreams() int {
	return slices.IndexFunc(s.Routes, func(r policy.RouteConfig) bool { return r.EndStreams })
}

// checkServed returns an error if a setting needs Envoy's own process, which Serve does
// not run in.
func (s *Settings) checkServed() error {
	if i := s.endsStreams(); i >= 0 {
		return fmt.Errorf("routes[%d].end_streams: ext_authz cannot end open streams, only the dynamic module can (docs/in-process.md); remove it, and bound them with Envoy's max_stream_duration", i)
	}
	return nil
}

func (s *Settings) logLevel() (slog.Level, error) {
	var level slog.Level
	err := level.UnmarshalText([]byte(s.Log.Level))
	return level, err
}

// replies returns the replies to denied callers, with the URL of the resource's
// metadata.
func (s *Settings) replies() envoy.RepliesConfig {
	r := s.Replies
	r.ResourceMetadata = cmp.Or(r.ResourceMetadata, policy.ResourceMetadataURL(s.Resource))
	return r
}

// TokenIssuers returns the names of all issuers whose tokens can be valid: those
// with configured keys, then the introspected ones.
func (s *Settings) TokenIssuers() []string { return s.RevocableIssuers().All() }

// RevocableIssuers returns the issuers whose tokens can be revoked.
func (s *Settings) RevocableIssuers() authz.Issuers {
	introspected := make([]authz.IntrospectedIssuer, len(s.Introspection))
	for i, in := range s.Introspection {
		introspected[i] = authz.IntrospectedIssuer{Issuer: in.Issuer, All: in.Tokens == "all"}
	}
	all := issuer.Issuers(s.Issuers)
	all.Introspected, all.Claims = introspected, s.Revocation.Claims
	return all
}

// StoreKind returns the kind of the store, without its address.
func (s *Settings) StoreKind() string {
	kind, _, _ := strings.Cut(s.Store, ":")
	return kind
}
