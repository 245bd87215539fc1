package issuer

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
)

// maxDocument bounds key sets and discovery documents, in bytes.
const maxDocument = 1 << 20

// keySource is where an issuer's key set comes from.
type keySource interface {
	// fetch returns the document as it is now. It ends by ctx's deadline and
	// reads no more than maxDocument. Calls are not concurrent.
	fetch(ctx context.Context) ([]byte, error)
}

// newKeySource chooses the source that c.JWKS names. transport nil: one of
// its own, which close ends.
func newKeySource(c Config, transport http.RoundTripper, clock authz.Clock) (_ keySource, closeIdle func(), err error) {
	if path, ok := c.keyFile(); ok {
		return fileSource{path: path}, func() {}, nil
	}
	if transport == nil {
		t, err := fetch.NewTransport(c.CAFile, c.FetchTimeout)
		if err != nil {
			return nil, nil, err
		}
		transport, closeIdle = t, t.CloseIdleConnections
	} else {
		closeIdle = func() {}
	}
	client := &http.Client{Transport: transport, CheckRedirect: fetch.SameOrigin}
	if c.JWKS != "" {
		return &urlSource{client: client, url: c.JWKS, timeout: c.FetchTimeout}, closeIdle, nil
	}
	return &discoverySource{client: client, issuer: c.Issuer, timeout: c.FetchTimeout, clock: clock}, closeIdle, nil
}

// keyFile returns the path of the key set, if a file is what c.JWKS names.
func (c Config) keyFile() (string, bool) {
	if path, ok := strings.CutPrefix(c.JWKS, "file://"); ok {
		return path, true
	}
	return c.JWKS, c.JWKS != "" && !strings.Contains(c.JWKS, "://")
}

// plaintext reports whether the keys come over http from beyond this host.
func (c Config) plaintext() bool {
	from := cmp.Or(c.JWKS, c.Issuer)
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

func get(ctx context.Context, client *http.Client, from string, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	return fetch.Do(client, req, "", maxDocument)
}

type urlSource struct {
	client  *http.Client
	url     string
	timeout time.Duration
}

func (s *urlSource) fetch(ctx context.Context) ([]byte, error) {
	return get(ctx, s.client, s.url, s.timeout)
}

// discoverySource finds the key set by OpenID Connect Discovery 1.0, section 4.
type discoverySource struct {
	client  *http.Client
	issuer  string
	timeout time.Duration
	clock   authz.Clock

	jwks  string        // what discovery said; empty: ask it
	until time.Duration // Clock.Boot when to ask it again
}

const discoveryTTL = time.Hour

func (s *discoverySource) fetch(ctx context.Context) ([]byte, error) {
	if now := s.clock.Boot(); s.jwks == "" || now > s.until {
		from, err := s.discover(ctx)
		if err != nil {
			return nil, err
		}
		s.jwks, s.until = from, now+discoveryTTL
	}
	b, err := get(ctx, s.client, s.jwks, s.timeout)
	if err != nil {
		s.jwks = "" // it may have moved
	}
	return b, err
}

func (s *discoverySource) discover(ctx context.Context) (string, error) {
	from := strings.TrimSuffix(s.issuer, "/") + "/.well-known/openid-configuration"
	b, err := get(ctx, s.client, from, s.timeout)
	if err != nil {
		return "", err
	}
	m, err := jose.ParseObject(string(b))
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	if m["issuer"] != s.issuer { // section 4.3: an exact match, or anybody's keys would do
		return "", fmt.Errorf("%s is the configuration of another issuer than %s", from, s.issuer)
	}
	text, _ := m["jwks_uri"].(string)
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http"):
		return "", fmt.Errorf("%s: jwks_uri is no http(s) URL", from)
	case u.Scheme == "http" && strings.HasPrefix(s.issuer, "https:"):
		return "", fmt.Errorf("%s: jwks_uri leaves https", from)
	}
	return text, nil
}

type fileSource struct{ path string }

func (s fileSource) fetch(context.Context) ([]byte, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe or device could block for ever
		return nil, fmt.Errorf("%s is not a regular file", s.path)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := fetch.ReadBounded(f, maxDocument)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path, err)
	}
	return b, nil
}
