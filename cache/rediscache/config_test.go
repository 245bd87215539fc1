package rediscache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/config"
)

type redisStanza struct {
	Redis Config `yaml:"redis"`
}

func loadRedis(text string) (Config, error) {
	s := redisStanza{Redis: DefaultConfig()}
	err := config.Parse("test.yaml", []byte(text), &s).Err()
	return s.Redis, err
}

func TestConfigYAML(t *testing.T) {
	t.Parallel()
	with := func(change func(*Config)) Config {
		c := DefaultConfig()
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		yaml string
		want Config
	}{
		"left out": {"{}", DefaultConfig()},
		"a URL":    {"redis: redis://localhost:6379/2", with(func(c *Config) { c.URL = "redis://localhost:6379/2" })},
		"a mapping": {"redis:\n  url: rediss://h:1\n  timeout: 20ms\n  legacy_keys: true", with(func(c *Config) {
			c.URL, c.Timeout, c.LegacyKeys = "rediss://h:1", 20*time.Millisecond, true
		})},
		"a cluster": {"redis:\n  addrs: [a:1, b:2]\n  cluster: true\n  tls: {enabled: true}", with(func(c *Config) {
			c.Addrs, c.Cluster, c.TLS.Enabled = []string{"a:1", "b:2"}, true, true
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := loadRedis(c.yaml)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(fields(c.want), fields(got)))
			got.Validate(func(path, format string, args ...any) { t.Errorf(path+": "+format, args...) })
		})
	}
	_, err := loadRedis("redis:\n  url: redis://h:1\n  tiemout: 1s")
	require.ErrorContains(t, err, "test.yaml:3:3: redis.tiemout: unknown key")
}

// fields returns all fields, including those that String hides.
func fields(c Config) string {
	type plain Config
	b, _ := json.Marshal(plain(c))
	return string(b)
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		yaml string
		want []string // paths of invalid fields
	}{
		"scheme":             {"redis: http://h:1", []string{"url"}},
		"number":             {"redis: 6379", []string{"url"}},
		"database":           {"redis: redis://h:1/x", []string{"url"}},
		"parameter":          {"redis: redis://h:1/0?read_timeout=9s", []string{"url"}},
		"both":               {"redis: {url: 'redis://h:1', addrs: ['h:2']}", []string{"addrs"}},
		"not host:port":      {"redis: {addrs: [h]}", []string{"addrs[0]"}},
		"several":            {"redis: {addrs: ['h:1', 'i:1']}", []string{"addrs"}},
		"sentinel + cluster": {"redis: {addrs: ['h:1'], cluster: true, master_name: m}", []string{"cluster"}},
		"no address":         {"redis: {cluster: true}", []string{"addrs"}},
		"all at once": {"redis: {url: 'redis://h:1', timeout: 2s, dial_timeout: 0s, pool_size: 0, max_ttl: -1s, db: -1, tls: {cert_file: x}, password: p, password_file: f}",
			[]string{"db", "password_file", "tls.cert_file", "timeout", "dial_timeout", "pool_size", "max_ttl"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := loadRedis(c.yaml)
			require.NoError(t, err)
			var paths []string
			got.Validate(func(path, format string, args ...any) {
				paths = append(paths, path)
				require.NotContains(t, fmt.Sprintf(format, args...), "%!")
			})
			require.Equal(t, c.want, paths)
		})
	}
}

func TestConfigHidesSecrets(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	for _, text := range []string{
		"redis: redis://user:hunter2@h:1/0", "redis: 'redis://user:hunter2@h:1/x y'", "redis: 'redis://user:hunter2%zz@h:1'",
		"redis: 'foo://user:hunter2@h'", "redis: {addrs: ['h:1'], password: hunter2}", "redis: 'redis://user:hunter2@h:1?hunter2'",
	} {
		c, err := loadRedis(text)
		require.NoError(t, err)
		log := slog.New(slog.NewJSONHandler(&logged, nil))
		log.Info("x", "redis", c)
		fmt.Fprintf(&logged, "%v %+v %#v %s", c, c, c, c)
		if !strings.Contains(text, "?hunter2") { // the name of a parameter is not a secret
			c.Validate(func(path, format string, args ...any) { fmt.Fprintf(&logged, path+format, args...) })
		}
		_, err = Open(Config{URL: c.URL}, Options{MaxStaleness: -1})
		fmt.Fprint(&logged, err)
	}
	require.NotContains(t, logged.String(), "hunter2")
}

func TestConfigFiles(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("first\n"), 0o600))
	c := DefaultConfig()
	c.Addrs, c.Username, c.PasswordFile = []string{"h:1"}, "u", secret
	o, err := c.options()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(secret, []byte("second\n"), 0o600))
	user, password, err := o.CredentialsProviderContext(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"u", "second"}, []string{user, password}, "the next connection uses the rotated password")
	require.NoError(t, os.Remove(secret))
	_, _, err = o.CredentialsProviderContext(t.Context())
	require.ErrorContains(t, err, "redis password_file: open "+secret)
	require.NoError(t, os.WriteFile(secret, []byte("third\n"), 0o600))

	for name, change := range map[string]func(*Config){
		"password_file":          func(c *Config) { c.PasswordFile = "/nonexistent" },
		"sentinel_password_file": func(c *Config) { c.SentinelPasswordFile = "/nonexistent" },
		"tls.ca_file":            func(c *Config) { c.TLS = TLSConfig{Enabled: true, CAFile: secret} },
		"tls.cert_file":          func(c *Config) { c.TLS = TLSConfig{Enabled: true, CertFile: secret, KeyFile: secret} },
		"tls":                    func(c *Config) { c.TLS = TLSConfig{CAFile: secret} },
	} {
		c := DefaultConfig()
		c.Addrs = []string{"h:1"}
		change(&c)
		_, err := Open(c, Options{MaxStaleness: time.Second})
		require.ErrorContains(t, err, name)
	}
}

// The next connection to a Sentinel uses the rotated password.
func TestSentinelPasswordRotates(t *testing.T) {
	t.Parallel()
	shown := make(chan string, 10)
	secret := filepath.Join(t.TempDir(), "password")
	c := DefaultConfig()
	c.MasterName, c.SentinelUsername, c.SentinelPasswordFile = "main", "u", secret
	c.Addrs = []string{lie(t, func(command []string) string {
		switch command[0] {
		case "auth":
			shown <- strings.Join(command[1:], " ")
		case "sentinel":
			return "\r\n" // no answer: the next question comes on another connection
		}
		return greet(command)
	})}
	require.NoError(t, os.WriteFile(secret, []byte("first\n"), 0o600))
	o, err := c.options()
	require.NoError(t, err)
	s := newSentinels(o, c.sentinelCredentials())
	defer s.close()
	for _, password := range []string{"first", "second"} {
		require.NoError(t, os.WriteFile(secret, []byte(password+"\n"), 0o600))
		_, err := s.masterAddr(t.Context())
		require.Error(t, err)
		require.Equal(t, "u "+password, <-shown)
	}
	require.NoError(t, os.Remove(secret))
	_, err = s.masterAddr(t.Context())
	require.ErrorContains(t, err, "redis sentinel_password_file: open "+secret)
	require.Empty(t, shown)
}

// These options limit the harm of a dead server; config.go has the reason for each.
func TestOptions(t *testing.T) {
	t.Parallel()
	c := DefaultConfig()
	c.URL = "rediss://u:p@h:1/3"
	o, err := c.options()
	require.NoError(t, err)
	require.True(t, o.ContextTimeoutEnabled)
	require.Equal(t, -1, o.MaxRetries)
	require.Equal(t, 1, o.DialerRetries)
	require.Equal(t, c.PoolSize, o.MaxActiveConns)
	require.Less(t, o.MaxConcurrentDials, o.PoolSize)
	require.Equal(t, []any{"u", "p", 3, "h"}, []any{o.Username, o.Password, o.DB, o.TLSConfig.ServerName})
}
