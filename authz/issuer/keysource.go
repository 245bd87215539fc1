package issuer

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
)

// keySource returns an issuer's key set as it is now. It returns by ctx's
// deadline and reads at most LimitsConfig.SetBytes. Calls are not concurrent.
type keySource func(ctx context.Context) (fetch.Document, error)

// keySource returns the source that the configuration names. transport nil: one
// of its own. maxBytes bounds key sets and discovery documents.
func (c Config) keySource(transport http.RoundTripper, clock authz.Clock, maxBytes int) (keySource, error) {
	if path, ok := c.keyFile(); ok {
		return func(context.Context) (fetch.Document, error) { return readKeyFile(path, maxBytes) }, nil
	}
	client, err := fetch.NewClient(fetch.ClientOptions{Transport: transport, Config: c.Config, Timeout: c.FetchTimeout, ConnsPerHost: 2})
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(c.source())
	if err != nil {
		return nil, err
	}
	get := c.getter(client, base, maxBytes)
	if c.JWKS != "" {
		return func(ctx context.Context) (fetch.Document, error) { return get(ctx, c.JWKS) }, nil
	}
	return (&discovery{get: get, issuer: c.Issuer, base: c.source(), clock: clock}).fetch, nil
}

// getter returns the function that fetches keys and discovery documents. base is
// the URL whose host gets the bearer token.
func (c Config) getter(client *http.Client, base *url.URL, maxBytes int) func(ctx context.Context, from string) (fetch.Document, error) {
	return func(ctx context.Context, from string) (d fetch.Document, err error) {
		ctx, cancel := context.WithTimeout(ctx, c.FetchTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
		if err != nil {
			return d, err
		}
		// A discovery document must not choose who gets the token.
		sent := req.URL.Scheme == base.Scheme && req.URL.Host == base.Host
		if c.BearerTokenFile != "" && sent {
			if err := fetch.SetBearerToken(req, c.BearerTokenFile); err != nil {
				return d, fmt.Errorf("bearer_token_file: %w", err)
			}
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		d, err = fetch.Do(client, req, "", maxBytes)
		if err != nil && c.BearerTokenFile != "" && !sent {
			err = fmt.Errorf("%w (bearer_token_file is sent to %s only; set jwks to this URL to send it there)", err, base.Host)
		}
		return d, err
	}
}

// keyFile returns the path of the key set if c.JWKS names a file.
func (c Config) keyFile() (string, bool) {
	if path, ok := strings.CutPrefix(c.JWKS, "file://"); ok {
		return path, true
	}
	return c.JWKS, c.JWKS != "" && !strings.Contains(c.JWKS, "://")
}

// plaintext reports whether the keys come over http from another host.
func (c Config) plaintext() bool {
	u, err := url.Parse(c.source())
	return err == nil && u.Scheme == "http" && !authz.IsLoopback(u.Hostname())
}

// discovery finds the key set by OpenID Connect Discovery 1.0, section 4.
type discovery struct {
	get    func(ctx context.Context, from string) (fetch.Document, error)
	issuer string // as the document must name it
	base   string // URL below which the document is
	clock  authz.Clock

	jwks  string        // from the last discovery document; empty: fetch the document
	until time.Duration // Clock.Boot from which the document is fetched again
}

const discoveryTTL = time.Hour

func (d *discovery) fetch(ctx context.Context) (fetch.Document, error) {
	if now := d.clock.Boot(); d.jwks == "" || now > d.until {
		jwks, err := d.discover(ctx)
		if err != nil {
			return fetch.Document{}, err
		}
		d.jwks, d.until = jwks, now+discoveryTTL
	}
	set, err := d.get(ctx, d.jwks)
	if err != nil {
		d.jwks = "" // the key set may have moved
	}
	return set, err
}

func (d *discovery) discover(ctx context.Context) (string, error) {
	from := openIDConfiguration(d.base)
	m, err := d.metadata(ctx, from)
	if err != nil {
		return "", err
	}
	return d.keySetURL(from, m)
}

// openIDConfiguration returns the URL of the issuer's discovery document by OpenID
// Connect Discovery 1.0, section 4.
func openIDConfiguration(base string) string {
	return strings.TrimSuffix(base, "/") + "/.well-known/openid-configuration"
}

// metadata returns the discovery document at the URL from, which must be the
// issuer's own.
func (d *discovery) metadata(ctx context.Context, from string) (map[string]any, error) {
	document, err := d.get(ctx, from)
	if err != nil {
		return nil, err
	}
	m, err := jose.ParseDocument(document.Body)
	if err != nil {
		return nil, fmt.Errorf("%s where a discovery document is needed: %w", document, err)
	}
	claimed, ok := m["issuer"].(string)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s where a discovery document is needed: it names no issuer", document)
	case claimed != d.issuer: // section 4.3: an exact match, or anyone's keys would be accepted
		return nil, &MismatchError{From: from, Claimed: claimed, Issuer: d.issuer}
	}
	return m, nil
}

// keySetURL returns the jwks_uri of the discovery document that came from the URL
// from.
func (d *discovery) keySetURL(from string, m map[string]any) (string, error) {
	text, _ := m["jwks_uri"].(string)
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http"):
		return "", fmt.Errorf("%s: jwks_uri is not an http(s) URL", from)
	case u.Scheme == "http" && strings.HasPrefix(d.issuer, "https:"):
		return "", fmt.Errorf("%s: jwks_uri leaves https", from)
	}
	return text, nil
}

func readKeyFile(path string, maxBytes int) (d fetch.Document, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return d, err
	}
	if !info.Mode().IsRegular() { // reading a pipe or device could block
		return d, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	b, err := fetch.ReadBounded(f, maxBytes)
	if err != nil {
		return d, fmt.Errorf("read %s: %w", path, err)
	}
	return fetch.Document{Body: b, From: path}, nil
}
