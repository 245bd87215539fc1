package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"jwtbouncer/authz"
)

// requestBody is an authz.RevocationRequest as the API's JSON spells it.
type requestBody struct {
	Iss        *string   `json:"iss"`
	JTI        *string   `json:"jti"`
	Sub        *string   `json:"sub"`
	SID        *string   `json:"sid"`
	KID        *string   `json:"kid"`
	Client     *string   `json:"client"`
	Actor      *string   `json:"actor"`
	Claim      *string   `json:"claim"`
	Token      *string   `json:"token"`
	All        bool      `json:"all"`
	AllIssuers bool      `json:"all_issuers"`
	Confirm    string    `json:"confirm"`
	NotBefore  timestamp `json:"not_before"`
	ExpiresAt  timestamp `json:"expires_at"`
	Reason     string    `json:"reason"`
}

func (b *requestBody) request() authz.RevocationRequest {
	return authz.RevocationRequest{
		Issuer: b.Iss, JTI: b.JTI, Sub: b.Sub, SID: b.SID, KID: b.KID, Client: b.Client, Actor: b.Actor, Claim: b.Claim, Token: b.Token, All: b.All,
		AllIssuers: b.AllIssuers, Confirm: b.Confirm,
		NotBefore: b.NotBefore.Time, ExpiresAt: b.ExpiresAt.Time, Reason: b.Reason,
	}
}

// timestamp is RFC 3339 text or a NumericDate (RFC 7519, section 2). null and
// absence are the zero time.
type timestamp struct{ time.Time }

var timestampType = reflect.TypeFor[timestamp]()

// UnmarshalJSON implements json.Unmarshaler.
func (s *timestamp) UnmarshalJSON(b []byte) (err error) {
	switch {
	case len(b) == 0 || bytes.Equal(b, []byte("null")):
		s.Time = time.Time{}
	case b[0] == '"':
		var text []byte
		if text, err = jsontext.AppendUnquote(nil, b); err == nil {
			s.Time, err = authz.ParseRFC3339(string(text))
		}
	default:
		seconds, perr := strconv.ParseFloat(string(b), 64)
		if perr != nil {
			return errors.New("an RFC 3339 time or a number of seconds since 1970 is needed")
		}
		s.Time, err = authz.NumericDate(seconds)
	}
	return err
}

// DecodeRequests reads the body of POST /v1/revocations: one JSON object or an
// array of up to 10,000. list tells which. Errors are *authz.InvalidError; they
// name the member and repeat no value.
func DecodeRequests(body []byte) (requests []authz.RevocationRequest, list bool, err error) {
	body = bytes.TrimPrefix(body, []byte("\ufeff")) // RFC 8259, section 8.1
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) == 0 {
		return nil, false, &authz.InvalidError{Detail: "the body is empty; a JSON object or an array of objects is needed"}
	}
	var bodies []requestBody
	if list = body[0] == '['; list {
		err = json.Unmarshal(body, &bodies, json.RejectUnknownMembers(true))
	} else {
		bodies = make([]requestBody, 1)
		err = json.Unmarshal(body, &bodies[0], json.RejectUnknownMembers(true))
	}
	switch {
	case err != nil:
		return nil, list, decodeError(err, list)
	case len(bodies) == 0:
		return nil, list, &authz.InvalidError{Detail: "the array is empty"}
	case len(bodies) > maxBatch:
		return nil, list, &authz.InvalidError{Detail: fmt.Sprintf("the array has %d revocations; at most %d are allowed", len(bodies), maxBatch)}
	}
	requests = make([]authz.RevocationRequest, len(bodies))
	for i := range bodies {
		requests[i] = bodies[i].request()
	}
	return requests, list, nil
}

// decodeError names the member and says what is wrong without repeating its
// value.
func decodeError(err error, list bool) *authz.InvalidError {
	out := &authz.InvalidError{Detail: "is not well-formed JSON"}
	var pointer jsontext.Pointer
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntactic):
		pointer = syntactic.JSONPointer
		out.Detail = fmt.Sprintf("is not well-formed JSON at byte %d", syntactic.ByteOffset)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			out.Detail = "occurs twice"
		}
	case errors.As(err, &semantic):
		pointer = semantic.JSONPointer
		switch {
		case errors.Is(err, json.ErrUnknownName):
			out.Detail = "is not a member of a revocation request; allowed are iss, jti, sub, sid, kid, client, actor, claim, token, all, all_issuers, confirm, not_before, expires_at, reason"
		case semantic.GoType == timestampType && semantic.Err != nil:
			out.Detail = semantic.Err.Error()
		default:
			out.Detail = fmt.Sprintf("has the wrong type (%s)", semantic.JSONKind)
		}
	}
	path := slices.Collect(pointer.Tokens())
	if list && len(path) > 0 {
		out.Index, _ = strconv.Atoi(path[0])
		path = path[1:]
	}
	if len(path) > 0 {
		out.Field = authz.Shorten(path[0])
	}
	return out
}
