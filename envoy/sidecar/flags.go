package sidecar

import (
	"net/url"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/secretfile"
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

// hasPassword reports whether a URL contains a password.
func hasPassword(raw string) bool { return len(passwords(raw)) > 0 }

// passwords returns the passwords that a URL contains, before its host or in its
// query. net/url cannot parse every URL: those with several hosts are invalid to it.
func passwords(raw string) (all []string) {
	_, rest, _ := strings.Cut(raw, "://")
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	host, _, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		if _, password, _ := strings.Cut(host[:at], ":"); password != "" {
			all = append(all, password)
		}
	}
	values, err := url.ParseQuery(query)
	for name, value := range values {
		if strings.Contains(strings.ToLower(name), "password") { // also sslpassword
			all = append(all, value...)
		}
	}
	if err != nil && strings.Contains(strings.ToLower(query), "password") {
		all = append(all, query)
	}
	return all
}

// checkPlaceholders reports passwords outside of files that an example has
// published. Those in files are checked when they are read.
func (s *Settings) checkPlaceholders(report authz.Report) {
	check := func(path string, secrets ...string) {
		for _, secret := range secrets {
			if unescaped, err := url.PathUnescape(secret); err == nil {
				secret = unescaped
			}
			if err := secretfile.CheckPlaceholder(secret); err != nil {
				report(path, "the password %s", err)
			}
		}
	}
	check("store", passwords(s.Store)...)
	for i, standby := range s.StoreStandby {
		check(authz.ItemPath("store_standby", i), passwords(standby)...)
	}
	check("redis.url", passwords(s.Redis.URL)...)
	check("redis.password", s.Redis.Password)
}
