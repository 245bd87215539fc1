package sidecar

import (
	"net/url"
	"strings"

	"jwtbouncer/authz/config"
)

// Flag is a value from the command line. It overrides all other sources.
type Flag struct {
	Name  string // such as "--store"
	Key   string // of the configuration, such as "store"
	Value string
}

// secretFiles are the keys, by that of a URL, of the file with its password.
var secretFiles = map[string]string{"store": "store_password_file", "redis.url": "redis.password_file"}

func (s *Settings) setFlags(f *config.File, flags []Flag) {
	for _, flag := range flags {
		f.SetFlag(s, flag.Key, flag.Name, flag.Value)
		if file, secret := secretFiles[flag.Key]; secret && hasPassword(flag.Value) {
			f.Invalid(flag.Key, "the URL contains a password, and every user of this machine can read flags; use %s, or give the whole URL in the file or in %s", file, config.EnvName(flag.Key))
		}
	}
}

// hasPassword reports whether a URL contains a password, before its host or in its
// query. net/url cannot parse every URL: those with several hosts are invalid to it.
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
		if strings.Contains(strings.ToLower(name), "password") { // also sslpassword
			return true
		}
	}
	return err != nil && strings.Contains(strings.ToLower(query), "password")
}
