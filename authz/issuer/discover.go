package issuer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
)

// Metadata is what an issuer publishes about itself.
type Metadata struct {
	From    string         // URL of the document
	OpenID  bool           // found by OpenID Connect Discovery; false: by RFC 8414 only, so that jwks must be set
	JWKS    string         // URL of the key set
	Members map[string]any // of the document
	// Algorithms are the signature algorithms that the issuer advertises for ID
	// tokens, and those that a published key is for, as far as they can be
	// accepted, in the order of jose.SupportedAlgorithms. Empty: it names none. No
	// specification has a member for the algorithms of access tokens.
	Algorithms []string
}

// MismatchError says that a discovery document is another issuer's.
type MismatchError struct {
	From    string // URL of the document
	Claimed string // the issuer that the document names
	Issuer  string // the issuer that was asked for
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s is the configuration of the issuer %s, not of %s", e.From, authz.QuoteShort(e.Claimed), e.Issuer)
}

// NoKeysError says that an issuer's key set has no usable key.
type NoKeysError struct {
	JWKS string // URL of the key set
	Why  string
}

func (e *NoKeysError) Error() string { return e.JWKS + " contains no usable key: " + e.Why }

// Discover asks the issuer for its metadata, by OpenID Connect Discovery 1.0 and
// else by RFC 8414, and for its keys. c needs Issuer; FetchTimeout bounds each
// request (0 means 2 s), and the other keys say how the issuer is reached.
// transport nil: one of its own. The error is a *MismatchError, a *NoKeysError or
// what kept a document from being read.
func Discover(ctx context.Context, c Config, transport http.RoundTripper) (*Metadata, error) {
	c = c.withDefaults(0)
	limits := LimitsConfig{}.withDefaults()
	base, err := url.Parse(c.source())
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("the issuer %s is not an http(s) URL", authz.QuoteURL(c.Issuer))
	}
	client, err := fetch.NewClient(fetch.ClientOptions{Transport: transport, Config: c.Config, Timeout: c.FetchTimeout, ConnsPerHost: 2})
	if err != nil {
		return nil, err
	}
	d := &discovery{get: c.getter(client, base, limits.SetBytes), issuer: c.Issuer, base: c.source()}
	m := &Metadata{From: openIDConfiguration(d.base), OpenID: true}
	m.Members, err = d.metadata(ctx, m.From)
	var status fetch.StatusError
	if errors.As(err, &status) && status >= 400 && status < 500 {
		m.From, m.OpenID = authorizationServerMetadata(base), false
		var other error
		if m.Members, other = d.metadata(ctx, m.From); other == nil || !errors.As(other, &status) {
			err = other // there is such a document: what it says counts
		}
	}
	if err != nil {
		return nil, err
	}
	if m.JWKS, err = d.keySetURL(m.From, m.Members); err != nil {
		return nil, err
	}
	document, err := d.get(ctx, m.JWKS)
	if err != nil {
		return nil, err
	}
	set, err := jose.ParseJWKS(document.Body, c.SetRules(limits))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s where a JWK set is needed: %w", document, err)
	case set.Len() == 0:
		return nil, &NoKeysError{JWKS: m.JWKS, Why: whyNone(set)}
	}
	m.Algorithms = algorithms(m.Members, set)
	return m, nil
}

// authorizationServerMetadata returns the URL of the metadata by RFC 8414,
// section 3.1, which stands between the issuer's host and its path.
func authorizationServerMetadata(issuer *url.URL) string {
	u := *issuer
	u.Path, u.RawPath = "/.well-known/oauth-authorization-server"+strings.TrimSuffix(issuer.Path, "/"), ""
	return u.String()
}

func whyNone(set *jose.KeySet) string {
	refused := set.Refused()
	if len(refused) == 0 {
		return "it is empty"
	}
	return fmt.Sprintf("keys[%d] %s", refused[0].Index, refused[0].Reason)
}

func algorithms(members map[string]any, set *jose.KeySet) []string {
	advertised, _ := members["id_token_signing_alg_values_supported"].([]any)
	ofKeys := set.Algorithms()
	var out []string
	for _, alg := range jose.SupportedAlgorithms {
		if slices.Contains(advertised, any(alg)) || slices.Contains(ofKeys, alg) {
			out = append(out, alg)
		}
	}
	return out
}
