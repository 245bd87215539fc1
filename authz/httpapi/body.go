package httpapi

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// Limits of a request.
const (
	maxBatch = 10_000   // revocations
	maxBody  = 2 << 20  // bytes of POST /v1/revocations
	MaxForm  = 64 << 10 // bytes of the body of any other request
)

// RequireType requires a body of one media type without a content encoding. A
// browser sends application/json to another site only if that site permits it.
func RequireType(r *http.Request, want string) *Problem {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || got != want {
		return Fail(http.StatusUnsupportedMediaType, "Content-Type: "+want+" is needed")
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return Fail(http.StatusUnsupportedMediaType, "Content-Encoding is not supported")
	}
	return nil
}

// ReadBody reads a body of at most limit bytes.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, *Problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, Fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit))
	case err != nil:
		return nil, Fail(http.StatusBadRequest, "the body is incomplete")
	}
	return body, nil
}

// ReadForm reads a body of application/x-www-form-urlencoded. A parameter that
// occurs twice is an error (RFC 6749, section 3.2).
func ReadForm(w http.ResponseWriter, r *http.Request) (url.Values, *Problem) {
	if p := RequireType(r, "application/x-www-form-urlencoded"); p != nil {
		return nil, p
	}
	body, p := ReadBody(w, r, MaxForm)
	if p != nil {
		return nil, p
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, Fail(http.StatusBadRequest, "the form is malformed")
	}
	for _, v := range values {
		if len(v) != 1 {
			return nil, Fail(http.StatusBadRequest, "a parameter occurs twice")
		}
	}
	return values, nil
}
