package httpapi

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"

	"jwtbouncer/authz"
)

// typePrefix is the beginning of every problem type. What follows it is the anchor
// of the type's section in docs/problems.md.
const typePrefix = "urn:jwt-bouncer:problem:"

// problemTypes are the types of problems, by status. Programs compare the names,
// which must not change.
var problemTypes = map[int]struct{ name, title string }{
	http.StatusBadRequest:            {"invalid-request", "The request is not valid"},
	http.StatusUnauthorized:          {"unauthorized", "A valid credential is needed"},
	http.StatusForbidden:             {"forbidden", "The request is refused"},
	http.StatusNotFound:              {"not-found", "There is no such resource"},
	http.StatusMethodNotAllowed:      {"method-not-allowed", "The resource does not have this method"},
	http.StatusRequestEntityTooLarge: {"content-too-large", "The body is too large"},
	http.StatusUnsupportedMediaType:  {"unsupported-media-type", "The body has another type than is needed"},
	http.StatusUnprocessableEntity:   {"not-revocable", "The subject cannot be revoked"},
	http.StatusInternalServerError:   {"internal-error", "Internal error"},
	http.StatusServiceUnavailable:    {"unavailable", "Temporarily unavailable"},
	http.StatusGatewayTimeout:        {"outcome-unknown", "Outcome unknown"},
}

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

// Fail returns a problem of the status's type. A 503 or 504 asks the caller to
// retry.
func Fail(status int, detail string) *Problem {
	p := &Problem{Type: typePrefix + problemTypes[status].name, Title: problemTypes[status].title, Status: status, Detail: detail}
	if status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout {
		p.retryAfter = 1
	}
	return p
}

// Unavailable returns a 503.
func Unavailable(detail string) *Problem { return Fail(http.StatusServiceUnavailable, detail) }

func invalid(detail string, members ...InvalidMember) *Problem {
	p := Fail(http.StatusBadRequest, detail)
	p.Errors = members
	return p
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
