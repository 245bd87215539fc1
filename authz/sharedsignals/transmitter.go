package sharedsignals

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/secretfile"
)

// TransmitterConfig says who a transmitter is, and how this receiver is authorized
// there. SSF 1.0 prescribes no scheme (section 7.1.1); a bearer token is what its
// interoperability profile uses.
type TransmitterConfig struct {
	Transmitter      string   `yaml:"transmitter" doc:"Issuer identifier of the transmitter, the iss of its security event tokens; it must be under issuers. Its metadata is read at /.well-known/ssf-configuration, between its host and its path."`
	Hosts            []string `yaml:"hosts" doc:"Hosts, with a port unless it is 443, that the transmitter's metadata and streams may name besides the transmitter's own host. Requests to them carry the token. Empty: none."`
	TokenFile        string   `yaml:"token_file" doc:"File with the bearer token for the transmitter; one line, which is read for every request, so that it can be rotated."`
	TokenURL         string   `yaml:"token_url" doc:"OAuth 2.0 token endpoint from which a token is had with the client's credentials (RFC 6749, section 4.4), instead of token_file."`
	ClientID         string   `yaml:"client_id" doc:"Client of the token endpoint, which it authenticates by HTTP Basic."`
	ClientSecretFile string   `yaml:"client_secret_file" doc:"File with the client's secret; one line, which is read for every token, so that it can be rotated."`
	Scopes           []string `yaml:"scopes" doc:"Scopes of the token, such as ssf.read and ssf.manage. Empty: the token endpoint chooses."`
	fetch.Config     `yaml:",inline"`
}

// Validate reports every invalid value.
func (c TransmitterConfig) Validate(report authz.Report) {
	authz.CheckSecretURL("transmitter", c.Transmitter, report)
	if u, err := url.Parse(c.Transmitter); err == nil && u.RawQuery != "" {
		report("transmitter", "must have no query (SSF 1.0, section 7.1)")
	}
	for i, h := range c.Hosts {
		if u, err := url.Parse("https://" + h); err != nil || u.Host != h || h == "" || h != strings.ToLower(h) {
			report(authz.ItemPath("hosts", i), "%q: a host in lower case is required, with a port unless it is 443", h)
		}
	}
	c.Config.Validate(report)
	oauth := c.TokenURL != "" || c.ClientID != "" || c.ClientSecretFile != ""
	switch {
	case oauth && c.TokenFile != "":
		report("token_file", "and token_url exclude each other")
	case oauth && (c.TokenURL == "" || c.ClientID == "" || c.ClientSecretFile == ""):
		report("token_url", "client_id and client_secret_file need each other")
	case !oauth && len(c.Scopes) > 0:
		report("scopes", "need token_url")
	case !oauth && c.TokenFile == "" && c.CertFile == "":
		report("token_file", "is required, or token_url with client_id and client_secret_file, or cert_file: a transmitter must know who asks (SSF 1.0, section 8)")
	}
	if c.TokenURL != "" {
		authz.CheckSecretURL("token_url", c.TokenURL, report)
	}
}

// maxDocument bounds metadata and stream configurations, in bytes.
const maxDocument = 256 << 10

// Transmitter is a client of one transmitter. Its methods may be called
// concurrently.
type Transmitter struct {
	cfg   TransmitterConfig
	base  *url.URL
	http  *http.Client
	clock authz.Clock

	mu     sync.Mutex
	token  string // had with the client's credentials
	usable time.Duration
}

// NewTransmitter returns a client. c is valid. timeout bounds connecting, the TLS
// handshake and the wait for a response, each. transport nil: one of its own.
func NewTransmitter(c TransmitterConfig, timeout time.Duration, clock authz.Clock, transport http.RoundTripper) (*Transmitter, error) {
	base, err := url.Parse(c.Transmitter)
	if err != nil {
		return nil, fmt.Errorf("transmitter: %w", err)
	}
	client, err := fetch.NewClient(fetch.ClientOptions{Config: c.Config, Transport: transport, Timeout: timeout, ConnsPerHost: 2, IdleConns: 1})
	if err != nil {
		return nil, err
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("redirect refused") // it would send the token to another URL
	}
	return &Transmitter{cfg: c, base: base, http: client, clock: clock}, nil
}

// Close closes idle connections.
func (t *Transmitter) Close() { t.http.CloseIdleConnections() }

// Metadata is the Transmitter Configuration Metadata of SSF 1.0, section 7.1, as
// far as it is used.
type Metadata struct {
	SpecVersion     string   `json:"spec_version,omitzero"`
	Issuer          string   `json:"issuer"`
	DeliveryMethods []string `json:"delivery_methods_supported,omitzero"`
	Configuration   string   `json:"configuration_endpoint,omitzero"`
	Status          string   `json:"status_endpoint,omitzero"`
	AddSubject      string   `json:"add_subject_endpoint,omitzero"`
	RemoveSubject   string   `json:"remove_subject_endpoint,omitzero"`
	Verification    string   `json:"verification_endpoint,omitzero"`
	DefaultSubjects string   `json:"default_subjects,omitzero"` // "ALL", "NONE"; empty: unspecified
}

// Metadata fetches the transmitter's metadata (SSF 1.0, section 7.2). It is an
// error if they are another issuer's (section 7.2.4).
func (t *Transmitter) Metadata(ctx context.Context) (Metadata, error) {
	u := *t.base
	u.Path, u.RawPath, u.RawQuery = "/.well-known/ssf-configuration"+strings.TrimSuffix(t.base.Path, "/"), "", ""
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return Metadata{}, err
	}
	d, err := fetch.Do(t.http, req, "application/json", maxDocument)
	if err != nil {
		return Metadata{}, err
	}
	var m Metadata
	if err := jsonv2.Unmarshal(d.Body, &m); err != nil {
		return Metadata{}, fmt.Errorf("%s where the transmitter's metadata are needed", d)
	}
	if m.Issuer != t.cfg.Transmitter {
		return Metadata{}, fmt.Errorf("%s is the configuration of the transmitter %s, not of %s", d.From, authz.QuoteShort(m.Issuer), t.cfg.Transmitter)
	}
	return m, nil
}

// endpoint checks a URL that the transmitter names: it must not choose the hosts to
// which this process sends its token. name is for the message.
func (t *Transmitter) endpoint(name, raw string) (*url.URL, error) {
	if raw == "" {
		return nil, fmt.Errorf("the transmitter %s has no %s", t.cfg.Transmitter, name)
	}
	var wrong error
	authz.CheckSecretURL(name, raw, func(path, format string, args ...any) {
		wrong = fmt.Errorf("the transmitter's "+path+": "+format, args...)
	})
	if wrong != nil {
		return nil, wrong
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	own := u.Scheme == t.base.Scheme && u.Host == t.base.Host
	if !own && (u.Scheme != "https" || !slices.Contains(t.cfg.Hosts, strings.TrimSuffix(u.Host, ":443"))) {
		return nil, fmt.Errorf("the transmitter's %s is on the host %s; if that is right, add it to hosts", name, authz.QuoteShort(u.Host))
	}
	return u, nil
}

// StatusError is a response that is no success.
type StatusError struct {
	Status int
	// RetryAfter is what the response asks for (RFC 9110, section 10.2.3); 0: nothing.
	RetryAfter time.Duration
	request    string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: status %d", e.request, e.Status)
}

// call sends a request with the token and decodes the response to into, unless that
// is nil or the response is empty. Failures of HTTP are a *StatusError.
func (t *Transmitter) call(ctx context.Context, method string, u *url.URL, body, into any, maxBytes int, header ...string) (status int, err error) {
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if err := t.authorize(ctx, req); err != nil {
		return 0, err
	}
	r, err := fetch.Send(t.http, req, maxBytes)
	if err != nil {
		return 0, err
	}
	if r.Status/100 != 2 {
		if r.Status == http.StatusUnauthorized {
			t.forget()
		}
		return r.Status, &StatusError{Status: r.Status, RetryAfter: t.retryAfter(r.Header), request: method + " " + u.Redacted()}
	}
	if into == nil || len(r.Body) == 0 {
		return r.Status, nil
	}
	if r.MediaType != "application/json" {
		return r.Status, fmt.Errorf("%s where application/json is needed", r.Document)
	}
	if err := jsonv2.Unmarshal(r.Body, into); err != nil {
		return r.Status, fmt.Errorf("%s with other members than are needed", r.Document)
	}
	return r.Status, nil
}

// retryAfter reads seconds or a date.
func (t *Transmitter) retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(t.clock.Now()))
	}
	return 0
}

// authorize adds the token, if there is one.
func (t *Transmitter) authorize(ctx context.Context, req *http.Request) error {
	switch {
	case t.cfg.TokenFile != "":
		return fetch.SetBearerToken(req, t.cfg.TokenFile)
	case t.cfg.TokenURL != "":
		token, err := t.accessToken(ctx)
		if err != nil {
			return fmt.Errorf("access token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// forget drops the token that the transmitter has refused.
func (t *Transmitter) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token = ""
}

// accessToken returns a token of the client credentials grant (RFC 6749, section
// 4.4), which is used for half of its lifetime.
func (t *Transmitter) accessToken(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != "" && t.clock.Boot() < t.usable {
		return t.token, nil
	}
	secret, err := secretfile.Read(t.cfg.ClientSecretFile)
	if err != nil {
		return "", fmt.Errorf("client_secret_file: %w", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(t.cfg.Scopes) > 0 {
		form.Set("scope", strings.Join(t.cfg.Scopes, " "))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.cfg.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(t.cfg.ClientID), url.QueryEscape(secret)) // RFC 6749, section 2.3.1
	asked := t.clock.Boot()
	d, err := fetch.Do(t.http, req, "application/json", maxDocument)
	if err != nil {
		return "", err
	}
	var answer struct {
		Token     string  `json:"access_token"`
		Type      string  `json:"token_type"`
		ExpiresIn float64 `json:"expires_in"`
	}
	if err := jsonv2.Unmarshal(d.Body, &answer); err != nil || answer.Token == "" || !strings.EqualFold(answer.Type, "Bearer") || !authz.IsToken68(answer.Token) {
		return "", fmt.Errorf("%s where a bearer token is needed", d)
	}
	const longest = 24 * 3600
	seconds := min(cmp.Or(max(answer.ExpiresIn, 0), 60), longest)
	t.token, t.usable = answer.Token, asked+time.Duration(seconds/2*float64(time.Second))
	return t.token, nil
}
