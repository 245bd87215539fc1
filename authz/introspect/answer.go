package introspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/jose"
)

// answer is what the endpoint answered about one token.
type answer struct {
	claims map[string]any // members of the response (RFC 7662, section 2.2)
	text   int            // bytes of the response, with which the claims share memory
	// until is the Clock.Boot until which requests may arrive that the answer serves.
	// It counts from when the question was sent: the answer is no older.
	until time.Duration
	// renew is the Clock.Boot from which the next request asks again, so that none
	// has to wait.
	renew atomic.Int64
	// judged is the last judgement. It depends on the token's text, the response, and
	// what the verifier made of the text.
	judged atomic.Pointer[judgement]
}

// judgement is a token or a failure.
type judgement struct {
	verified   bool
	generation uint64 // of the verified token
	token      *authz.Token
	fail       *authz.Failure
}

// size estimates the memory of a in bytes.
func (a *answer) size() int {
	const fixed = 512 // the node of the cache, the failure with its detail
	n := fixed + a.text
	if j := a.judged.Load(); j != nil && j.token != nil {
		n += j.token.Size() + 64*len(a.claims)
	}
	return n
}

// judge judges raw by a and by verified, the token as this process verified it;
// nil: it did not.
func (n *introspection) judge(raw string, a *answer, verified *authz.Token) *judgement {
	j := &judgement{verified: verified != nil}
	if verified != nil {
		j.generation = verified.Generation
	}
	// Generation 0 is of a trace, which verifies anew each time.
	if last := a.judged.Load(); last != nil && last.verified == j.verified && last.generation == j.generation && (j.generation != 0 || !j.verified) {
		return last
	}
	j.token, j.fail = n.evaluate(strings.Clone(raw), a.claims, verified)
	a.judged.Store(j)
	return j
}

// result is the judgement at now.
func (j *judgement) result(now time.Time) (*authz.Token, error) {
	switch {
	case j.fail != nil:
		return nil, j.fail
	case now.Unix() >= j.token.Expires:
		return nil, &authz.Failure{Reason: authz.ReasonExpired, Detail: "exp was " + authz.FormatTime(j.token.Expires)}
	case now.Unix()+issuer.FutureLeeway(0) < j.token.NotValidBefore: // as of verified tokens
		return nil, &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "nbf is " + authz.FormatTime(j.token.NotValidBefore)}
	}
	return j.token, nil
}

// evaluate makes a token of the members of a response. It returns a token or a
// failure.
func (n *introspection) evaluate(raw string, response map[string]any, verified *authz.Token) (*authz.Token, *authz.Failure) {
	if response["active"] != true {
		return nil, &authz.Failure{Reason: authz.ReasonInactive, Detail: "the issuer says that the token is not active"}
	}
	own, fail := n.readOwn(raw, verified)
	if fail != nil {
		return nil, fail
	}
	t, claims := &authz.Token{Raw: raw}, maps.Clone(response)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil }) // absent
	if fail := issuer.ReadClaims(t, claims, true); fail != nil {
		return nil, fail
	}
	switch {
	case t.Issuer == "":
		t.Issuer, claims["iss"] = n.cfg.Issuer, n.cfg.Issuer
	case t.Issuer != n.cfg.Issuer:
		return nil, &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: "the response names another issuer"}
	case own != nil && own.Issuer != "" && own.Issuer != t.Issuer:
		return nil, &authz.Failure{Reason: authz.ReasonUnknownIssuer, Detail: "the response and the token name different issuers"}
	}
	t.Accepted = true
	if own != nil {
		if fail := restrict(t, own); fail != nil {
			return nil, fail
		}
	}
	t.Accepted = t.Accepted && issuer.Config{Audiences: n.cfg.Audiences}.Accepts(t.Audience)
	if fail := issuer.CheckUse("", claims, n.cfg.AcceptIDTokens); fail != nil {
		return nil, fail
	}
	now := n.clock.Now().Unix()
	from := now
	if _, ok := claims["iat"]; ok {
		from = t.IssuedAt
	}
	switch {
	case t.IssuedAt > now+issuer.FutureLeeway(0):
		return nil, &authz.Failure{Reason: authz.ReasonNotYetValid, Detail: "iat is " + authz.FormatTime(t.IssuedAt)}
	case t.Expires-from > n.maxTTL:
		return nil, authz.Failuref(authz.ReasonLifetimeTooLong, "valid for %ds; at most %ds are accepted", t.Expires-from, n.maxTTL)
	}
	names, fail := authz.ClaimNames(t.Claims, n.revocable)
	if fail != nil {
		return nil, fail
	}
	also := authz.KeysOf(t.Issuer, names)
	if own != nil {
		also = append(also, own.Keys...)
	}
	t.SetKeys(also...)
	return t, nil
}

// readOwn returns what raw says about itself: verified, or the text of a JWT that
// nothing here has verified, in the same form. It returns nil for an opaque token,
// and a failure for a JWT that is refused whatever its issuer answers.
func (n *introspection) readOwn(raw string, verified *authz.Token) (*authz.Token, *authz.Failure) {
	if verified != nil {
		return verified, nil
	}
	signed, jwt := authz.SignedPart(raw)
	if !jwt {
		return nil, nil //nolint:nilnil // an opaque token says nothing
	}
	head, body, _ := strings.Cut(signed, ".")
	b, _ := authz.DecodeSegment(body)
	claims, err := jose.ParseObject(string(b))
	if err != nil {
		if !n.Local(raw) && !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
			return nil, nil //nolint:nilnil // an opaque token with dots
		}
		// Two parsers may read it differently, and so its restrictions.
		return nil, authz.Failuref(authz.ReasonMalformedToken, "payload: %v", err)
	}
	header, _ := segmentObject(head)
	typ, _ := header["typ"].(string)
	t := &authz.Token{Raw: raw, Type: jose.MediaType(typ), Accepted: true}
	stated := map[string]any{}
	for _, name := range []string{"iss", "exp", "nbf", "iat", "aud", "scope", "scp"} {
		if v := claims[name]; v != nil {
			stated[name] = v
		}
	}
	if fail := issuer.ReadClaims(t, stated, false); fail != nil {
		return nil, fail
	}
	t.Claims = claims
	if strings.HasSuffix(t.Type, "+jwt") && t.Type != "at+jwt" { // explicit typing (RFC 8725, section 3.11)
		return nil, authz.Failuref(authz.ReasonUnsupportedToken, "typ %s is not accepted here", authz.QuoteShort(t.Type))
	}
	if fail := issuer.CheckUse(t.Type, claims, n.cfg.AcceptIDTokens); fail != nil {
		return nil, fail
	}
	names, fail := authz.ClaimNames(claims, n.revocable)
	if fail != nil {
		return nil, fail
	}
	t.Keys = authz.KeysOf(n.cfg.Issuer, append(OwnNames(raw), names...))
	return t, nil
}

// restrict applies to t, the token of a response, what the JWT says against itself.
// The response grants, and the JWT can only take away: what it says more than the
// response, nobody may have verified, and what it says less, the issuer may have
// changed since.
func restrict(t, own *authz.Token) *authz.Failure {
	for name, reason := range map[string]authz.Reason{"cnf": authz.ReasonBindingMismatch, "act": authz.ReasonBadClaim, "status": authz.ReasonBadClaim} {
		mine, said := own.Claims[name], t.Claims[name]
		switch {
		case mine == nil:
		case said == nil:
			t.Claims[name] = mine
		case !reflect.DeepEqual(mine, said):
			return &authz.Failure{Reason: reason, Detail: name + " differs between the response and the token"}
		}
	}
	number := func(name string, at int64) int64 {
		t.Claims[name] = json.Number(fmt.Sprint(at))
		return at
	}
	if own.Expires != 0 && own.Expires < t.Expires {
		t.Expires = number("exp", own.Expires)
	}
	if own.NotValidBefore > t.NotValidBefore {
		t.NotValidBefore = number("nbf", own.NotValidBefore)
	}
	if own.Claims["iat"] != nil && own.IssuedAt < t.IssuedAt { // an older token is revoked by more
		t.IssuedAt = number("iat", own.IssuedAt)
	}
	if own.Claims["aud"] != nil {
		t.Accepted = own.Accepted
		if both := intersect(t.Audience, own.Audience); len(both) < len(t.Audience) {
			t.Audience, t.Claims["aud"], t.Accepted = both, anyList(both), own.Accepted && len(both) > 0
		}
	}
	if own.Claims["scope"] != nil || own.Claims["scp"] != nil {
		if both := intersect(t.Scopes, own.Scopes); len(both) < len(t.Scopes) {
			delete(t.Claims, "scp")
			t.Scopes, t.Claims["scope"] = both, strings.Join(both, " ")
		}
	}
	t.KeyID, t.Type = own.KeyID, own.Type
	return nil
}

// intersect returns the members of a that are in b.
func intersect(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

func anyList(list []string) []any {
	all := make([]any, len(list))
	for i, s := range list {
		all[i] = s
	}
	return all
}

// OwnNames returns the names in the text of a JWT by which it can be revoked.
// A response need not repeat them (RFC 7662, section 2.2) and never contains the
// kid. Nothing has verified them.
func OwnNames(raw string) []authz.KeyName {
	signed, jwt := authz.SignedPart(raw)
	if !jwt {
		return nil
	}
	head, body, _ := strings.Cut(signed, ".")
	header, _ := segmentObject(head) // nil if malformed
	claims, _ := segmentObject(body)
	var names []authz.KeyName
	for _, p := range []struct {
		kind  authz.Kind
		value any
	}{{authz.KindJTI, claims["jti"]}, {authz.KindSub, claims["sub"]}, {authz.KindSID, claims["sid"]}, {authz.KindKID, header["kid"]}} {
		if s, _ := p.value.(string); s != "" {
			names = append(names, authz.KeyName{Kind: p.kind, Value: s})
		}
	}
	return append(names, authz.PartyNames(claims)...)
}

// segmentObject parses a JWT's header or payload.
func segmentObject(segment string) (map[string]any, error) {
	b, ok := authz.DecodeSegment(segment)
	if !ok {
		return nil, errors.New("not base64url without padding")
	}
	return jose.ParseObject(string(b))
}
