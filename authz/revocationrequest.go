package authz

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RevocationRequest is what a caller asks to be revoked, whether in JSON, flags,
// a form, or the claims of a message. Normalize turns it into revocations.
//
// A nil pointer means that the caller left the member out; a pointer to an
// empty text is refused, because it is usually a variable that was not set.
type RevocationRequest struct {
	Issuer *string // optional with one configured issuer, or a whole JWT in Token
	// Exactly one of JTI, Sub, SID, KID, Client, Actor, Claim, Token, All and
	// AllIssuers selects the tokens.
	JTI, Sub, SID, KID, Client, Actor *string
	Claim                             *string // ClaimValue of one of Issuers.Claims
	Token                             *string // a whole JWT, or the TokenValue of any token
	All                               bool    // every token of Issuer, which must be set
	AllIssuers                        bool    // every token of every issuer; needs Confirm
	Confirm                           string  // "all_issuers", if AllIssuers is set: nobody shall do that by mistake
	// NotBefore limits the revocation to tokens issued earlier; see Revocation.
	NotBefore time.Time
	ExpiresAt time.Time // see Revocation
	Reason    string    // free text for the audit trail
	RevokedBy string    // who asks
	// FromClaims says that the selector is a claim of a verified token or
	// message, which may be any text. Any other selector is refused if it
	// contains a token, because values are logged.
	FromClaims bool
}

// Select selects the tokens that (kind, value) identifies. KindIss and KindAll take
// no value; KindUnknown selects nothing.
func (q *RevocationRequest) Select(kind Kind, value string) {
	switch kind {
	case KindJTI:
		q.JTI = &value
	case KindSub:
		q.Sub = &value
	case KindSID:
		q.SID = &value
	case KindKID:
		q.KID = &value
	case KindToken:
		q.Token = &value
	case KindClient:
		q.Client = &value
	case KindActor:
		q.Actor = &value
	case KindClaim:
		q.Claim = &value
	case KindIss:
		q.All = true
	case KindAll:
		q.AllIssuers = true
	}
}

// Expired reports whether ExpiresAt has passed: there is nothing left to revoke.
func (q *RevocationRequest) Expired(now time.Time) bool {
	return !q.ExpiresAt.IsZero() && !q.ExpiresAt.After(now)
}

// Normalize checks the request and returns the revocations that fulfil it, one
// per issuer that may accept the tokens, or two if their expiry is the later of
// two. A request that they could not keep is refused. Errors are *InvalidError.
func (q *RevocationRequest) Normalize(issuers Issuers, now time.Time) ([]Revocation, error) {
	r, err := q.selected()
	if err != nil {
		return nil, err
	}
	names, also, err := q.scope(&r, issuers, now)
	if err != nil {
		return nil, err
	}
	var out []Revocation
	for _, r.Issuer = range names {
		out = append(out, r)
		if !also.IsZero() {
			out = append(out, r)
			out[len(out)-1].ExpiresAt = also
		}
	}
	for i := range out {
		if err := out[i].Normalize(now); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// selected returns the revocation without its issuer.
func (q *RevocationRequest) selected() (Revocation, error) {
	r := Revocation{NotBefore: q.NotBefore, ExpiresAt: q.ExpiresAt, Reason: q.Reason, RevokedBy: q.RevokedBy}
	selectors := 0
	for _, s := range []struct {
		kind  Kind
		value *string
	}{{KindJTI, q.JTI}, {KindSub, q.Sub}, {KindSID, q.SID}, {KindKID, q.KID}, {KindClient, q.Client}, {KindActor, q.Actor}, {KindClaim, q.Claim}, {KindToken, q.Token}} {
		if s.value == nil {
			continue
		}
		selectors++
		r.Kind, r.Value = s.kind, *s.value
		switch {
		case r.Value == "":
			return r, invalid(s.kind.String(), "must not be empty")
		case s.kind != KindToken && !q.FromClaims && HoldsToken(r.Value):
			return r, invalid(s.kind.String(), `looks like a token; give it as "token"`)
		}
	}
	if HoldsToken(q.Reason) {
		return r, invalid("reason", "looks like a token; reasons are logged")
	}
	if q.All {
		selectors++
		r.Kind, r.Value = KindIss, ""
	}
	if q.AllIssuers {
		selectors++
		r.Kind, r.Value = KindAll, ""
	}
	switch {
	case selectors == 0:
		return r, invalid("", `one of jti, sub, sid, kid, client, actor, claim, token is needed; to revoke every token of an issuer, set "all": true and name the issuer`)
	case selectors > 1:
		return r, invalid("", "only one of jti, sub, sid, kid, client, actor, claim, token, all, all_issuers is allowed; send several revocations as an array")
	case q.All && q.Issuer == nil:
		return r, invalid("iss", `must be named if "all" is true`)
	case q.AllIssuers && q.Issuer != nil:
		return r, invalid("iss", `must be absent if "all_issuers" is true; "all" revokes the tokens of one issuer`)
	case q.AllIssuers && q.Confirm != KindAll.String():
		return r, invalid("confirm", `must be %q to revoke every token of every issuer`, KindAll.String())
	case !q.AllIssuers && q.Confirm != "":
		return r, invalid("confirm", `belongs to "all_issuers"`)
	}
	return r, nil
}

// scope returns the issuers of the tokens. also is a second expiry, of which the
// ledger keeps the later one; the zero time: there is none.
func (q *RevocationRequest) scope(r *Revocation, issuers Issuers, now time.Time) (names []string, also time.Time, err error) {
	all := issuers.All()
	jwt := r.Kind == KindToken && strings.Contains(r.Value, ".")
	switch {
	case r.Kind == KindToken && !jwt && !isHexSHA256(r.Value):
		return nil, also, invalid("token", "is neither a compact JWT nor the 64 lower-case hex digits of a SHA-256: of a JWT's header and payload, or of the whole text of an opaque token")
	case r.Kind == KindAll:
		return []string{""}, also, nil
	case r.Kind == KindClaim && !slices.ContainsFunc(issuers.Claims, func(name string) bool { return strings.HasPrefix(r.Value, ClaimValue(name, "")) }):
		return nil, also, invalid("claim", "must be the claim's name, =, and its value, with a claim of revocation.claims (%s); by others no sidecar revokes", cmp.Or(strings.Join(issuers.Claims, ", "), "none is configured"))
	case q.Issuer != nil && !issuers.Known(*q.Issuer):
		return nil, also, invalid("iss", "is not a configured issuer")
	case jwt:
		return q.scopeJWT(r, issuers, now)
	case q.Issuer != nil:
		return []string{*q.Issuer}, also, nil
	case len(all) == 1 && len(issuers.Templates) == 0:
		return all, also, nil
	}
	return nil, also, invalid("iss", "is needed because more than one issuer is configured; name one of %s", quoteSome(append(all, issuers.Templates...)))
}

// quoteSome quotes the first few names of a list.
func quoteSome(names []string) string {
	const most = 10
	var quoted []string
	for i, name := range names {
		if i == most {
			quoted = append(quoted, "…")
			break
		}
		quoted = append(quoted, strconv.Quote(name))
	}
	return strings.Join(quoted, ", ")
}

// scopeJWT replaces a whole JWT by its hash and returns every issuer that may
// accept it. It reads claims without verifying them, which is harmless: the hash
// matches this token only.
func (q *RevocationRequest) scopeJWT(r *Revocation, issuers Issuers, now time.Time) (names []string, also time.Time, err error) {
	claims, ok := ReadUnverifiedClaims(r.Value)
	if !ok {
		return nil, also, invalid("token", "is not a compact JWT (RFC 7519)")
	}
	issuer := issuers.NameOf(claims)
	verified := issuers.Verifies(issuer)
	names = issuers.Introspecting(!verified)
	expCounts := len(names) == 0 // an introspected issuer need not heed the claim
	if verified && !slices.Contains(names, issuer) {
		names = append(names, issuer)
	}
	expires, ends := claims.end()
	switch {
	case len(names) == 0 && issuer == "":
		return nil, also, invalid("token", "names no issuer (iss), and no issuer is configured for such tokens; no sidecar accepts it")
	case len(names) == 0:
		return nil, also, invalid("token", "names an issuer that is not configured")
	case q.Issuer != nil && !slices.Contains(names, *q.Issuer):
		return nil, also, invalid("iss", "is not the issuer that the token names")
	case expCounts && !ends:
		return nil, also, invalid("token", "has no exp in the years 1970 to 9999; no sidecar accepts it, and no revocation would outlive it")
	case ends && !r.ExpiresAt.IsZero() && r.ExpiresAt.Before(expires):
		return nil, also, invalid("expires_at", "is before the token's exp, %s: the token would become valid again; leave expires_at out", expires.UTC().Format(time.RFC3339))
	case !r.NotBefore.IsZero() && claims.IssuedAt >= float64(ceilUnix(r.NotBefore)):
		return nil, also, invalid("not_before", "is not after the token's iat: the token would stay valid; leave not_before out")
	}
	r.Value = TokenValue(r.Value)
	kept := expires.Add(ExpiryMargin)
	switch {
	case !ends:
	case expCounts && r.ExpiresAt.IsZero() && !kept.After(now):
		return nil, also, invalid("token", "has expired; there is nothing left to revoke")
	case expCounts && r.ExpiresAt.IsZero(), !r.ExpiresAt.IsZero() && r.ExpiresAt.Before(kept):
		r.ExpiresAt = kept
	case r.ExpiresAt.IsZero() && claims.Ageless(now) && kept.After(now):
		also = kept
	}
	return names, also, nil
}

// ParseTime reads a time as people write it: seconds since 1970 (a NumericDate,
// RFC 7519, section 2) or RFC 3339.
func ParseTime(text string) (time.Time, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(seconds) && !math.IsInf(seconds, 0) {
		return NumericDate(seconds)
	}
	return ParseRFC3339(text)
}

// ParseRFC3339 reads an RFC 3339 time in the years 1970 to 9999.
func ParseRFC3339(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errors.New("is not an RFC 3339 time such as 2030-01-31T12:00:00Z")
	}
	if u := t.Unix(); u <= 0 || u > LastSecond {
		return time.Time{}, errors.New("is outside the years 1970 to 9999")
	}
	return t, nil
}

// NumericDate converts seconds since 1970 (RFC 7519, section 2) to a time in
// the years 1970 to 9999.
func NumericDate(seconds float64) (time.Time, error) {
	if !(seconds > 0 && seconds <= LastSecond) { // NaN fails both
		return time.Time{}, errors.New("is not a number of seconds since 1970 (is it in milliseconds?)")
	}
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9)).UTC(), nil
}
