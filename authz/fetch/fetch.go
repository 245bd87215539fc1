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

// statusError is an answer whose status is not 200.
type StatusError int

func (s StatusError) Error() string { return "status " + strconv.Itoa(int(s)) }

// fetch sends req and returns the body of a 200 answer: of the media type kind
// (empty: any) and of no more than most bytes. Errors name the URL.
func Do(client *http.Client, req *http.Request, kind string, most int) ([]byte, error) {
	req.Header.Set("User-Agent", "jwt-bouncer")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err // names it already
	}
	defer resp.Body.Close()
	b, err := readAnswer(resp, kind, most)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Redacted(), err)
	}
	return b, nil
}

func readAnswer(resp *http.Response, kind string, most int) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, StatusError(resp.StatusCode)
	}
	if got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "" && (err != nil || got != kind) {
		return nil, errors.New("the answer is not " + kind)
	}
	return ReadBounded(resp.Body, most)
}

func ReadBounded(r io.Reader, most int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fmt.Errorf("larger than %d bytes", most)
	}
	return b, nil
}

// newTransport makes a transport whose every stage is bounded by timeout. It
// trusts the certificates in caFile; empty: the system's. It uses no
// proxy from the environment, so that nobody else's setting decides whom the
// keys come from.
func NewTransport(caFile string, timeout time.Duration) (*http.Transport, error) {
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
		TLSHandshakeTimeout:    timeout,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           2,
		MaxConnsPerHost:        2,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // the bound is on what is sent, and nothing swells
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s holds no PEM certificate", caFile)
	}
	return t, nil
}

// sameOrigin follows few redirects, and none to another scheme, host or port:
// a redirect must not decide whose keys are trusted, or what else is reached.
func SameOrigin(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	if req.URL.Scheme != from.Scheme || req.URL.Host != from.Host || req.URL.User != nil {
		return errors.New("redirect to another origin refused")
	}
	if len(via) > 3 {
		return errors.New("too many redirects")
	}
	return nil
}
