package sidecar

import (
	"net/url"
	"strings"

	"jwtbouncer/authz/config"
)

// Flag is a value from the command line; it wins over everything.
type Flag struct {
	Name  string // as it is typed: --store
	Key   string // what it sets: store
	Value string
}

// secretFiles are the keys that take the password of a URL out of it.
var secretFiles = map[string]string{"store": "store_password_file", "redis.url": "redis.password_file"}

func (s *Settings) setFlags(f *config.File, flags []Flag) {
	for _, flag := range flags {
		f.SetFlag(s, flag.Key, flag.Name, flag.Value)
		if file, secret := secretFiles[flag.Key]; secret && hasPassword(flag.Value) {
			f.Invalid(flag.Key, "the URL holds a password, and flags can be read by everybody on this machine; use %s, or give the whole URL in the file or in %s", file, config.EnvName(flag.Key))
		}
	}
}

// hasPassword reports whether a URL holds a password, in front of its host or
// in its query. It need not be one that net/url understands: several hosts are
// none.
func hasPassword(raw string) bool {
	_, rest, _ := strings.Cut(raw, "://")
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	host, _, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		if _, password, _ := strings.Cut(host[:at], ":"); password != "" {
			return true
		}
	}
	values, err := url.ParseQuery(query)
	for name := range values {
		if strings.Contains(strings.ToLower(name), "password") { // sslpassword, too
			return true
		}
	}
	return err != nil && strings.Contains(strings.ToLower(query), "password")
}
