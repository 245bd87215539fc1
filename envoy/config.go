package envoy

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"jwtbouncer/authz"
)

// ListenConfig says where Envoy reaches the authorization service. Its fields
// stand in the stanza "listen".
type ListenConfig struct {
	GRPC       string    `yaml:"grpc" doc:"Address of the ext_authz gRPC service: host:port, or unix:///absolute/path of at most 107 bytes (created with mode 0660)."`
	TLS        TLSConfig `yaml:"grpc_tls" doc:"TLS for the gRPC service; left out: plaintext, for loopback and Unix sockets."`
	MaxStreams uint32    `yaml:"grpc_max_streams" doc:"Checks in flight on one connection, told to Envoy, which queues more. 0: 4096."`
}

// TLSConfig is the stanza "listen.grpc_tls".
type TLSConfig struct {
	Certificate string   `yaml:"certificate" doc:"PEM file with the server's certificate chain; read again when it changes. Empty: no TLS."`
	Key         string   `yaml:"key" doc:"PEM file with the certificate's private key."`
	ClientCA    string   `yaml:"client_ca" doc:"PEM file with the authorities of client certificates, which are then required (mTLS). Empty: any client may connect."`
	ClientNames []string `yaml:"client_names" doc:"DNS names or URIs (SPIFFE IDs), one of which the client's certificate must carry. Empty: every certificate of client_ca will do."`
}

// HeadersConfig is the stanza "headers": what the upstream gets to see.
type HeadersConfig struct {
	Claims               map[string]string `yaml:"claims" doc:"Request headers set from verified claims, by header name. A value is a claim path (sub, realm_access.roles, /a~1b as JSON Pointer) or a template with paths in braces (user:{sub}). These headers never pass from the client: they are overwritten, or removed when the claim is missing or the route is public."`
	ForwardAuthorization bool              `yaml:"forward_authorization" doc:"Whether the upstream receives the Authorization header. False: it is removed on every route. A token taken from a cookie or the query is always removed."`
	Metadata             []string          `yaml:"metadata" doc:"Top-level claims handed to later filters as dynamic metadata of envoy.filters.http.ext_authz; '*' for all. Empty: none."`
	MaxBytes             int               `yaml:"max_bytes" doc:"Longest value of one identity header in bytes; a token whose claim is longer is denied. 0: 8192."`
}

// RepliesConfig is the stanza "replies": what denied callers are told.
type RepliesConfig struct {
	Realm            string        `yaml:"realm" doc:"Realm of the Bearer challenge (RFC 6750, section 3). Empty: jwt-bouncer."`
	ResourceMetadata string        `yaml:"resource_metadata" doc:"URL of this resource's metadata document (RFC 9728), named in every challenge. Empty: not named."`
	RetryAfter       time.Duration `yaml:"retry_after" doc:"Retry-After of 503 replies, in whole seconds. 0: 1s."`
}

// DecisionLogConfig is the stanza "decision_log".
type DecisionLogConfig struct {
	Decisions string `yaml:"decisions" enum:"none,denied,all" doc:"Which decisions are logged: none, denied or all. Empty: denied."`
	PerSecond int    `yaml:"per_second" doc:"Records per second at most; the rest is counted in jwt_bouncer_decision_log_dropped_total. 0: 100."`
}

// Config is everything this package can be told.
type Config struct {
	Listen      ListenConfig      `yaml:"listen" doc:"Where Envoy reaches the service."`
	Headers     HeadersConfig     `yaml:"headers" doc:"What the upstream gets to see."`
	Replies     RepliesConfig     `yaml:"replies" doc:"What denied callers are told."`
	DecisionLog DecisionLogConfig `yaml:"decision_log" doc:"Which decisions are logged."`
}

// DefaultConfig returns the configuration of an empty file.
func DefaultConfig() Config {
	return Config{
		Listen:      ListenConfig{GRPC: "127.0.0.1:9191", MaxStreams: 4096},
		Headers:     HeadersConfig{Claims: map[string]string{"x-jwt-sub": "sub", "x-jwt-iss": "iss"}, ForwardAuthorization: true, MaxBytes: 8192},
		Replies:     RepliesConfig{Realm: "jwt-bouncer", RetryAfter: time.Second},
		DecisionLog: DecisionLogConfig{Decisions: logDenied, PerSecond: 100},
	}
}

const (
	logNone   = "none"
	logDenied = "denied"
	logAll    = "all"
)

// withDefaults replaces zero values by what their documentation says.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.Listen.MaxStreams == 0 {
		c.Listen.MaxStreams = d.Listen.MaxStreams
	}
	if c.Headers.MaxBytes == 0 {
		c.Headers.MaxBytes = d.Headers.MaxBytes
	}
	if c.Replies.Realm == "" {
		c.Replies.Realm = d.Replies.Realm
	}
	if c.Replies.RetryAfter == 0 {
		c.Replies.RetryAfter = d.Replies.RetryAfter
	}
	if c.DecisionLog.Decisions == "" {
		c.DecisionLog.Decisions = d.DecisionLog.Decisions
	}
	if c.DecisionLog.PerSecond == 0 {
		c.DecisionLog.PerSecond = d.DecisionLog.PerSecond
	}
	return c
}

// Validate reports everything that is wrong with c.
func (c *Config) Validate(fault authz.Fault) {
	c.Listen.Validate(under(fault, "listen"))
	c.Headers.Validate(under(fault, "headers"))
	c.Replies.Validate(under(fault, "replies"))
	c.DecisionLog.Validate(under(fault, "decision_log"))
}

func under(fault authz.Fault, stanza string) authz.Fault {
	return func(path, format string, args ...any) { fault(stanza+"."+path, format, args...) }
}

// Validate reports everything that is wrong with c.
func (c *ListenConfig) Validate(fault authz.Fault) {
	if _, _, err := splitAddress(c.GRPC); err != nil {
		fault("grpc", "%v", err)
	}
	t := c.TLS
	if (t.Certificate == "") != (t.Key == "") {
		fault("grpc_tls", "certificate and key are needed together")
	}
	if t.Certificate == "" && (t.ClientCA != "" || len(t.ClientNames) > 0) {
		fault("grpc_tls", "client certificates need TLS: certificate and key are missing")
	}
	if t.ClientCA == "" && len(t.ClientNames) > 0 {
		fault("grpc_tls.client_names", "names can only be checked in certificates of a client_ca")
	}
}

// maxSocketPath is what fits into sockaddr_un.sun_path with its final NUL.
const maxSocketPath = 107

// splitAddress returns network and address as net.Listen takes them.
func splitAddress(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		switch {
		case !filepath.IsAbs(path):
			return "", "", fmt.Errorf("%q: the path of a Unix socket must be absolute: unix:///run/jwt-bouncer/authz.sock", s)
		case len(path) > maxSocketPath:
			return "", "", fmt.Errorf("%q: the path of a Unix socket may have at most %d bytes, this has %d", s, maxSocketPath, len(path))
		case strings.IndexByte(path, 0) >= 0:
			return "", "", fmt.Errorf("%q: the path of a Unix socket must not contain NUL", s)
		}
		return "unix", path, nil
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return "", "", fmt.Errorf("%q: a Unix socket is written unix:// and then its absolute path: unix:///%s", s, strings.TrimLeft(path, "/"))
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil || port == "" {
		return "", "", fmt.Errorf("%q: host:port or unix:///path is needed, such as 127.0.0.1:9191", s)
	}
	if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil {
		return "", "", fmt.Errorf("%q: %q is not a port", s, port)
	}
	return "tcp", s, nil
}

// Validate reports everything that is wrong with c.
func (c *HeadersConfig) Validate(fault authz.Fault) {
	newUpstreamHeaders(*c, fault)
	if c.MaxBytes < 0 || c.MaxBytes > 1<<16 {
		fault("max_bytes", "%d is not between 0 and 65536", c.MaxBytes)
	}
}

// Validate reports everything that is wrong with c.
func (c *RepliesConfig) Validate(fault authz.Fault) {
	if !quotable(c.Realm) {
		fault("realm", "%q: only printable ASCII without quotes and backslashes fits a challenge", c.Realm)
	}
	if c.ResourceMetadata != "" {
		u, err := url.Parse(c.ResourceMetadata)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || !quotable(c.ResourceMetadata) {
			fault("resource_metadata", "%q: an absolute https URL is needed", c.ResourceMetadata)
		}
	}
	if c.RetryAfter < 0 || c.RetryAfter > time.Hour || c.RetryAfter%time.Second != 0 {
		fault("retry_after", "%s: whole seconds up to an hour are needed", c.RetryAfter)
	}
}

// Validate reports everything that is wrong with c.
func (c *DecisionLogConfig) Validate(fault authz.Fault) {
	switch c.Decisions {
	case "", logNone, logDenied, logAll:
	default:
		fault("decisions", "%q: one of none, denied, all is needed", c.Decisions)
	}
	if c.PerSecond < 0 {
		fault("per_second", "%d is negative", c.PerSecond)
	}
}

// quotable reports whether s can stand in a quoted-string as it is (RFC 9110,
// section 5.6.4).
func quotable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// headerNameFault says why a header cannot carry an identity; empty: it can.
func headerNameFault(name string) string {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return "is not the name of a header (RFC 9110, section 5.1)"
	case reserved[fold(strings.ToLower(name))]:
		return "is a header that HTTP or Envoy itself depends on, or one to upstreams that read \"_\" as \"-\"; take a name of your own such as x-jwt-sub"
	}
	return ""
}

// reserved headers decide about routing, framing or credentials: setting or
// removing one for every request would break more than it says.
var reserved = map[string]bool{
	"host": true, "authorization": true, "proxy-authorization": true, "cookie": true, "connection": true, "keep-alive": true, "proxy-connection": true,
	"te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "content-length": true, "content-type": true, "content-encoding": true,
	"expect": true, "x-request-id": true, "x-forwarded-for": true, "x-forwarded-proto": true, "x-forwarded-host": true, "x-forwarded-client-cert": true,
	"traceparent": true, "tracestate": true, "dpop": true,
}
