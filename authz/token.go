package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Token is a verified bearer credential. It is immutable, everything that it
// refers to included, because requests share it.
type Token struct {
	Raw      string // compact serialization (RFC 7515, section 7.1); a secret: never logged
	Issuer   string // "iss"
	Subject  string // "sub"
	ID       string // "jti"; empty when absent
	Session  string // "sid"; empty when absent
	KeyID    string // "kid" of the key that verified it, named in the header or not; empty when the key has none
	Type     string // "typ" of the header, lower case, without "application/"; empty when absent
	Audience []string
	Scopes   []string // from "scope" (space separated, RFC 8693) or "scp"
	// Accepted: "aud" contains one of the audiences configured for the issuer.
	// A route without audiences of its own requires it.
	Accepted       bool
	Claims         map[string]any // every claim as decoded JSON; numbers are json.Number
	IssuedAt       int64          // Unix seconds, rounded down; 0: absent
	Expires        int64          // Unix seconds, rounded up; always present
	NotValidBefore int64          // "nbf" in Unix seconds, rounded up; 0: absent
	// Generation is the issuer's key generation the token was verified under;
	// see Verifier.Current.
	Generation uint64
	Keys       []Key // every revocation key that can match, the KindToken key last
	// Status is where the issuer publishes the token's status; nil: the token
	// does not say.
	Status *StatusRef
	// Encoded holds an adapter's encoded answer for this token, so that it is
	// encoded once. The adapter owns the concrete type.
	Encoded atomic.Pointer[any]
}

// TokenValue is the Value of a KindToken revocation: the lower-case hex SHA-256
// of SignedPart. A JWT's signature is left out because some algorithms let
// anyone make another valid one (ECDSA: s and n-s).
func TokenValue(raw string) string {
	signed, _ := SignedPart(raw)
	sum := sha256.Sum256([]byte(signed))
	return hex.EncodeToString(sum[:])
}

// SignedPart returns a JWT's header and payload with the dot between them, and
// true; for any other token its whole text, and false. A JWT has three
// segments, and the first is base64url of text that begins with "{". SignedPart
// allocates nothing, because routes with introspection call it on every request.
func SignedPart(raw string) (string, bool) {
	head, rest, _ := strings.Cut(raw, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.IndexByte(signature, '.') >= 0 || !encodesObject(head) {
		return raw, false
	}
	return raw[:len(head)+1+len(payload)], true
}

// encodesObject reports whether s is base64url of text that begins, white space
// aside, like a JSON object.
func encodesObject(s string) bool {
	for i := range len(s) {
		if !base64urlBytes[s[i]] {
			return false
		}
	}
	_, ok := objectStart(s)
	return ok && len(s)%4 != 1
}

// SetKeys computes Keys and Status from the other fields. also are further
// keys of revocations that can match the token.
func (t *Token) SetKeys(also ...Key) {
	t.Status = readStatusRef(t.Claims)
	names := PartyNames(t.Claims)
	keys := make([]Key, 0, 7+len(names)+len(also))
	for _, k := range append([]KeyName{{KindJTI, t.ID}, {KindSub, t.Subject}, {KindSID, t.Session}, {KindKID, t.KeyID}}, names...) {
		if k.Value != "" {
			keys = append(keys, k.Key(t.Issuer))
		}
	}
	last := []Key{RevocationKey(KindIss, t.Issuer, ""), allKey, RevocationKey(KindToken, t.Issuer, TokenValue(t.Raw))}
	for _, k := range also {
		if !slices.Contains(keys, k) && !slices.Contains(last, k) {
			keys = append(keys, k)
		}
	}
	t.Keys = append(keys, last...)
}

// allKey is the key of KindAll, which every token has.
var allKey = RevocationKey(KindAll, "", "")

// PartyNames returns by which parties a token with the claims can be revoked:
// its client, and the party that acts with it with those that acted before
// (RFC 8693, section 4.1).
func PartyNames(claims map[string]any) []KeyName {
	var names []KeyName
	for _, name := range []string{"client_id", "azp"} { // RFC 9068, section 2.2; OpenID Connect Core 1.0, section 2
		if client := scalarText(claims[name]); client != "" {
			names = append(names, KeyName{KindClient, client})
			break
		}
	}
	for act, ok := claims["act"].(map[string]any); ok; act, ok = act["act"].(map[string]any) {
		actor := KeyName{KindActor, scalarText(act["sub"])}
		if actor.Value != "" && !slices.Contains(names, actor) {
			names = append(names, actor)
		}
	}
	return names
}

// ClaimNames returns by which of the revocable claims a token with the claims can
// be revoked. It refuses a token that has such a claim in a form that no
// revocation can name.
func ClaimNames(claims map[string]any, revocable []string) ([]KeyName, *Failure) {
	var names []KeyName
	for _, name := range revocable {
		v := claims[name]
		if v == nil || v == "" {
			continue
		}
		text := scalarText(v)
		value := ClaimValue(name, text)
		if text == "" || len(value) > MaxIdentifier || !ValidText(value) {
			return nil, Failuref(ReasonBadClaim, "%s can revoke tokens (revocation.claims), and is no text, number or boolean that a revocation could name", QuoteShort(name))
		}
		names = append(names, KeyName{KindClaim, value})
	}
	return names, nil
}

// ClaimValue is the Value of a KindClaim revocation.
func ClaimValue(name, value string) string { return name + "=" + value }

// scalarText returns a string, number or boolean as the token's JSON spells it; ""
// for anything else.
func scalarText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// KeysOf returns the revocation keys of the names.
func KeysOf(issuer string, names []KeyName) []Key {
	keys := make([]Key, len(names))
	for i, n := range names {
		keys[i] = n.Key(issuer)
	}
	return keys
}

// SetSecurityEventKeys sets Keys for a security event token: the revocation of
// its signing key invalidates it, under any of the key's aliases. Revocations
// of its subject or session do not, because it is about those.
func (t *Token) SetSecurityEventKeys(aliases []Key) {
	var keys []Key
	if t.KeyID != "" {
		keys = append(keys, RevocationKey(KindKID, t.Issuer, t.KeyID))
	}
	// No access token has this key, so that neither takes the other's cached verdict.
	t.Keys = append(append(keys, aliases...), RevocationKey(KindToken, t.Issuer, "security event "+TokenValue(t.Raw)))
}

// StatusRef is a token's place in a list that its issuer publishes: the
// "status_list" of its "status" claim (OAuth Token Status List,
// draft-ietf-oauth-status-list, section 6).
type StatusRef struct {
	URI   string // empty: the claim is malformed, and nothing can be proven
	Index uint64
}

func readStatusRef(claims map[string]any) *StatusRef {
	v, present := claims["status"]
	if !present {
		return nil
	}
	status, ok := v.(map[string]any)
	if v, present = status["status_list"]; ok && !present {
		return nil // another mechanism, which this product does not judge
	}
	list, _ := v.(map[string]any)
	uri, _ := list["uri"].(string)
	n, _ := list["idx"].(json.Number)
	idx, err := n.Int64()
	if err != nil || idx < 0 || len(uri) > 2048 {
		return &StatusRef{}
	}
	return &StatusRef{URI: uri, Index: uint64(idx)}
}

// Query returns the query for t's revocation.
func (t *Token) Query() Query {
	return Query{Keys: t.Keys, TokenKey: t.Keys[len(t.Keys)-1], IssuedAt: t.IssuedAt, Expires: t.Expires, Issuer: t.Issuer, ID: t.ID, Status: t.Status}
}

// Verifier turns the text of a bearer credential into a verified Token.
type Verifier interface {
	// Verify checks form, signature, issuer and times, but not the audience, which
	// is the route's to check. On failure, a panic included, it returns a nil Token
	// and an error that wraps a *Failure.
	Verify(ctx context.Context, raw string) (*Token, error)
	// Current reports whether a token verified earlier is still valid at now, by
	// exp and nbf with leeway, and its signing key not withdrawn. It does no I/O.
	Current(t *Token, now int64) bool
	// Expired reports whether a token that it verified earlier is past its exp, with
	// leeway, at now. It returns false for a token that it did not verify. It does
	// no I/O.
	Expired(t *Token, now int64) bool
}

// TracingVerifier is a Verifier that can record how it came to its answer.
type TracingVerifier interface {
	// VerifyTraced verifies as Verify does and records each rule in tr. It may
	// return a token that breaks a rule if tr holds the objection.
	VerifyTraced(ctx context.Context, raw string, tr *Trace) (*Token, error)
}

// Introspector asks the issuer of a token about it (RFC 7662).
type Introspector interface {
	// Local reports whether raw is a JWT that the Verifier alone judges if it knows
	// the issuer. All other tokens are introspected, those that the Verifier has
	// accepted included.
	Local(raw string) bool
	// Introspect returns the token's claims as the issuer's response states them,
	// restricted by what the token says against itself, or an error that wraps a
	// *Failure. verified is the token as the Verifier accepted it; nil: it is no JWT
	// of a configured issuer. client is the IP address that the request came from;
	// empty: unknown. The issuer's answer may come after ctx has ended, for the next
	// request with the token.
	Introspect(ctx context.Context, raw string, verified *Token, client string) (*Token, error)
}

// TokenCache holds verified tokens by their whole text. It never holds failures,
// and it proves nothing: Verifier.Current checks every hit.
type TokenCache interface {
	Get(raw string) (*Token, bool)
	// Peek is Get without its effects: it counts neither a hit nor a miss, and the
	// token is no more recently used than before. It does not block.
	Peek(raw string) (*Token, bool)
	Put(t *Token)
}

// ReplayStore records what must not be used twice.
type ReplayStore interface {
	// Seen records key for ttl and reports whether it was recorded already. After
	// an error nothing is known, and the caller must deny.
	Seen(ctx context.Context, key string, ttl time.Duration) (bool, error)
}
