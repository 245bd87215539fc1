package store

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// target is the parsed URL of a store.
type target struct {
	scheme string // "postgres" or "sqlite"
	raw    string // the whole URL; may contain a password
	path   string // SQLite's file
}

// CheckURL returns an error if raw is not the URL of a store. The error contains
// no part of the URL, and does not name the setting either.
func CheckURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

// CheckStandbyURL returns an error, without a part of the URL, if raw is not the
// URL of a Postgres server.
func CheckStandbyURL(raw string) error {
	t, err := parseURL(raw)
	if err == nil && t.scheme != "postgres" {
		err = errors.New("a URL is needed: postgres://user@host/db")
	}
	return err
}

func parseURL(raw string) (target, error) {
	scheme, _, found := strings.Cut(raw, "://")
	if !found {
		return target{}, errors.New("a URL is needed: postgres://user@host/db or sqlite:///absolute/path")
	}
	switch scheme {
	case "postgres", "postgresql":
		// net/url cannot parse several hosts (host1:5432,host2:5432). The error
		// is ours, because pgconn's repeats parts of the URL.
		if _, err := pgconn.ParseConfig(raw); err != nil {
			return target{}, fmt.Errorf("postgres URL cannot be used: %s", why(err))
		}
		return target{scheme: "postgres", raw: raw}, nil
	case "sqlite":
		return parseSQLite(raw)
	}
	return target{}, fmt.Errorf("unknown scheme %.20q; postgres, postgresql and sqlite are supported", scheme)
}

// why returns the innermost cause that cannot contain a part of the URL.
func why(err error) string {
	var parse *url.Error
	if errors.As(err, &parse) {
		return "it is malformed (percent-encode what is special in user and password)"
	}
	var config *pgconn.ParseConfigError
	if errors.As(err, &config) {
		for _, hint := range []string{"sslmode", "target_session_attrs", "port", "connect_timeout", "sslrootcert", "sslcert", "sslkey", "service", "passfile", "channel_binding"} {
			if strings.Contains(config.Error(), hint) {
				return "its " + hint + " cannot be used"
			}
		}
	}
	return "it is malformed"
}

func parseSQLite(raw string) (target, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return target{}, errors.New("sqlite URL is malformed (percent-encode what is special in the path)")
	case u.Host != "":
		return target{}, fmt.Errorf("sqlite://%s…: three slashes and an absolute path are needed, as in sqlite:///var/lib/jwt-bouncer/revocations.db", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return target{}, errors.New("a sqlite URL takes no parameters")
	case !filepath.IsAbs(u.Path) || strings.HasSuffix(u.Path, "/"):
		return target{}, errors.New("the absolute path of a file is needed, as in sqlite:///var/lib/jwt-bouncer/revocations.db")
	}
	return target{scheme: "sqlite", raw: raw, path: filepath.Clean(u.Path)}, nil
}
