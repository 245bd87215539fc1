package store

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// target is where a store is.
type target struct {
	scheme string // "postgres" or "sqlite"
	raw    string // the whole URL; may hold a password
	path   string // SQLite's file
}

// CheckURL reports what is wrong with a store's URL, without its password.
func CheckURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

func parseURL(raw string) (target, error) {
	scheme, _, found := strings.Cut(raw, "://")
	if !found {
		return target{}, errors.New("store: a URL is needed: postgres://user@host/db or sqlite:///absolute/path")
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the URL, password included.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return target{}, fmt.Errorf("store: %s URL cannot be parsed: %w", quoteScheme(scheme), err)
	}
	switch u.Scheme {
	case "postgres", "postgresql":
		return target{scheme: "postgres", raw: raw}, nil
	case "sqlite":
		switch {
		case u.Host != "":
			return target{}, fmt.Errorf("store: sqlite://%s…: three slashes and an absolute path are needed, as in sqlite:///var/lib/jwt-bouncer/revocations.db", u.Host)
		case u.RawQuery != "" || u.Fragment != "":
			return target{}, errors.New("store: a sqlite URL takes no parameters")
		case !filepath.IsAbs(u.Path) || strings.HasSuffix(u.Path, "/"):
			return target{}, errors.New("store: the absolute path of a file is needed, as in sqlite:///var/lib/jwt-bouncer/revocations.db")
		}
		return target{scheme: "sqlite", raw: raw, path: filepath.Clean(u.Path)}, nil
	}
	return target{}, fmt.Errorf("store: unknown scheme %s; postgres, postgresql and sqlite are supported", quoteScheme(scheme))
}

func quoteScheme(s string) string {
	if len(s) > 20 {
		s = s[:20] + "…"
	}
	return fmt.Sprintf("%q", s)
}
