package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"jwtbouncer/authz"
)

// target is the parsed URL of a store.
type target struct {
	scheme string // "postgres" or "sqlite"
	raw    string // the whole URL; may contain a password
	path   string // SQLite's file
}

// CheckURL returns an error if raw is not the URL of a store. The error contains
// no user, password or host of the URL.
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
		if err := checkPostgres(raw); err != nil {
			return target{}, fmt.Errorf("postgres URL cannot be used: %w", err)
		}
		return target{scheme: "postgres", raw: raw}, nil
	case "sqlite":
		return parseSQLite(raw)
	}
	return target{}, fmt.Errorf("unknown scheme %s; postgres, postgresql and sqlite are supported", authz.QuoteURL(scheme[:min(len(scheme), 20)]))
}

// Exists reports whether there is a store at rawURL to open, as far as that can be
// told without a connection: false means that the SQLite file has not been created.
func Exists(rawURL string) bool {
	t, err := parseURL(rawURL)
	if err != nil || t.scheme != "sqlite" {
		return true
	}
	_, err = os.Stat(t.path)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkPostgres returns why raw cannot be used. The errors are ours, because those
// of net/url and pgconn repeat parts of the URL.
func checkPostgres(raw string) error {
	if err := authz.CheckUserinfo(raw); err != nil {
		return fmt.Errorf("%w, or keep the password in a file (store_password_file)", err)
	}
	base, query, _ := strings.Cut(raw, "?")
	_, rest, _ := strings.Cut(base, "://")
	authority, _, _ := strings.Cut(rest, "/")
	for host := range strings.SplitSeq(authority[strings.LastIndexByte(authority, '@')+1:], ",") {
		if strings.HasPrefix(host, "[") {
			_, host, _ = strings.Cut(host, "]")
		}
		if _, port, ok := strings.Cut(host, ":"); ok && port != "" {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return errors.New("its port is not a number from 1 to 65535")
			}
		}
	}
	if !usable(raw) {
		return blame(base, query)
	}
	return nil
}

func usable(raw string) bool {
	_, err := pgxpool.ParseConfig(raw) // net/url cannot parse several hosts (host1:5432,host2:5432)
	return err == nil
}

// blame returns the error for a URL that cannot be used. It names a parameter if the
// URL could be used without it, and not because of the text of an error, which also
// repeats host and user.
func blame(base, query string) error {
	pairs := strings.Split(query, "&")
	name := func(pair string) string { n, _, _ := strings.Cut(pair, "="); return n }
	without := func(names ...string) bool {
		left := slices.DeleteFunc(slices.Clone(pairs), func(pair string) bool { return slices.Contains(names, name(pair)) })
		return usable(base + "?" + strings.Join(left, "&"))
	}
	for _, pair := range pairs {
		if n := name(pair); slices.Contains(parameters, n) && without(n) {
			return fmt.Errorf("its %s cannot be used", n)
		}
	}
	if strings.Contains(query, "sslcert=") != strings.Contains(query, "sslkey=") || without("sslcert", "sslkey") {
		return errors.New("its sslcert and sslkey cannot be used; both are needed")
	}
	if without(parameters...) {
		return errors.New("several of its parameters cannot be used")
	}
	return errors.New("it is malformed (percent-encode what is special in user and password)")
}

// parameters are those whose values are checked, so that a message may name them.
var parameters = []string{
	"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslsni", "sslnegotiation", "target_session_attrs", "connect_timeout", "port", "service", "servicefile", "passfile",
	"channel_binding", "require_auth", "krbsrvname", "min_protocol_version", "max_protocol_version", "ssl_min_protocol_version", "ssl_max_protocol_version",
	"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime", "pool_max_conn_idle_time", "pool_health_check_period", "pool_max_conn_lifetime_jitter",
	"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity",
}

func parseSQLite(raw string) (target, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return target{}, errors.New("sqlite URL is malformed (percent-encode what is special in the path)")
	case u.Host != "":
		return target{}, errors.New("after sqlite:, three slashes and an absolute path are needed, as in sqlite:///var/lib/jwt-bouncer/revocations.db")
	case u.RawQuery != "" || u.Fragment != "":
		return target{}, errors.New("a sqlite URL takes no parameters")
	case !filepath.IsAbs(u.Path) || strings.HasSuffix(u.Path, "/"):
		return target{}, errors.New("the absolute path of a file is needed, as in sqlite:///var/lib/jwt-bouncer/revocations.db")
	}
	return target{scheme: "sqlite", raw: raw, path: filepath.Clean(u.Path)}, nil
}
