package rediscache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"jwtbouncer/authz"
)

// Config says where Redis (or Valkey) is and how long it may be waited
// for. In YAML it is either a URL alone or a mapping. The zero Config
// means: no Redis. It prints itself without secrets.
type Config struct {
	URL                  string        `yaml:"url" doc:"redis://, rediss:// (TLS) or unix:// address of a single server, with user, password and database; empty: see addrs."`
	Addrs                []string      `yaml:"addrs" doc:"host:port of a single server, of Cluster nodes (cluster: true) or of all Sentinels (master_name); empty: url is used."`
	MasterName           string        `yaml:"master_name" doc:"Name of the master the Sentinels in addrs watch; empty: no Sentinel."`
	Cluster              bool          `yaml:"cluster" doc:"True: addrs (or url) name nodes of a Redis Cluster."`
	DB                   int           `yaml:"db" doc:"Database number; 0 is the only one a Cluster has."`
	Username             string        `yaml:"username" doc:"ACL user; empty: the default user."`
	Password             string        `yaml:"password" doc:"Password in plain text; better leave it empty and use password_file or the environment."`
	PasswordFile         string        `yaml:"password_file" doc:"File with the password, read for every new connection so that it can be rotated; empty: none."`
	SentinelUsername     string        `yaml:"sentinel_username" doc:"ACL user at the Sentinels; empty: the default user."`
	SentinelPasswordFile string        `yaml:"sentinel_password_file" doc:"File with the password of the Sentinels, read for every new connection so that it can be rotated; empty: none."`
	TLS                  TLSConfig     `yaml:"tls" doc:"TLS towards the servers; rediss:// switches it on too."`
	Timeout              time.Duration `yaml:"timeout" doc:"Longest wait for one lookup, between 1ms and 1s; later the next tier is asked."`
	DialTimeout          time.Duration `yaml:"dial_timeout" doc:"Longest wait for a connection, TLS and login included, up to 5s."`
	PoolSize             int           `yaml:"pool_size" doc:"Connections per server at most, between 1 and 1000."`
	MaxTTL               time.Duration `yaml:"max_ttl" doc:"Upper limit on the lifetime of a cached token:valid entry; 0: max_staleness alone limits it."`
	LegacyKeys           bool          `yaml:"legacy_keys" doc:"True: keys token:revoked:{jti} with the bare jti, as older deployments write and read them, are honoured and written as well."`
}

// TLSConfig is TLS towards Redis. Certificates are always verified.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled" doc:"True: connect with TLS 1.2 or later."`
	CAFile     string `yaml:"ca_file" doc:"PEM file of the authorities to trust; empty: the system's."`
	CertFile   string `yaml:"cert_file" doc:"PEM file of the client certificate; empty: none. Needs key_file."`
	KeyFile    string `yaml:"key_file" doc:"PEM file of the client certificate's key; empty: none."`
	ServerName string `yaml:"server_name" doc:"Name expected in the server's certificate; empty: the host connected to."`
}

// DefaultConfig returns the defaults; there is no Redis in them.
func DefaultConfig() Config {
	return Config{
		// A check has 180 ms in all and Postgres may have to answer after this.
		Timeout:     50 * time.Millisecond,
		DialTimeout: time.Second,
		PoolSize:    32,
		MaxTTL:      time.Hour,
	}
}

// Enabled reports whether a Redis is configured.
func (c Config) Enabled() bool { return c.URL != "" || len(c.Addrs) > 0 }

// SetShorthand takes a URL in place of the mapping.
func (c *Config) SetShorthand(text string) { c.URL = text }

// Validate reports every fault of c. A configuration without Redis is valid.
func (c Config) Validate(fault authz.Fault) {
	if c.URL != "" {
		if _, err := c.parseURL(); err != nil {
			fault("url", "%v", err)
		}
		if len(c.Addrs) > 0 {
			fault("addrs", "either url or addrs can be given, not both")
		}
		if c.MasterName != "" {
			fault("url", "Sentinels are listed in addrs when master_name is given")
		}
	}
	for i, a := range c.Addrs {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			fault(fmt.Sprintf("addrs[%d]", i), "%q is not host:port", a)
		}
	}
	if !c.Enabled() && (c.MasterName != "" || c.Cluster) {
		fault("addrs", "must not be empty with master_name or cluster")
	}
	if c.MasterName != "" && c.Cluster {
		fault("cluster", "master_name (Sentinel) and cluster exclude one another")
	}
	if len(c.Addrs) > 1 && c.MasterName == "" && !c.Cluster {
		fault("addrs", "several addresses need cluster: true or master_name")
	}
	if c.DB < 0 || c.Cluster && c.DB != 0 {
		fault("db", "must be 0 with a Cluster and not negative elsewhere, is %d", c.DB)
	}
	if c.Password != "" && c.PasswordFile != "" {
		fault("password_file", "either password or password_file can be given, not both")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		fault("tls.cert_file", "cert_file and key_file need one another")
	}
	if c.Timeout < time.Millisecond || c.Timeout > time.Second {
		fault("timeout", "must be between 1ms and 1s, is %s", c.Timeout)
	}
	if c.DialTimeout <= 0 || c.DialTimeout > 5*time.Second {
		fault("dial_timeout", "must be above 0 and at most 5s, is %s", c.DialTimeout)
	}
	if c.PoolSize < 1 || c.PoolSize > 1000 {
		fault("pool_size", "must be between 1 and 1000, is %d", c.PoolSize)
	}
	if c.MaxTTL < 0 {
		fault("max_ttl", "must not be negative, is %s", c.MaxTTL)
	}
}

// parseURL never repeats the URL in an error: it may hold the password.
func (c Config) parseURL() (*redis.Options, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("is not a URL; redis://user:password@host:6379/0, rediss://… or unix:///path is expected")
	}
	switch u.Scheme {
	case "redis", "rediss", "unix":
	default:
		return nil, fmt.Errorf("scheme %q is unknown; redis, rediss or unix is expected", u.Scheme)
	}
	for name := range u.Query() {
		if name != "db" { // go-redis would let timeouts and retries be set here, past this file's reasons
			return nil, fmt.Errorf("parameter %q is not supported; use the mapping form", name)
		}
	}
	o, err := redis.ParseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("has an invalid host, path or database")
	}
	return o, nil
}

// options turns c into the client's options. Files are read here.
func (c Config) options() (*redis.UniversalOptions, error) {
	o := &redis.UniversalOptions{
		Addrs: c.Addrs, MasterName: c.MasterName, IsClusterMode: c.Cluster, DB: c.DB,
		Username: c.Username, Password: c.Password, SentinelUsername: c.SentinelUsername,
		ClientName: "jwt-bouncer",
		// Nothing here needs RESP3, and every proxy and older server speaks RESP2.
		Protocol: 2,
		// Without it go-redis ignores the check's deadline and waits ReadTimeout.
		ContextTimeoutEnabled: true,
		// A retry spends a request's time on a server that just failed; the next
		// tier is the better retry. (0 would mean 3.)
		MaxRetries: -1,
		// A Cluster that moves a slot answers MOVED: one redirection serves that.
		MaxRedirects: 1,
		DialTimeout:  c.DialTimeout,
		// The default of 5 attempts per dial would keep dialling a dead server
		// long after the request that wanted the connection has gone.
		DialerRetries: 1,
		// Bounds for background work; a lookup's context ends earlier.
		ReadTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond,
		PoolSize: c.PoolSize, MaxActiveConns: c.PoolSize,
		// Pipelines share that bound instead of adding a pool of their own.
		PipelinePoolSize: -1,
		// No dial storm: after an outage connections come back a few at a time.
		MaxConcurrentDials: min(4, c.PoolSize),
		// A full pool means overload; waiting in line for it only adds to that.
		PoolTimeout:     c.Timeout,
		ConnMaxIdleTime: 5 * time.Minute,
		// Connections move to new nodes behind a load balancer without a restart,
		// not all of them at once.
		ConnMaxLifetime: 30 * time.Minute, ConnMaxLifetimeJitter: 10 * time.Minute,
		// Both send extra commands while connecting that some servers refuse.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if c.URL != "" {
		u, err := c.parseURL()
		if err != nil {
			return nil, fmt.Errorf("redis url: %w", err)
		}
		o.Addrs = []string{u.Addr}
		if u.DB != 0 {
			o.DB = u.DB
		}
		if u.Username != "" && o.Username == "" {
			o.Username = u.Username
		}
		if u.Password != "" && o.Password == "" {
			o.Password = u.Password
		}
		o.TLSConfig = u.TLSConfig
	}
	if err := c.TLS.apply(o); err != nil {
		return nil, err
	}
	o.Dialer = guarded(redis.NewDialer(&redis.Options{DialTimeout: o.DialTimeout, TLSConfig: o.TLSConfig}))
	o.CredentialsProviderContext = credentials("password_file", o.Username, c.PasswordFile)
	for _, login := range []credentialsFunc{o.CredentialsProviderContext, c.sentinelCredentials()} {
		if login == nil {
			continue
		}
		if _, _, err := login(context.Background()); err != nil { // a wrong path is told at once, not at the first connection
			return nil, err
		}
	}
	return o, nil
}

// credentialsFunc tells a new connection its user and password.
type credentialsFunc = func(context.Context) (user, password string, err error)

// sentinelCredentials is for connections to the Sentinels; nil: no file.
func (c Config) sentinelCredentials() credentialsFunc {
	return credentials("sentinel_password_file", c.SentinelUsername, c.SentinelPasswordFile)
}

// credentials reads the password's file for every connection, so that it can be
// rotated. nil: no file.
func credentials(key, user, file string) credentialsFunc {
	if file == "" {
		return nil
	}
	return func(context.Context) (string, string, error) {
		password, err := readSecret(file)
		if err != nil {
			return "", "", fmt.Errorf("redis %s: %w", key, err)
		}
		return user, password, nil
	}
}

func (t TLSConfig) apply(o *redis.UniversalOptions) error {
	if !t.Enabled && o.TLSConfig == nil {
		if t != (TLSConfig{}) {
			return fmt.Errorf("redis tls: files are given, but neither tls.enabled nor rediss://")
		}
		return nil
	}
	if o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{}
	}
	o.TLSConfig.MinVersion = tls.VersionTLS12
	if t.ServerName != "" {
		o.TLSConfig.ServerName = t.ServerName
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return fmt.Errorf("redis tls.ca_file: %w", err)
		}
		o.TLSConfig.RootCAs = x509.NewCertPool()
		if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("redis tls.ca_file: %s holds no certificate", t.CAFile)
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

func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(b), "\r\n"), nil
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

// GoString is String, so that %#v cannot print a password either.
func (c Config) GoString() string { return c.String() }

// LogValue is String, so that no log handler prints a password.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
