package rediscache

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"jwtbouncer/authz"
	"jwtbouncer/authz/secretfile"
)

// Config is the stanza "redis". In YAML it is a URL or a mapping. The zero Config
// means no Redis. A Config prints itself without secrets.
type Config struct {
	URL                  string        `yaml:"url" doc:"Address of a single server with user, password and database: redis://, rediss:// (TLS) or unix://. Empty: addrs is used."`
	Addrs                []string      `yaml:"addrs" doc:"host:port of a single server, of Cluster nodes (cluster: true) or of all Sentinels (master_name). Empty: url is used."`
	MasterName           string        `yaml:"master_name" doc:"Name of the master that the Sentinels in addrs watch. Empty: no Sentinel."`
	Cluster              bool          `yaml:"cluster" doc:"Whether addrs or url name nodes of a Redis Cluster."`
	DB                   int           `yaml:"db" doc:"Database number; must be 0 with a Cluster."`
	Username             string        `yaml:"username" doc:"ACL user. Empty: the default user."`
	Password             string        `yaml:"password" doc:"Password in plain text. Prefer password_file or the environment."`
	PasswordFile         string        `yaml:"password_file" doc:"File with the password, read for every new connection so that it can be rotated. Empty: none."`
	SentinelUsername     string        `yaml:"sentinel_username" doc:"ACL user at the Sentinels. Empty: the default user."`
	SentinelPasswordFile string        `yaml:"sentinel_password_file" doc:"File with the password of the Sentinels, read for every new connection so that it can be rotated. Empty: none."`
	TLS                  TLSConfig     `yaml:"tls" doc:"TLS to the servers; rediss:// enables it as well."`
	Timeout              time.Duration `yaml:"timeout" doc:"Longest time for one lookup, between 1ms and 1s. After it, the next tier is asked."`
	DialTimeout          time.Duration `yaml:"dial_timeout" doc:"Longest time to connect, TLS and login included; at most 5s."`
	PoolSize             int           `yaml:"pool_size" doc:"Maximum connections per server, between 1 and 1000."`
	MaxTTL               time.Duration `yaml:"max_ttl" doc:"Maximum lifetime of a cached token:valid entry; 0 means that only max_staleness limits it."`
	LegacyKeys           bool          `yaml:"legacy_keys" doc:"Whether keys token:revoked:{jti} with the bare jti, as older deployments use them, are read and written as well."`
}

// TLSConfig configures TLS to Redis. Certificates are always verified.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled" doc:"Whether to connect with TLS 1.2 or later."`
	CAFile     string `yaml:"ca_file" doc:"PEM file with the certificate authorities to trust. Empty: the system's."`
	CertFile   string `yaml:"cert_file" doc:"PEM file with the client certificate; needs key_file. Empty: none."`
	KeyFile    string `yaml:"key_file" doc:"PEM file with the client certificate's key. Empty: none."`
	ServerName string `yaml:"server_name" doc:"Name expected in the server's certificate. Empty: the host connected to."`
}

// DefaultConfig returns the defaults, which have no Redis.
func DefaultConfig() Config {
	return Config{
		// A check has 180 ms in all, and the store may have to answer after this.
		Timeout:     50 * time.Millisecond,
		DialTimeout: time.Second,
		PoolSize:    32,
		MaxTTL:      time.Hour,
	}
}

// Enabled reports whether a Redis is configured.
func (c Config) Enabled() bool { return c.URL != "" || len(c.Addrs) > 0 }

// SetShorthand sets c from a URL in place of the mapping.
func (c *Config) SetShorthand(text string) { c.URL = text }

// Validate reports every invalid field. A configuration without Redis is valid.
func (c Config) Validate(report authz.Report) {
	reject := func(invalid bool, path, format string, args ...any) {
		if invalid {
			report(path, format, args...)
		}
	}
	if c.URL != "" {
		_, err := c.parseURL()
		reject(err != nil, "url", "%v", err)
		reject(len(c.Addrs) > 0, "addrs", "url and addrs exclude each other")
		reject(c.MasterName != "", "url", "must be empty with master_name; list the Sentinels in addrs")
	}
	for i, a := range c.Addrs {
		host, port, err := net.SplitHostPort(a)
		reject(err != nil || host == "" || port == "" || strings.ContainsAny(a, "@/"), authz.ItemPath("addrs", i), "%s is not host:port; scheme, user and password have keys of their own", authz.QuoteURL(a))
	}
	sentinel := c.MasterName != ""
	reject(!c.Enabled() && (sentinel || c.Cluster), "addrs", "must not be empty with master_name or cluster")
	reject(sentinel && c.Cluster, "cluster", "cluster and master_name (Sentinel) exclude each other")
	reject(len(c.Addrs) > 1 && !sentinel && !c.Cluster, "addrs", "several addresses need cluster: true or master_name")
	reject(c.DB < 0 || c.Cluster && c.DB != 0, "db", "must be 0 with a Cluster and must not be negative, is %d", c.DB)
	reject(c.Password != "" && c.PasswordFile != "", "password_file", "password and password_file exclude each other")
	reject((c.TLS.CertFile == "") != (c.TLS.KeyFile == ""), "tls.cert_file", "cert_file and key_file must be set together")
	reject(c.Timeout < time.Millisecond || c.Timeout > time.Second, "timeout", "must be between 1ms and 1s, is %s", c.Timeout)
	reject(c.DialTimeout <= 0 || c.DialTimeout > 5*time.Second, "dial_timeout", "must be above 0 and at most 5s, is %s", c.DialTimeout)
	reject(c.PoolSize < 1 || c.PoolSize > 1000, "pool_size", "must be between 1 and 1000, is %d", c.PoolSize)
	reject(c.MaxTTL < 0, "max_ttl", "must not be negative, is %s", c.MaxTTL)
}

// parseURL never repeats the URL in an error, because it may hold the password.
func (c Config) parseURL() (*redis.Options, error) {
	if err := authz.CheckUserinfo(c.URL); err != nil {
		return nil, fmt.Errorf("%w, or keep the password in a file (password_file)", err)
	}
	scheme, rest, found := strings.Cut(c.URL, "://")
	switch {
	case found && (scheme == "valkey" || scheme == "valkeys"):
		return nil, fmt.Errorf("unknown scheme %q; write %s", scheme, strings.Replace(scheme, "valkey", "redis", 1))
	case found && strings.Contains(scheme, "sentinel"):
		return nil, fmt.Errorf("unknown scheme; list the Sentinels in addrs and set master_name")
	case found && strings.Contains(scheme, "cluster"):
		return nil, fmt.Errorf("unknown scheme; list the nodes in addrs and set cluster: true")
	}
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	if strings.Contains(host[strings.LastIndexByte(host, '@')+1:], ",") {
		return nil, fmt.Errorf("a URL names one server; list several in addrs, with cluster: true for the nodes of a Cluster or master_name for Sentinels")
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("not a URL; want redis://user:password@host:6379/0, rediss://… or unix:///path (percent-encode what is special in user and password)")
	}
	if !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		return nil, fmt.Errorf("unknown scheme; want redis, rediss or unix, as in redis://host:6379/0")
	}
	for name := range u.Query() {
		if name != "db" { // go-redis would take timeouts and retries from here, against the reasons below
			return nil, fmt.Errorf("parameters other than db are not supported; use the mapping form")
		}
	}
	o, err := redis.ParseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("invalid host, path or database")
	}
	return o, nil
}

// options turns c into the client's options, reading the files it names.
func (c Config) options() (*redis.UniversalOptions, error) {
	o := &redis.UniversalOptions{
		Addrs: c.Addrs, MasterName: c.MasterName, IsClusterMode: c.Cluster, DB: c.DB,
		Username: c.Username, Password: c.Password, SentinelUsername: c.SentinelUsername,
		ClientName: "jwt-bouncer",
		// Nothing here needs RESP3, and every proxy and older server speaks RESP2.
		Protocol: 2,
		// Without it, go-redis ignores the check's deadline and waits for ReadTimeout.
		ContextTimeoutEnabled: true,
		// The next tier is a better retry than a server that just failed. (0 means 3.)
		MaxRetries: -1,
		// For MOVED, the answer of a Cluster that has moved a slot.
		MaxRedirects: 1,
		DialTimeout:  c.DialTimeout,
		// The default of 5 would dial a dead server long after the request has ended.
		DialerRetries: 1,
		// For background work; a lookup's context ends earlier.
		ReadTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond,
		PoolSize: c.PoolSize, MaxActiveConns: c.PoolSize,
		// Pipelines share these connections instead of having a pool of their own.
		PipelinePoolSize: -1,
		// No dial storm: after an outage connections come back a few at a time.
		MaxConcurrentDials: min(4, c.PoolSize),
		// A full pool means overload, and waiting longer than a lookup only adds to it.
		PoolTimeout:     c.Timeout,
		ConnMaxIdleTime: 5 * time.Minute,
		// Connections move to new nodes behind a load balancer, but not all at once.
		ConnMaxLifetime: 30 * time.Minute, ConnMaxLifetimeJitter: 10 * time.Minute,
		// Both would send extra commands while connecting, which some servers refuse.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if c.URL != "" {
		u, err := c.parseURL()
		if err != nil {
			return nil, fmt.Errorf("redis url: %w", err)
		}
		o.Addrs = []string{u.Addr}
		o.DB = cmp.Or(u.DB, o.DB)
		o.Username = cmp.Or(o.Username, u.Username)
		o.Password = cmp.Or(o.Password, u.Password)
		o.TLSConfig = u.TLSConfig
	}
	if err := c.TLS.apply(o); err != nil {
		return nil, err
	}
	o.Dialer = guarded(redis.NewDialer(&redis.Options{DialTimeout: o.DialTimeout, TLSConfig: o.TLSConfig}))
	o.CredentialsProviderContext = credentials("password_file", o.Username, c.PasswordFile)
	for _, login := range []credentialsFunc{o.CredentialsProviderContext, c.sentinelCredentials()} {
		if login != nil {
			if _, _, err := login(context.Background()); err != nil { // a wrong path fails at the start rather than at the first connection
				return nil, err
			}
		}
	}
	return o, nil
}

// credentialsFunc returns the user and password for a new connection.
type credentialsFunc = func(context.Context) (user, password string, err error)

// sentinelCredentials returns the credentials for the Sentinels; nil: no file.
func (c Config) sentinelCredentials() credentialsFunc {
	return credentials("sentinel_password_file", c.SentinelUsername, c.SentinelPasswordFile)
}

// credentials reads the password file for every new connection, so that the
// password can be rotated. It returns nil when there is no file.
func credentials(key, user, file string) credentialsFunc {
	if file == "" {
		return nil
	}
	return func(context.Context) (string, string, error) {
		password, err := secretfile.Read(file)
		if err != nil {
			return "", "", fmt.Errorf("redis %s: %w", key, err)
		}
		return user, password, nil
	}
}

func (t TLSConfig) apply(o *redis.UniversalOptions) error {
	if !t.Enabled && o.TLSConfig == nil {
		if t != (TLSConfig{}) {
			return fmt.Errorf("redis tls: certificates are configured, but neither tls.enabled nor rediss://")
		}
		return nil
	}
	o.TLSConfig = cmp.Or(o.TLSConfig, &tls.Config{})
	o.TLSConfig.MinVersion = tls.VersionTLS12
	o.TLSConfig.ServerName = cmp.Or(t.ServerName, o.TLSConfig.ServerName)
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return fmt.Errorf("redis tls.ca_file: %w", err)
		}
		o.TLSConfig.RootCAs = x509.NewCertPool()
		if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("redis tls.ca_file: %s contains no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return fmt.Errorf("redis tls.cert_file: %w", err)
		}
		o.TLSConfig.Certificates = []tls.Certificate{cert}
	}
	return nil
}

// String describes c without user or password.
func (c Config) String() string {
	switch {
	case !c.Enabled():
		return "none"
	case c.URL != "":
		u, err := c.parseURL()
		if err != nil {
			return "invalid url"
		}
		return u.Addr + "/" + strconv.Itoa(max(c.DB, u.DB))
	case c.MasterName != "":
		return "sentinel:" + c.MasterName + "@" + strings.Join(c.Addrs, ",")
	case c.Cluster:
		return "cluster:" + strings.Join(c.Addrs, ",")
	}
	return strings.Join(c.Addrs, ",") + "/" + strconv.Itoa(c.DB)
}

// GoString returns String, so that %#v prints no password either.
func (c Config) GoString() string { return c.String() }

// LogValue returns String, so that no log handler prints a password.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
