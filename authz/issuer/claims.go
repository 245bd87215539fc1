package issuer

import (
	"cmp"
	"encoding/json"
	"math/big"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// ReadClaims sets the token's fields from the claims (RFC 7519, section 4.1) and
// refuses a claim of another type. needExp is false only for security event
// tokens, in which exp is optional (RFC 8417, section 2.2).
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
	for _, name := range []string{"scope", "scp"} {
		if v, present := claims[name]; present {
			if t.Scopes, ok = scopes(v); !ok {
				return badClaim(name + " is neither a string nor an array of strings")
			}
			break
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

// scopes reads a space-separated string (RFC 8693, section 4.2), or the array
// that some issuers use instead.
func scopes(v any) ([]string, bool) {
	if s, ok := v.(string); ok {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), true
	}
	return jose.StringList(v)
}

// numericDate reads a NumericDate (RFC 7519, section 2) exactly, with fraction
// and exponent, and rounds it up or down to whole seconds.
func numericDate(v any, up bool) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if s, err := n.Int64(); err == nil {
		return s, true
	}
	if i := strings.IndexAny(string(n), "eE"); i >= 0 && len(n)-i > 4 {
		return 0, false // no time has an exponent of three digits
	}
	exact, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return 0, false
	}
	// Floor division; the denominator is positive.
	q, rest := new(big.Int).DivMod(exact.Num(), exact.Denom(), new(big.Int))
	if up && rest.Sign() != 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64(), q.IsInt64()
}

// FutureLeeway returns the leeway for nbf and iat in seconds: the configured
// leeway, but at least authz.FutureLeeway.
func FutureLeeway(leeway int64) int64 { return max(leeway, int64(authz.FutureLeeway/time.Second)) }

// checkTimes compares exp, nbf and iat with the clock, and the lifetime with
// its bound.
func (v *Verifier) checkTimes(t *authz.Token, leeway int64, anyLifetime bool) *authz.Failure {
	now := v.clock.Now().Unix()
	_, hasIat := t.Claims["iat"]
	switch {
	case t.Expires != 0 && now >= t.Expires+leeway:
		return &authz.Failure{Reason: authz.ReasonExpired, Detail: "exp was " + authz.FormatTime(t.Expires)}
	case t.NotValidBefore > now+FutureLeeway(leeway):
		return &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "nbf is " + authz.FormatTime(t.NotValidBefore)}
	case t.IssuedAt > now+FutureLeeway(leeway):
		return &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "iat is " + authz.FormatTime(t.IssuedAt)}
	case anyLifetime:
		return nil
	case t.Expires == 0 && !hasIat:
		return badClaim("neither exp nor iat")
	}
	from, until := now, cmp.Or(t.Expires, now) // without exp, its age is bounded
	if hasIat {
		from = t.IssuedAt
	}
	if until-from > v.maxTTL {
		return authz.Failuref(authz.ReasonLifetimeTooLong, "valid for %ds; at most %ds are accepted", until-from, v.maxTTL)
	}
	return nil
}
