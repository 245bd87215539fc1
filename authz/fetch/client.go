package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"jwtbouncer/authz/secretfile"
)

// Config are the keys of a stanza that say how its server is reached.
type Config struct {
	CAFile   string `yaml:"ca_file" doc:"PEM file of certificate authorities trusted for this server, instead of the system's; empty: the system's."`
	CertFile string `yaml:"cert_file" doc:"PEM file of the client certificate for this server, followed by its chain; read for each handshake, so that it can be rotated. Empty: none."`
	KeyFile  string `yaml:"key_file" doc:"PEM file of the certificate's private key."`
	Proxy    string `yaml:"proxy" doc:"URL of the HTTP proxy for requests to this server: http:// or https://, without a user name. Loopback addresses are reached directly. Empty: none. HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment are not obeyed."`
}

// Validate reports every invalid value.
func (c Config) Validate(report func(path, format string, args ...any)) {
	if (c.CertFile == "") != (c.KeyFile == "") {
		report("cert_file", "and key_file need each other")
	}
	if c.Proxy == "" {
		return
	}
	u, err := url.Parse(c.Proxy)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		report("proxy", "must be a URL such as http://proxy.example:3128")
	case u.User != nil:
		report("proxy", "must not contain a user name or password")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		report("proxy", "must have nothing after the port")
	}
}

// ClientOptions configure NewClient.
type ClientOptions struct {
	Config                         // valid
	Transport    http.RoundTripper // nil: a transport of its own, with the options below
	Timeout      time.Duration     // of connecting, the TLS handshake and the response header, each
	ConnsPerHost int
	IdleConns    int // connections kept for reuse; 0: none
}

// NewClient returns a client that follows few redirects, none to another
// origin, and uses no proxy from the environment.
func NewClient(o ClientOptions) (*http.Client, error) {
	client := &http.Client{Transport: o.Transport, CheckRedirect: sameOrigin}
	if o.Transport != nil {
		return client, nil
	}
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: o.Timeout}).DialContext,
		TLSHandshakeTimeout:    o.Timeout,
		ResponseHeaderTimeout:  o.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           o.IdleConns,
		MaxIdleConnsPerHost:    o.IdleConns,
		DisableKeepAlives:      o.IdleConns == 0,
		MaxConnsPerHost:        o.ConnsPerHost,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // Do asks for identity, and bounds what comes
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}
	client.Transport = t
	if o.Proxy != "" {
		u, err := url.Parse(o.Proxy)
		if err != nil {
			return nil, errors.New("proxy is not a URL")
		}
		t.Proxy = func(req *http.Request) (*url.URL, error) {
			if isLoopback(req.URL.Hostname()) {
				return nil, nil // plain http is allowed there, because it does not leave the machine
			}
			return u, nil
		}
	}
	if o.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("cert_file and key_file: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil { // fail now, not at the first request
			return nil, err
		}
		t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	if o.CAFile == "" {
		return client, nil
	}
	var err error
	if t.TLSClientConfig.RootCAs, err = ReadAuthorities(o.CAFile); err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return client, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// ReadAuthorities reads a PEM file of certificate authorities.
func ReadAuthorities(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s contains no PEM certificate", path)
	}
	return pool, nil
}

// SetBearerToken sets the Authorization header of req to the token in a file,
// which it reads each time, so that the token can be rotated. Errors contain no
// part of the token.
func SetBearerToken(req *http.Request, path string) error {
	token, err := ReadBearerToken(path)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

// ReadBearerToken returns the token in a file of one line. It is an error if the
// token holds a character that is not visible ASCII, or is longer than 16 KiB;
// tokens of Kubernetes have about 1 KiB.
func ReadBearerToken(path string) (string, error) {
	const maxToken = 16 << 10
	token, err := secretfile.Read(path)
	switch {
	case err != nil:
		return "", err
	case len(token) > maxToken:
		return "", fmt.Errorf("%s holds more than %d bytes", path, maxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%s is not one line of visible ASCII characters", path)
	}
	return token, nil
}
