package envoy

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"jwtbouncer/authz"
)

// reply is what a denied caller receives for a reason.
type reply struct {
	status   int        // HTTP status
	grpc     codes.Code // status for gRPC callers and of the CheckResponse
	code     string     // error code of the challenge (RFC 6750, section 3.1); empty: none is sent
	sentence string     // description for people
}

// replies is the only table from Reason to reply. Reasons that would show an attacker which
// checks a forged token has passed share a sentence.
var replies = map[authz.Reason]reply{
	authz.ReasonUnset:             {http.StatusForbidden, codes.PermissionDenied, "", "Access is denied."},
	authz.ReasonNoCredential:      {http.StatusUnauthorized, codes.Unauthenticated, "", "This resource needs an access token."},
	authz.ReasonMalformedRequest:  {http.StatusBadRequest, codes.InvalidArgument, "invalid_request", "The request does not carry exactly one well-formed access token."},
	authz.ReasonMalformedToken:    {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is malformed."},
	authz.ReasonUnsupportedToken:  {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is of a kind that is not accepted."},
	authz.ReasonUnknownIssuer:     {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is invalid."},
	authz.ReasonUnknownKey:        {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is invalid."},
	authz.ReasonBadSignature:      {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is invalid."},
	authz.ReasonExpired:           {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token has expired."},
	authz.ReasonNotYetValid:       {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is not valid yet."},
	authz.ReasonLifetimeTooLong:   {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is valid for longer than is accepted."},
	authz.ReasonWrongAudience:     {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is meant for another audience."},
	authz.ReasonBadClaim:          {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token holds a claim that cannot be used."},
	authz.ReasonRevoked:           {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token has been revoked."},
	authz.ReasonInactive:          {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is not active."},
	authz.ReasonBindingMismatch:   {http.StatusUnauthorized, codes.Unauthenticated, "invalid_token", "The access token is bound to a key that the request does not prove."},
	authz.ReasonInsufficientScope: {http.StatusForbidden, codes.PermissionDenied, "insufficient_scope", "The access token lacks a scope that this resource needs."},
	authz.ReasonPolicyDenied:      {http.StatusForbidden, codes.PermissionDenied, "", "Access is denied by policy."},
	authz.ReasonNoRoute:           {http.StatusForbidden, codes.PermissionDenied, "", "Access is denied: nothing is served here."},
	authz.ReasonKeysUnavailable:   {http.StatusServiceUnavailable, codes.Unavailable, "", "The access token cannot be checked at the moment."},
	authz.ReasonRevocationUnknown: {http.StatusServiceUnavailable, codes.Unavailable, "", "The access token cannot be checked at the moment."},
	authz.ReasonOverloaded:        {http.StatusServiceUnavailable, codes.Unavailable, "", "The access token cannot be checked at the moment."},
	authz.ReasonInternal:          {http.StatusServiceUnavailable, codes.Unavailable, "", "The access token cannot be checked at the moment."},
}

// replyTo returns the reply for a reason. A reason without a row, such as one that allows, is
// denied like the zero reason.
func replyTo(r authz.Reason) reply {
	if row, ok := replies[r]; ok {
		return row
	}
	return replies[authz.ReasonUnset]
}

// denials encodes the responses to denied checks. It is immutable.
type denials struct {
	encode           encoder
	realm            string
	resourceMetadata string                 // URL; empty: not sent
	retryAfter       string                 // in seconds
	encoded          [2][]map[string][]byte // [grpc][reason][scheme]: responses that never vary
}

func newDenials(c RepliesConfig, encode encoder) *denials {
	d := &denials{
		encode:           encode,
		realm:            c.Realm,
		resourceMetadata: c.ResourceMetadata,
		retryAfter:       strconv.Itoa(int(c.RetryAfter / time.Second)),
	}
	for grpc := range d.encoded {
		d.encoded[grpc] = make([]map[string][]byte, len(authz.Reasons()))
		for _, r := range authz.Reasons() {
			d.encoded[grpc][r] = map[string][]byte{}
			for _, scheme := range []string{"bearer", "dpop"} {
				d.encoded[grpc][r][scheme] = d.plain(r, scheme, nil, grpc == 1)
			}
		}
	}
	return d
}

// response returns the encoded answer that denies a check. It is shared between checks, so it must
// not be modified. grpc tells whether the caller speaks gRPC.
func (d *denials) response(dec *authz.Decision, grpc bool) []byte {
	scheme := "bearer"
	if dec.Credential.Scheme == "dpop" {
		scheme = "dpop"
	}
	if dec.Challenge != nil {
		return d.withProof(dec.Reason, dec.Challenge, grpc)
	}
	if dec.Reason == authz.ReasonInsufficientScope && len(dec.RequiredScopes) > 0 {
		return d.plain(dec.Reason, scheme, dec.RequiredScopes, grpc)
	}
	i := 0
	if grpc {
		i = 1
	}
	if int(dec.Reason) < len(d.encoded[i]) {
		return d.encoded[i][dec.Reason][scheme]
	}
	return d.encoded[i][authz.ReasonUnset][scheme]
}

// plain returns the encoded answer for a reason.
func (d *denials) plain(reason authz.Reason, scheme string, scopes []string, grpc bool) []byte {
	row := replyTo(reason)
	a := answer{status: row.status, code: row.grpc}
	if row.status == http.StatusUnauthorized || row.code != "" {
		a.setHeader("www-authenticate", d.challenge(row, scheme, scopes))
	}
	return d.finish(&a, row, grpc)
}

// withProof returns the encoded answer that requires a proof of possession (RFC 9449,
// sections 7.1 and 9). It is encoded each time, because c varies and only callers with a
// sender-constrained token receive it.
func (d *denials) withProof(reason authz.Reason, c *authz.Challenge, grpc bool) []byte {
	row := replyTo(reason)
	if c.Error != "" {
		row.code = c.Error
	}
	a := answer{status: row.status, code: row.grpc}
	challenge := d.challenge(row, c.Scheme, nil)
	if algs := strings.Join(c.Algorithms, " "); algs != "" && quotable(algs) {
		challenge += `, algs="` + algs + `"`
	}
	a.setHeader("www-authenticate", challenge)
	if c.Nonce != "" && quotable(c.Nonce) {
		a.setHeader("dpop-nonce", c.Nonce)
	}
	return d.finish(&a, row, grpc)
}

// finish completes and encodes a. Envoy sends the body to gRPC callers as grpc-message, so they
// receive the bare sentence.
func (d *denials) finish(a *answer, row reply, grpc bool) []byte {
	if row.status == http.StatusServiceUnavailable {
		a.setHeader("retry-after", d.retryAfter)
	}
	// The same request may be allowed a moment later, or from another caller.
	a.setHeader("cache-control", "no-store")
	if grpc {
		a.setHeader("grpc-status", strconv.Itoa(int(row.grpc)))
		a.body = row.sentence
		return d.encode(a)
	}
	a.setHeader("content-type", "application/problem+json")
	a.body = problemDetails(row)
	return d.encode(a)
}

// challenge returns the value of WWW-Authenticate (RFC 6750, section 3; RFC 9449, section 7.1;
// RFC 9728, section 5.1).
func (d *denials) challenge(row reply, scheme string, scopes []string) string {
	var b strings.Builder
	b.WriteString("Bearer")
	if scheme == "dpop" {
		b.Reset()
		b.WriteString("DPoP")
	}
	b.WriteString(` realm="` + d.realm + `"`)
	if row.code != "" {
		b.WriteString(`, error="` + row.code + `", error_description="` + row.sentence + `"`)
	}
	if len(scopes) > 0 {
		if s := strings.Join(scopes, " "); quotable(s) {
			b.WriteString(`, scope="` + s + `"`)
		}
	}
	if d.resourceMetadata != "" {
		b.WriteString(`, resource_metadata="` + d.resourceMetadata + `"`)
	}
	return b.String()
}

// problemDetails returns the body (RFC 9457). Its member "error" repeats the error code of the
// challenge for clients that cannot read the challenge, such as scripts in a browser.
func problemDetails(row reply) string {
	b, err := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Error  string `json:"error,omitempty"`
	}{http.StatusText(row.status), row.status, row.sentence, row.code})
	if err != nil { // impossible for four plain values, and still not an allow
		return `{}`
	}
	return string(b)
}
