package fetch

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// StatusError is the HTTP status of a response that is not 200.
type StatusError int

func (s StatusError) Error() string { return "status " + strconv.Itoa(int(s)) }

// Do sends req and returns the body of a 200 response, unpacked if the server
// compressed it with gzip. It returns an error that names the URL if the status
// is another (see StatusError), the media type is not mediaType (empty: any) or
// the body has more than maxBytes, packed or unpacked.
func Do(client *http.Client, req *http.Request, mediaType string, maxBytes int) (Document, error) {
	r, err := send(client, req, func(status int) bool { return status == http.StatusOK }, mediaType, maxBytes)
	if err == nil && r.Status != http.StatusOK {
		err = named(req, StatusError(r.Status))
	}
	if err != nil {
		return Document{}, err
	}
	return r.Document, nil
}

// Response is a response of any status.
type Response struct {
	Status   int
	Header   http.Header
	Document // empty unless the status is one of success (2xx)
}

// Send is Do for a caller that tells the statuses apart: each is a Response and no
// error. Only the body of a success (2xx) is read.
func Send(client *http.Client, req *http.Request, maxBytes int) (Response, error) {
	return send(client, req, func(status int) bool { return status/100 == 2 }, "", maxBytes)
}

// send reads the body if the status is one that wanted names.
func send(client *http.Client, req *http.Request, wanted func(status int) bool, mediaType string, maxBytes int) (Response, error) {
	req.Header.Set("User-Agent", "jwt-bouncer")
	// Without the header, RFC 9110, section 12.5.3, permits any coding.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := client.Do(req)
	if err != nil {
		return Response{}, err // contains the URL
	}
	defer resp.Body.Close()
	r := Response{Status: resp.StatusCode, Header: resp.Header}
	if !wanted(resp.StatusCode) {
		return r, nil
	}
	if r.Document, err = readDocument(resp, mediaType, maxBytes); err != nil {
		return Response{}, named(req, err)
	}
	r.From = req.URL.Redacted()
	return r, nil
}

// named adds method and URL of the request to an error about its response.
func named(req *http.Request, err error) error {
	return fmt.Errorf("%s %s: %w", req.Method, req.URL.Redacted(), err)
}

func readDocument(resp *http.Response, mediaType string, maxBytes int) (d Document, err error) {
	got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err == nil {
		d.MediaType = got
	}
	body, err := decode(resp, maxBytes)
	if err == nil {
		d.Body, err = ReadBounded(body, maxBytes)
	}
	if err == nil && mediaType != "" && d.MediaType != mediaType {
		err = fmt.Errorf("the response is %s and not %s", d.Describe(), mediaType)
	}
	return d, err
}

// decode returns the body without its content coding (RFC 9110, section 8.4).
// Storage that holds files compressed sends them so to everybody.
func decode(resp *http.Response, maxBytes int) (io.Reader, error) {
	coding := strings.ToLower(strings.TrimSpace(strings.Join(resp.Header.Values("Content-Encoding"), ", ")))
	switch coding {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		r, err := gzip.NewReader(io.LimitReader(resp.Body, int64(maxBytes)))
		if err != nil {
			return nil, fmt.Errorf("Content-Encoding is %s, but the body is not: %w", coding, err)
		}
		return r, nil
	}
	return nil, fmt.Errorf("Content-Encoding is %.40q, although identity was asked for", coding)
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
