package httpapi

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"

	"jwtbouncer/authz"
)

// Problem types that callers may want to tell apart.
const (
	typeOutcomeUnknown = "urn:jwt-bouncer:problem:outcome-unknown"
	typeUnavailable    = "urn:jwt-bouncer:problem:unavailable"
	typeInvalid        = "urn:jwt-bouncer:problem:invalid-request"
)

// Problem is an error response (problem details, RFC 9457).
type Problem struct {
	Type   string          `json:"type"`
	Title  string          `json:"title"`
	Status int             `json:"status"`
	Detail string          `json:"detail,omitzero"`
	Errors []InvalidMember `json:"errors,omitzero"`

	retryAfter int // seconds; 0: no Retry-After
}

// InvalidMember is an authz.InvalidError in the spelling of problem details.
type InvalidMember struct {
	Index  int    `json:"index"` // position in the array, from 0; 0 for a single object
	Field  string `json:"field,omitzero"`
	Detail string `json:"detail"`
}

func invalidMember(err error) InvalidMember {
	var invalid *authz.InvalidError
	if errors.As(err, &invalid) {
		return InvalidMember{Index: invalid.Index, Field: invalid.Field, Detail: invalid.Detail}
	}
	return InvalidMember{Detail: err.Error()}
}

// Fail returns a problem that its status explains.
func Fail(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// Unavailable returns a 503 that asks the caller to retry.
func Unavailable(detail string) *Problem {
	return &Problem{Type: typeUnavailable, Title: "Temporarily unavailable", Status: http.StatusServiceUnavailable, Detail: detail, retryAfter: 1}
}

func invalid(detail string, members ...InvalidMember) *Problem {
	return &Problem{Type: typeInvalid, Title: "The request is not valid", Status: http.StatusBadRequest, Detail: detail, Errors: members}
}

// Write sends the problem as the response.
func (p *Problem) Write(w http.ResponseWriter) {
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	WriteJSON(w, p.Status, "application/problem+json", p)
}

// WriteJSON sends v as the response.
func WriteJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a programming error: every v is one of our own types
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // an error means that the caller is gone
}
