package httpapi

import (
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"
)

// Problem types that callers may want to tell apart.
const (
	typeOutcomeUnknown = "urn:jwt-bouncer:problem:outcome-unknown"
	typeUnavailable    = "urn:jwt-bouncer:problem:unavailable"
	typeInvalid        = "urn:jwt-bouncer:problem:invalid-request"
)

// problem is an error answer (RFC 9457).
type problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitzero"`
	Errors []fieldError `json:"errors,omitzero"`

	retryAfter int // seconds; 0: no Retry-After
}

// fieldError points at what is wrong in the request.
type fieldError struct {
	Index  int    `json:"index"` // place in the array, from 0; 0 for a single object
	Field  string `json:"field,omitzero"`
	Detail string `json:"detail"`
}

func fail(status int, detail string) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

func invalid(detail string, errs ...fieldError) *problem {
	return &problem{Type: typeInvalid, Title: "The request is not valid", Status: http.StatusBadRequest, Detail: detail, Errors: errs}
}

func unavailable(detail string) *problem {
	return &problem{Type: typeUnavailable, Title: "Temporarily unavailable", Status: http.StatusServiceUnavailable, Detail: detail, retryAfter: 1}
}

func (p *problem) write(w http.ResponseWriter) {
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only a defect can bring this about: every v is one of our own types
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller has gone: nobody is left to tell
}
