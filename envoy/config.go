package envoy

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"jwtbouncer/authz"
)

// ListenConfig is the part of the stanza "listen" that is about the gRPC service.
type ListenConfig struct {
	GRPC       string    `yaml:"grpc" doc:"Address of the ext_authz gRPC service: host:port, or unix:///absolute/path of at most 107 bytes. The socket is created with mode 0660."`
	TLS        TLSConfig `yaml:"grpc_tls" doc:"TLS for the gRPC service. If it is omitted, the service speaks plaintext, which is meant for loopback and Unix sockets."`
	MaxStreams uint32    `yaml:"grpc_max_streams" doc:"Maximum concurrent checks per connection. Envoy learns the limit and queues further checks. 0 means 4096."`
}

// TLSConfig is the stanza "listen.grpc_tls".
type TLSConfig struct {
	Certificate string   `yaml:"certificate" doc:"PEM file with the certificate chain of the server. It is reloaded when it changes. Empty means no TLS."`
	Key         string   `yaml:"key" doc:"PEM file with the private key of the certificate."`
	ClientCA    string   `yaml:"client_ca" doc:"PEM file with the certificate authorities of clients, which must then present a certificate (mTLS). Empty means that any client may connect."`
	ClientNames []string `yaml:"client_names" doc:"DNS names or URIs (SPIFFE IDs), one of which the client certificate must contain. Empty means that every certificate issued by client_ca is accepted."`
}

// HeadersConfig is the stanza "headers": what the upstream learns about the caller.
type HeadersConfig struct {
	Claims               map[string]string `yaml:"claims" doc:"Identity headers, by header name: request headers that are set from verified claims. A value is a claim path (sub, realm_access.roles, /a~1b as JSON Pointer) or a template with claim paths in braces (user:{sub}). The upstream never receives these headers from the client: they are overwritten, or removed if the claim is missing or the route is public."`
	ForwardAuthorization bool              `yaml:"forward_authorization" doc:"Whether the upstream receives the Authorization header. If false, it is removed on every route. A token in a cookie or the query is always removed."`
	Metadata             []string          `yaml:"metadata" doc:"Top-level claims that later filters receive as dynamic metadata of envoy.filters.http.ext_authz; '*' means all claims. Empty means none."`
	MaxBytes             int               `yaml:"max_bytes" doc:"Maximum length of an identity header value in bytes. A token with a longer claim is denied. 0 means 8192."`
}

// RepliesConfig is the stanza "replies": what denied callers receive.
type RepliesConfig struct {
	Realm            string        `yaml:"realm" doc:"Realm of the Bearer challenge (RFC 6750, section 3). Empty means jwt-bouncer."`
	ResourceMetadata string        `yaml:"resource_metadata" doc:"URL of the protected resource metadata (RFC 9728), which every challenge then contains. Empty means that it is omitted."`
	RetryAfter       time.Duration `yaml:"retry_after" doc:"Retry-After of 503 replies, in whole seconds. 0 means 1s."`
}

// DecisionLogConfig is the stanza "decision_log".
type DecisionLogConfig struct {
	Decisions string `yaml:"decisions" enum:"none,denied,all" doc:"Decisions to log: none, denied or all. Empty means denied."`
	PerSecond int    `yaml:"per_second" doc:"Maximum records per second. Further decisions are only counted, in jwt_bouncer_decision_log_dropped_total. 0 means 100."`
}

// Config is the configuration of this package.
type Config struct {
	Listen      ListenConfig      `yaml:"listen" doc:"Where Envoy reaches the service."`
	Headers     HeadersConfig     `yaml:"headers" doc:"What the upstream learns about the caller."`
	Replies     RepliesConfig     `yaml:"replies" doc:"What denied callers receive."`
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

// withDefaults returns c with the documented default for each zero value that has one.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	c.Listen.MaxStreams = cmp.Or(c.Listen.MaxStreams, d.Listen.MaxStreams)
	c.Headers.MaxBytes = cmp.Or(c.Headers.MaxBytes, d.Headers.MaxBytes)
	c.Replies.Realm = cmp.Or(c.Replies.Realm, d.Replies.Realm)
	c.Replies.RetryAfter = cmp.Or(c.Replies.RetryAfter, d.Replies.RetryAfter)
	c.DecisionLog.Decisions = cmp.Or(c.DecisionLog.Decisions, d.DecisionLog.Decisions)
	c.DecisionLog.PerSecond = cmp.Or(c.DecisionLog.PerSecond, d.DecisionLog.PerSecond)
	return c
}

// Validate reports every invalid value in c.
func (c *Config) Validate(report authz.Report) {
	c.Listen.Validate(under(report, "listen"))
	c.Headers.Validate(under(report, "headers"))
	c.Replies.Validate(under(report, "replies"))
	c.DecisionLog.Validate(under(report, "decision_log"))
}

func under(report authz.Report, stanza string) authz.Report {
	return func(path, format string, args ...any) { report(stanza+"."+path, format, args...) }
}

// Validate reports every invalid value in c.
func (c *ListenConfig) Validate(report authz.Report) {
	if _, _, err := splitAddress(c.GRPC); err != nil {
		report("grpc", "%v", err)
	}
	t := c.TLS
	if (t.Certificate == "") != (t.Key == "") {
		report("grpc_tls", "certificate and key must be set together")
	}
	if t.Certificate == "" && (t.ClientCA != "" || len(t.ClientNames) > 0) {
		report("grpc_tls", "client certificates require TLS: set certificate and key")
	}
	if t.ClientCA == "" && len(t.ClientNames) > 0 {
		report("grpc_tls.client_names", "client_names requires client_ca")
	}
}

// maxSocketPath is the maximum length in bytes of a path in sockaddr_un.sun_path, without the
// final NUL.
const maxSocketPath = 107

// splitAddress returns the network and address for net.Listen.
func splitAddress(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		switch {
		case !filepath.IsAbs(path):
			return "", "", fmt.Errorf("%q: Unix socket path must be absolute, such as unix:///run/jwt-bouncer/authz.sock", s)
		case len(path) > maxSocketPath:
			return "", "", fmt.Errorf("%q: Unix socket path must not exceed %d bytes, got %d", s, maxSocketPath, len(path))
		case strings.IndexByte(path, 0) >= 0:
			return "", "", fmt.Errorf("%q: Unix socket path must not contain NUL", s)
		}
		return "unix", path, nil
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return "", "", fmt.Errorf("%q: Unix socket address must be unix:// and an absolute path, such as unix:///%s", s, strings.TrimLeft(path, "/"))
	}
	host, port, err := net.SplitHostPort(s)
	if err == nil && host == "*" {
		return "", "", fmt.Errorf("%q: every address is written :%s or 0.0.0.0:%s", s, port, port)
	}
	if err != nil || port == "" || strings.ContainsAny(host, "/*@") {
		return "", "", fmt.Errorf("%q: must be host:port or unix:///path, such as 127.0.0.1:9191", s)
	}
	if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil {
		return "", "", fmt.Errorf("%q: %q is not a port", s, port)
	}
	return "tcp", s, nil
}

// Validate reports every invalid value in c.
func (c *HeadersConfig) Validate(report authz.Report) {
	newUpstreamHeaders(*c, nil, report)
	if c.MaxBytes < 0 || c.MaxBytes > 1<<16 {
		report("max_bytes", "must be between 0 and 65536, got %d", c.MaxBytes)
	}
}

// Validate reports every invalid value in c.
func (c *RepliesConfig) Validate(report authz.Report) {
	if !quotable(c.Realm) {
		report("realm", "%q: must be printable ASCII without quotes and backslashes", c.Realm)
	}
	if c.ResourceMetadata != "" {
		u, err := url.Parse(c.ResourceMetadata)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || !quotable(c.ResourceMetadata) {
			report("resource_metadata", "%s: must be an absolute https URL", authz.QuoteURL(c.ResourceMetadata))
		}
	}
	if c.RetryAfter < 0 || c.RetryAfter > time.Hour || c.RetryAfter%time.Second != 0 {
		report("retry_after", "must be whole seconds up to 1h, got %s", c.RetryAfter)
	}
}

// Validate reports every invalid value in c.
func (c *DecisionLogConfig) Validate(report authz.Report) {
	if !slices.Contains([]string{"", logNone, logDenied, logAll}, c.Decisions) {
		report("decisions", "must be none, denied or all, got %q", c.Decisions)
	}
	if c.PerSecond < 0 {
		report("per_second", "must not be negative, got %d", c.PerSecond)
	}
}

// quotable reports whether a quoted-string (RFC 9110, section 5.6.4) and a JSON string can
// contain s without escapes.
func quotable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// invalidHeaderName returns why name cannot be an identity header; empty if it can.
func invalidHeaderName(name string) string {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return "is not a header name (RFC 9110, section 5.1)"
	case reserved[fold(strings.ToLower(name))]:
		return "is reserved for HTTP or Envoy, or looks so to an upstream that reads \"_\" as \"-\"; choose another name, such as x-jwt-sub"
	}
	return ""
}

// reserved holds the headers that control routing, framing or authentication. To set or remove
// one of them on every request would break the request.
var reserved = map[string]bool{
	"host": true, "authorization": true, "proxy-authorization": true, "cookie": true, "connection": true, "keep-alive": true, "proxy-connection": true,
	"te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "content-length": true, "content-type": true, "content-encoding": true,
	"expect": true, "x-request-id": true, "x-forwarded-for": true, "x-forwarded-proto": true, "x-forwarded-host": true, "x-forwarded-client-cert": true,
	"traceparent": true, "tracestate": true, "dpop": true,
}
