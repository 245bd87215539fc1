package issuer

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// readClaims fills the token's fields from the claims (RFC 7519, section 4.1),
// each of exactly its type. needExp is false only for messages about tokens,
// which RFC 8417 lets go without.
func ReadClaims(t *authz.Token, claims map[string]any, needExp bool) *authz.Failure {
	t.Claims = claims
	for _, c := range []struct {
		name string
		into *string
	}{{"iss", &t.Issuer}, {"sub", &t.Subject}, {"jti", &t.ID}, {"sid", &t.Session}} {
		v, present := claims[c.name]
		if !present {
			continue
		}
		s, ok := v.(string)
		if !ok || len(s) > authz.MaxIdentifier || !authz.ValidText(s) {
			return badClaim(c.name + " is not a string of at most 1024 bytes without NUL")
		}
		*c.into = s
	}
	for _, c := range []struct {
		name string
		into *int64
		up   bool
		low  int64
	}{{"exp", &t.Expires, true, 1}, {"nbf", &t.NotValidBefore, true, 0}, {"iat", &t.IssuedAt, false, 0}} {
		v, present := claims[c.name]
		if !present {
			if c.name == "exp" && needExp {
				return badClaim("exp is missing")
			}
			continue
		}
		at, ok := numericDate(v, c.up)
		if !ok || at < c.low || at > authz.LastSecond {
			return badClaim(c.name + " is not a time between 1970 and 9999 in seconds")
		}
		*c.into = at
	}
	var ok bool
	if v, present := claims["aud"]; present {
		if t.Audience, ok = stringOrList(v); !ok {
			return badClaim("aud is neither a string nor an array of strings")
		}
	}
	name := "scope"
	v, present := claims[name]
	if !present {
		name = "scp"
		v, present = claims[name]
	}
	if present {
		if t.Scopes, ok = scopes(v); !ok {
			return badClaim(name + " is neither a string nor an array of strings")
		}
	}
	return nil
}

func badClaim(detail string) *authz.Failure {
	return &authz.Failure{Reason: authz.ReasonBadClaim, Detail: detail}
}

func stringOrList(v any) ([]string, bool) {
	if s, ok := v.(string); ok {
		return []string{s}, true
	}
	return jose.StringList(v)
}

// scopes reads a space separated string (RFC 8693, section 4.2) or, as some
// issuers write it, an array.
func scopes(v any) ([]string, bool) {
	if s, ok := v.(string); ok {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), true
	}
	return jose.StringList(v)
}

// numericDate reads a NumericDate (RFC 7519, section 2) exactly: seconds,
// possibly with a fraction or an exponent, rounded up or down to whole ones.
func numericDate(v any, up bool) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if s, err := n.Int64(); err == nil {
		return s, true
	}
	if i := strings.IndexAny(string(n), "eE"); i >= 0 && len(n)-i > 4 {
		return 0, false // an exponent of three digits is no time
	}
	exact, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return 0, false
	}
	// Floor division; the denominator is positive.
	q, rest := new(big.Int).DivMod(exact.Num(), exact.Denom(), new(big.Int))
	if !q.IsInt64() {
		return 0, false
	}
	s := q.Int64()
	if up && rest.Sign() != 0 {
		s++
	}
	return s, true
}

// ahead is the leeway for times in the future, in seconds. A token that was
// minted this moment by an issuer whose clock is a little ahead is no attack,
// while one that has expired is over: so only the future has a leeway always.
func Ahead(leeway int64) int64 { return max(leeway, int64(authz.FutureLeeway/time.Second)) }

// checkTimes compares exp, nbf, iat with the clock and the lifetime with its
// bound.
func (v *Verifier) checkTimes(t *authz.Token, leeway int64, anyLifetime bool) *authz.Failure {
	now := v.clock.Now().Unix()
	switch {
	case t.Expires != 0 && now >= t.Expires+leeway:
		return &authz.Failure{Reason: authz.ReasonExpired, Detail: "exp was " + authz.FormatTime(t.Expires)}
	case t.NotValidBefore > now+Ahead(leeway):
		return &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "nbf is " + authz.FormatTime(t.NotValidBefore)}
	case t.IssuedAt > now+Ahead(leeway):
		return &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "iat is " + authz.FormatTime(t.IssuedAt)}
	}
	if anyLifetime {
		return nil
	}
	from, until := now, t.Expires
	if _, ok := t.Claims["iat"]; ok {
		from = t.IssuedAt
	}
	if until == 0 { // a statement without exp: its age is bounded instead
		until = now
		if _, ok := t.Claims["iat"]; !ok {
			return badClaim("neither exp nor iat")
		}
	}
	if until-from > v.maxTTL {
		return &authz.Failure{Reason: authz.ReasonLifetimeTooLong, Detail: fmt.Sprintf("valid for %ds; at most %ds are accepted", until-from, v.maxTTL)}
	}
	return nil
}
