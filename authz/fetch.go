package authz

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
)

// statusError is an answer whose status is not 200.
type statusError int

func (s statusError) Error() string { return "status " + strconv.Itoa(int(s)) }

// fetch sends req and returns the body of a 200 answer: of the media type kind
// (empty: any) and of no more than most bytes. Errors name the URL.
func fetch(client *http.Client, req *http.Request, kind string, most int) ([]byte, error) {
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
		return nil, statusError(resp.StatusCode)
	}
	if got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "" && (err != nil || got != kind) {
		return nil, errors.New("the answer is not " + kind)
	}
	return readBounded(resp.Body, most)
}

func readBounded(r io.Reader, most int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fmt.Errorf("larger than %d bytes", most)
	}
	return b, nil
}
