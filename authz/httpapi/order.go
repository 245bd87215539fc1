package httpapi

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"jwtbouncer/authz"
)

// order is one revocation as a caller writes it.
type order struct {
	Iss       *string `json:"iss"`
	JTI       *string `json:"jti"`
	Sub       *string `json:"sub"`
	SID       *string `json:"sid"`
	KID       *string `json:"kid"`
	Token     *string `json:"token"` // a whole JWT, or its authz.TokenValue
	All       bool    `json:"all"`   // the whole issuer
	NotBefore stamp   `json:"not_before"`
	ExpiresAt stamp   `json:"expires_at"`
	Reason    string  `json:"reason"`
}

// stamp is a time written as RFC 3339 text or as NumericDate (RFC 7519,
// section 2). null and absence are the zero time.
type stamp struct{ time.Time }

const lastSecond = 253402300799 // 9999-12-31T23:59:59Z

func (s *stamp) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) == 0 || bytes.Equal(b, []byte("null")):
		s.Time = time.Time{}
		return nil
	case b[0] == '"':
		text, err := jsontext.AppendUnquote(nil, b)
		if err != nil {
			return err
		}
		if s.Time, err = time.Parse(time.RFC3339, string(text)); err != nil {
			return errors.New("is not an RFC 3339 time such as 2030-01-31T12:00:00Z")
		}
		if u := s.Unix(); u <= 0 || u > lastSecond {
			return errors.New("is outside the years 1970 to 9999")
		}
		return nil
	}
	sec, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return errors.New("an RFC 3339 time or a number of seconds since 1970 is needed")
	}
	if sec <= 0 || sec > lastSecond {
		return errors.New("is not a number of seconds since 1970 (milliseconds, perhaps?)")
	}
	whole := int64(sec)
	s.Time = time.Unix(whole, int64((sec-float64(whole))*1e9)).UTC()
	return nil
}

// parseOrders reads one object or an array of them. list tells which it was.
func parseOrders(body []byte) (orders []order, list bool, p *problem) {
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) == 0 {
		return nil, false, invalid("the body is empty; a JSON object or an array of them is needed")
	}
	var err error
	if list = body[0] == '['; list {
		err = json.Unmarshal(body, &orders, json.RejectUnknownMembers(true))
	} else {
		orders = make([]order, 1)
		err = json.Unmarshal(body, &orders[0], json.RejectUnknownMembers(true))
	}
	if err != nil {
		index, field, what := explainJSON(err, list)
		return nil, list, invalid("the body could not be read", fieldError{Index: index, Field: field, Detail: what})
	}
	switch {
	case len(orders) == 0:
		return nil, list, invalid("the array is empty")
	case len(orders) > maxBulk:
		return nil, list, invalid(fmt.Sprintf("the array has %d revocations; at most %d may be ordered at once", len(orders), maxBulk))
	}
	return orders, list, nil
}

// explainJSON says where and what, without repeating what the caller sent.
func explainJSON(err error, list bool) (index int, field, what string) {
	var pointer jsontext.Pointer
	what = "is not well-formed JSON"
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntactic):
		pointer = syntactic.JSONPointer
		what = fmt.Sprintf("is not well-formed JSON at byte %d", syntactic.ByteOffset)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			what = "occurs twice"
		}
	case errors.As(err, &semantic):
		pointer = semantic.JSONPointer
		switch {
		case errors.Is(err, json.ErrUnknownName):
			what = "is not a member of a revocation; known are iss, jti, sub, sid, kid, token, all, not_before, expires_at, reason"
		case semantic.GoType == stampType && semantic.Err != nil:
			what = semantic.Err.Error()
		default:
			what = fmt.Sprintf("has the wrong type (%s)", semantic.JSONKind)
		}
	}
	parts := slices.Collect(pointer.Tokens())
	if list && len(parts) > 0 {
		index, _ = strconv.Atoi(parts[0])
		parts = parts[1:]
	}
	if len(parts) > 0 {
		field = shorten(parts[0])
	}
	return index, field, what
}

// shorten keeps a name that the caller chose fit for an answer.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "…"
	}
	return s
}

// revocations turns an order into revocations: several only for a whole JWT that
// several issuers may call good.
func (o *order) revocations(known Issuers, now time.Time) ([]authz.Revocation, *fieldError) {
	r, e := o.selector()
	if e != nil {
		return nil, e
	}
	var issuers []string
	if r.Kind == authz.KindToken && strings.Contains(r.Value, ".") {
		issuers, e = o.scopeToken(&r, known, now)
	} else {
		issuers, e = o.scope(&r, known.All())
	}
	if e != nil {
		return nil, e
	}
	out := make([]authz.Revocation, len(issuers))
	for i, iss := range issuers {
		out[i] = r
		out[i].Issuer = iss
	}
	return out, nil
}

// selector reads what is revoked, whoever issued it.
func (o *order) selector() (authz.Revocation, *fieldError) {
	r := authz.Revocation{NotBefore: o.NotBefore.Time, ExpiresAt: o.ExpiresAt.Time, Reason: o.Reason}
	selectors := 0
	for _, s := range []struct {
		kind  authz.Kind
		value *string
	}{{authz.KindJTI, o.JTI}, {authz.KindSub, o.Sub}, {authz.KindSID, o.SID}, {authz.KindKID, o.KID}, {authz.KindToken, o.Token}} {
		if s.value == nil {
			continue
		}
		selectors++
		r.Kind, r.Value = s.kind, *s.value
		switch {
		case r.Value == "":
			return r, &fieldError{Field: s.kind.String(), Detail: "must not be empty"}
		case s.kind != authz.KindToken && authz.HoldsToken(r.Value):
			return r, &fieldError{Field: s.kind.String(), Detail: `looks like a token; give it as "token"`}
		}
	}
	if authz.HoldsToken(o.Reason) {
		return r, &fieldError{Field: "reason", Detail: "looks like a token; reasons are logged"}
	}
	if o.All {
		selectors++
		r.Kind, r.Value = authz.KindIss, ""
	}
	switch {
	case selectors == 0:
		return r, &fieldError{Detail: `one of jti, sub, sid, kid, token is needed; to revoke every token of an issuer say "all": true and name the issuer`}
	case selectors > 1:
		return r, &fieldError{Detail: "only one of jti, sub, sid, kid, token, all may be given; order several revocations as an array"}
	case o.All && o.Iss == nil:
		return r, &fieldError{Field: "iss", Detail: `must be named when "all" is true`}
	}
	return r, nil
}

// scope finds whose tokens are meant.
func (o *order) scope(r *authz.Revocation, issuers []string) ([]string, *fieldError) {
	switch {
	case r.Kind == authz.KindToken && (len(r.Value) != 64 || strings.Trim(r.Value, "0123456789abcdef") != ""):
		return nil, &fieldError{Field: "token", Detail: "is neither a compact JWT nor the 64 lower-case hex digits of the SHA-256 of its header and payload, or of the whole of an opaque token"}
	case o.Iss != nil && !slices.Contains(issuers, *o.Iss):
		return nil, &fieldError{Field: "iss", Detail: "is not a configured issuer"}
	case o.Iss != nil:
		return []string{*o.Iss}, nil
	case len(issuers) == 1:
		return issuers, nil
	}
	return nil, &fieldError{Field: "iss", Detail: "is needed because more than one issuer is configured"}
}

// scopeToken replaces a whole JWT by its hash, and finds everybody who may call
// it good. What it takes from the token unverified is harmless: the hash matches
// no other token, so iss and exp can only be those of the one that it names.
func (o *order) scopeToken(r *authz.Revocation, known Issuers, now time.Time) ([]string, *fieldError) {
	claims, ok := peek(r.Value)
	if !ok {
		return nil, &fieldError{Field: "token", Detail: "is not a compact JWT (RFC 7519)"}
	}
	verified := slices.Contains(known.Verified, claims.Iss)
	issuers := known.asked(!verified)
	own := len(issuers) == 0 // what its exp says is what counts
	if verified && !slices.Contains(issuers, claims.Iss) {
		issuers = append(issuers, claims.Iss)
	}
	switch {
	case o.Iss != nil && !slices.Contains(known.All(), *o.Iss):
		return nil, &fieldError{Field: "iss", Detail: "is not a configured issuer"}
	case len(issuers) == 0:
		return nil, &fieldError{Field: "token", Detail: "names an issuer that is not configured"}
	case o.Iss != nil && !slices.Contains(issuers, *o.Iss):
		return nil, &fieldError{Field: "iss", Detail: "is not the issuer that the token names"}
	}
	r.Value = authz.TokenValue(r.Value)
	if own && r.ExpiresAt.IsZero() && claims.Exp > 0 && claims.Exp < lastSecond {
		expires := time.Unix(int64(claims.Exp), 0).Add(expiryMargin)
		if !expires.After(now) {
			return nil, &fieldError{Field: "token", Detail: "has expired; nothing is left to revoke"}
		}
		r.ExpiresAt = expires
	}
	return issuers, nil
}

// expiryMargin is added to a token's own exp before its revocation may be
// forgotten. It is above every leeway a verifier may be given.
const expiryMargin = 10 * time.Minute

// peeked are claims of a JWT that nobody has verified.
type peeked struct {
	Iss      string  `json:"iss"`
	Exp      float64 `json:"exp"`
	IAT      float64 `json:"iat"`
	Action   any     `json:"expiration"` // Keycloak's actions; other tokens may mean anything by it
	ClientID any     `json:"client_id"`
	AZP      any     `json:"azp"`
}

// over reports whether the JWT has expired, whatever leeway it is given. What
// has no exp, as most security events, is over a day after it was issued.
func (c peeked) over(now time.Time) bool {
	action, _ := c.Action.(float64)
	end := cmp.Or(c.Exp, action)
	if end == 0 && c.IAT > 0 {
		end = c.IAT + (24 * time.Hour).Seconds()
	}
	return end > 0 && end+expiryMargin.Seconds() <= float64(now.Unix())
}

// anothers reports whether the token was issued to another client than this
// one. client_id (RFC 9068, section 2.2) counts before azp; a token that names
// no client is nobody else's.
func (c peeked) anothers(client string) bool {
	for _, claim := range []any{c.ClientID, c.AZP} {
		if owner, _ := claim.(string); owner != "" {
			return owner != client
		}
	}
	return false
}

// peek reads a JWT's claims without verifying anything.
func peek(raw string) (peeked, bool) {
	var c peeked
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(raw) > maxToken {
		return c, false
	}
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || len(b) == 0 || strings.ContainsAny(part, "\r\n") {
			return c, false
		}
		switch i {
		case 0:
			var header struct {
				Alg string `json:"alg"`
			}
			if json.Unmarshal(b, &header) != nil || header.Alg == "" {
				return c, false
			}
		case 1:
			if json.Unmarshal(b, &c) != nil {
				return c, false
			}
		}
	}
	return c, true
}
