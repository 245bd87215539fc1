package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"time"

	"jwtbouncer/authz"
)

// Verifier checks what identity providers and clients send.
type Verifier interface {
	// Verify checks a token as authz.Verifier does.
	Verify(ctx context.Context, raw string) (*authz.Token, error)
	// VerifySecurityEvent checks a message about tokens: form, signature by a
	// configured issuer, typ, audience and times.
	VerifySecurityEvent(ctx context.Context, raw string, s authz.SecurityEventRules) (*authz.Token, error)
}

// reasonOf classifies an error of the Verifier.
func reasonOf(err error) authz.Reason {
	var f *authz.Failure
	if errors.As(err, &f) {
		return f.Reason
	}
	return authz.ReasonInternal
}

// couldNotFindOut reports whether err, of verifying raw, says nothing about the
// message itself, so that the sender should try again. An unknown key may be
// the issuer's next one, if the keys were not fetched just now: others may know
// it already. So may be the one that a message without kid was signed with.
// Once the message has expired there is nothing to wait for.
func (a *api) couldNotFindOut(err error, raw string) bool {
	switch reasonOf(err) {
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal, authz.ReasonUnset:
		return true
	case authz.ReasonUnknownKey, authz.ReasonBadSignature:
		var f *authz.Failure
		claims, ok := authz.ReadUnverifiedClaims(raw)
		return errors.As(err, &f) && !f.Settled && ok && !claims.Expired(a.clock.Now())
	}
	return false
}

// form reads a body of application/x-www-form-urlencoded. A parameter that
// occurs twice is an error (RFC 6749, section 3.2).
func form(w http.ResponseWriter, r *http.Request) (url.Values, *problem) {
	if p := needType(r, "application/x-www-form-urlencoded"); p != nil {
		return nil, p
	}
	body, p := readBody(w, r, maxForm)
	if p != nil {
		return nil, p
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fail(http.StatusBadRequest, "the form is malformed")
	}
	for _, v := range values {
		if len(v) != 1 {
			return nil, fail(http.StatusBadRequest, "a parameter occurs twice")
		}
	}
	return values, nil
}

// oauthError is an error answer as OAuth and OpenID Connect spell it (RFC
// 6749, section 5.2).
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitzero"`
}

func writeOAuthError(w http.ResponseWriter, status int, code, description string) {
	if status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, "application/json", oauthError{code, description})
}

// oauthProblem answers p in that spelling.
func oauthProblem(w http.ResponseWriter, p *problem) {
	code := "invalid_request"
	if p.Status >= 500 {
		code = "temporarily_unavailable"
	}
	writeOAuthError(w, p.Status, code, p.Detail)
}

// secondsOf reads a NumericDate among claims, rounded down. Some senders count
// milliseconds, the examples of CAEP 1.0 among them.
func secondsOf(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	if err != nil || f <= 0 || math.IsNaN(f) {
		return 0, false
	}
	if f > authz.LastSecond {
		f /= 1000
	}
	if f > authz.LastSecond {
		return 0, false
	}
	return int64(f), true
}

// before is the not_before that ends what was issued up to and including the
// second at. It is the message's own time, not the time of arrival: a message
// that comes late or twice must not end what was begun since. One from the
// future counts as one from now.
func before(at int64, now time.Time) time.Time {
	return time.Unix(min(at, now.Unix())+1, 0).UTC()
}

func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}
