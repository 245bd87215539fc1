package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// StatusError is the HTTP status of a response that is not 200.
type StatusError int

func (s StatusError) Error() string { return "status " + strconv.Itoa(int(s)) }

// Do sends req and returns the body of a 200 response. It returns an error that
// names the URL if the status is another (see StatusError), the media type is
// not mediaType (empty: any) or the body has more than maxBytes.
func Do(client *http.Client, req *http.Request, mediaType string, maxBytes int) ([]byte, error) {
	req.Header.Set("User-Agent", "jwt-bouncer")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err // contains the URL
	}
	defer resp.Body.Close()
	b, err := readResponse(resp, mediaType, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Redacted(), err)
	}
	return b, nil
}

func readResponse(resp *http.Response, mediaType string, maxBytes int) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, StatusError(resp.StatusCode)
	}
	if got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); mediaType != "" && (err != nil || got != mediaType) {
		return nil, errors.New("the response is not " + mediaType)
	}
	return ReadBounded(resp.Body, maxBytes)
}

// ReadBounded reads r to its end. It returns an error if r has more than
// maxBytes.
func ReadBounded(r io.Reader, maxBytes int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(maxBytes)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxBytes)
	}
	return b, nil
}

// ClientOptions configure NewClient.
type ClientOptions struct {
	Transport    http.RoundTripper // nil: a transport of its own, with the options below
	CAFile       string            // PEM file of trusted certificate authorities; empty: the system's
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
		DisableCompression:     true, // the bound on the body counts transferred bytes
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}
	client.Transport = t
	if o.CAFile == "" {
		return client, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s contains no PEM certificate", o.CAFile)
	}
	return client, nil
}

// sameOrigin allows three redirects within scheme, host and port. A redirect
// must not decide whose keys are trusted or which server is reached.
func sameOrigin(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	if req.URL.Scheme != from.Scheme || req.URL.Host != from.Host || req.URL.User != nil {
		return errors.New("redirect to another origin refused")
	}
	if len(via) > 3 {
		return errors.New("too many redirects")
	}
	return nil
}
