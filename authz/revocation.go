package authz

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is the property of a token that a revocation names. Revocations are
// scoped by issuer: the same jti from two issuers is two tokens.
type Kind uint8

// The kinds of revocation. Their numbers are stored and must not change.
const (
	KindUnknown Kind = 0  // the zero Kind names nothing and is refused everywhere
	KindJTI     Kind = 1  // one token, by its "jti" (RFC 7519, section 4.1.7)
	KindSub     Kind = 2  // the tokens of a subject issued before NotBefore
	KindSID     Kind = 3  // the tokens of a login session ("sid", OpenID Connect)
	KindKID     Kind = 4  // the tokens signed with a key, by its "kid"
	KindIss     Kind = 5  // the tokens of the whole issuer issued before NotBefore; Value is empty
	KindToken   Kind = 6  // one token, by TokenValue (for tokens without jti)
	KindClient  Kind = 7  // the tokens issued to a client ("client_id", else "azp") before NotBefore
	KindActor   Kind = 8  // the tokens issued before NotBefore with which a party acts for another ("act", RFC 8693, section 4.1)
	KindClaim   Kind = 9  // the tokens with a configured claim issued before NotBefore; Value is ClaimValue
	KindAll     Kind = 10 // the tokens of every issuer issued before NotBefore; Issuer and Value are empty
)

var kindNames = [...]string{
	KindUnknown: "unknown", KindJTI: "jti", KindSub: "sub", KindSID: "sid", KindKID: "kid", KindIss: "iss", KindToken: "token",
	KindClient: "client", KindActor: "actor", KindClaim: "claim", KindAll: "all_issuers",
}

// KindNames returns the names of all kinds but KindUnknown, in the order of their
// numbers.
func KindNames() []string { return slices.Clone(kindNames[1:]) }

// String returns the kind's name in the API and on the command line.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// ByTime reports whether a revocation of the kind without NotBefore gets the time
// of the request as NotBefore: what it names outlives its tokens, and new ones
// shall be good.
func (k Kind) ByTime() bool {
	switch k {
	case KindSub, KindIss, KindClient, KindActor, KindClaim, KindAll:
		return true
	}
	return false
}

// ParseKind is the inverse of Kind.String for all kinds but KindUnknown.
func ParseKind(s string) (Kind, bool) {
	k := max(0, slices.Index(kindNames[:], s))
	return Kind(k), k > 0
}

func isClaimValue(s string) bool {
	name, value, _ := strings.Cut(s, "=")
	return name != "" && value != ""
}

// named reports whether a revocation of the kind has a Value.
func (k Kind) named() bool { return k != KindIss && k != KindAll }

// Key identifies what a revocation matches: the first 16 bytes of
// SHA-256("kind:len(iss):iss:value"), with kind and len (in bytes) in decimal.
// The length keeps the text unambiguous for any issuer and value.
type Key [16]byte

// RevocationKey computes the key of (kind, issuer, value).
func RevocationKey(kind Kind, issuer, value string) Key {
	b := make([]byte, 0, 128)
	b = strconv.AppendUint(b, uint64(kind), 10)
	b = append(b, ':')
	b = strconv.AppendInt(b, int64(len(issuer)), 10)
	b = append(b, ':')
	b = append(b, issuer...)
	b = append(b, ':')
	b = append(b, value...)
	sum := sha256.Sum256(b)
	return Key(sum[:16])
}

// Always is Entry.NotBefore of a revocation without not_before: it revokes every
// matching token.
const Always = int64(math.MaxInt64)

// Entry is a revocation reduced to what enforcement needs.
type Entry struct {
	Key Key
	// NotBefore is in Unix seconds, rounded up. Tokens with a lower iat are
	// revoked; Always revokes all. The zero value revokes nothing, so an Entry
	// must come from Revocation.Entry.
	NotBefore int64
	Expires   int64 // Unix seconds, rounded up; no matching token is valid any more
}

// Revokes reports whether the entry revokes a token issued at iat (Unix
// seconds, rounded down; 0: absent).
func (e Entry) Revokes(iat int64) bool { return e.NotBefore == Always || iat < e.NotBefore }

// Merge combines two entries of one key: the strictest not_before and the
// latest expiry win.
func (e Entry) Merge(o Entry) Entry {
	e.NotBefore = max(e.NotBefore, o.NotBefore)
	e.Expires = max(e.Expires, o.Expires)
	return e
}

// Revocation makes matching tokens invalid. Enforcement uses its Entry.
type Revocation struct {
	ID     string // assigned by the ledger; empty before
	Kind   Kind
	Issuer string // empty for KindAll
	Value  string // what the kind names; empty for KindIss and KindAll
	// NotBefore limits the revocation to tokens issued earlier. It lies at most
	// MaxNotBefore ahead. Zero: all of them,
	// but for kinds that are ByTime Normalize sets it to now, so that a new login
	// works.
	NotBefore time.Time
	// ExpiresAt is when the last matching token has expired. Zero: the later of the
	// last request and NotBefore, plus the max_token_ttl in force; for a kid without
	// NotBefore the year 9999, because its key can sign tokens of any age.
	ExpiresAt time.Time
	RevokedAt time.Time // filled by the ledger
	RevokedBy string    // who requested it, with the source: "cli:bob", "api:alice"
	Reason    string    // free text for the audit trail
}

// Key returns the revocation's key.
func (r Revocation) Key() Key { return RevocationKey(r.Kind, r.Issuer, r.Value) }

// Entry returns the form for enforcement. ExpiresAt must be set.
func (r Revocation) Entry() Entry {
	nb := Always
	if !r.NotBefore.IsZero() {
		nb = ceilUnix(r.NotBefore)
	}
	return Entry{Key: r.Key(), NotBefore: nb, Expires: ceilUnix(r.ExpiresAt)}
}

func ceilUnix(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

// MaxNotBefore is how far NotBefore may lie ahead. A mistyped year would otherwise
// lock its users out until that year.
const MaxNotBefore = 24 * time.Hour

// Errors of the ledger. Implementations wrap them with details.
var (
	// ErrUnavailable: the ledger could not be reached or refused to write;
	// nothing was stored.
	ErrUnavailable = errors.New("revocation ledger unavailable")
	// ErrOutcomeUnknown: the connection was lost during the commit. The
	// revocation may or may not be stored; repeating the request is safe.
	ErrOutcomeUnknown = errors.New("outcome of the commit is unknown; repeat the request")
)

// Normalize checks r against the rules of its kind and sets the NotBefore of a
// sub or iss that has none to now. Errors are *InvalidError.
func (r *Revocation) Normalize(now time.Time) error {
	switch {
	case r.Kind < KindJTI || r.Kind > KindAll:
		return invalid("kind", "must be one of %s", strings.Join(KindNames(), ", "))
	case r.Kind == KindAll && r.Issuer != "":
		return invalid("iss", "must be empty if every issuer is revoked")
	case r.Kind != KindAll && r.Issuer == "":
		return invalid("iss", "must not be empty")
	case !r.Kind.named() && r.Value != "":
		return invalid("value", "must be empty if whole issuers are revoked")
	case r.Kind.named() && r.Value == "":
		return invalid(r.Kind.String(), "must not be empty")
	}
	for _, text := range []struct{ field, value string }{{"iss", r.Issuer}, {r.Kind.String(), r.Value}, {"reason", r.Reason}, {"revoked_by", r.RevokedBy}} {
		if len(text.value) > MaxIdentifier && text.field != "revoked_by" { // it may name an issuer behind a prefix
			return invalid(text.field, "must not be longer than %d bytes", MaxIdentifier)
		}
		if !ValidText(text.value) {
			return invalid(text.field, "must be valid UTF-8 without NUL")
		}
	}
	switch {
	case r.Kind == KindToken && !isHexSHA256(r.Value):
		return invalid("token", "must be the 64 lower-case hex digits of a SHA-256")
	case r.Kind == KindClaim && !isClaimValue(r.Value):
		return invalid("claim", "must be the claim's name, =, and its value")
	case !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now):
		return invalid("expires_at", "%s has passed", r.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if r.NotBefore.Sub(now) > MaxNotBefore {
		return invalid("not_before", "%s lies more than a day ahead: until then every new token would be refused, and no revocation can be undone", r.NotBefore.UTC().Format(time.RFC3339))
	}
	if !r.ExpiresAt.IsZero() && r.NotBefore.After(now) && !r.ExpiresAt.After(r.NotBefore) {
		return invalid("expires_at", "is not after not_before: tokens issued until not_before would become valid again; leave expires_at out, or name the time when the last of them has expired")
	}
	if r.Kind.ByTime() && r.NotBefore.IsZero() {
		r.NotBefore = now
	}
	return nil
}

// Appended is what a Ledger has committed.
type Appended struct {
	// Revocations are as stored, in the order in which they were given.
	Revocations []Revocation
	// MaxStaleness bounds the time from the commit to enforcement: no sidecar
	// allows a matching token on a request that arrives later. It is read in the
	// transaction that commits. 0: no revocations were given.
	MaxStaleness time.Duration
}

// Ledger is the write side of the authority: a committed revocation is in force.
type Ledger interface {
	// Append stores the revocations durably, all or none, and returns them with
	// ID, ExpiresAt, RevokedAt and, if the kind is ByTime, NotBefore set. It is idempotent: of
	// two with equal kind, issuer, value and not_before it stores one, with the
	// later expiry. Errors: ErrInvalid, ErrUnavailable, ErrOutcomeUnknown, or ctx's.
	Append(ctx context.Context, revocations []Revocation) (Appended, error)
}

// Filter selects revocations for Lister. A zero field does not restrict.
type Filter struct {
	Kind   Kind
	Issuer string
	Value  string
	// ValuePrefix selects the values that begin with it, compared byte by byte.
	// The list is then in the order of the values, and oldest first among equals.
	ValuePrefix string
	// Since selects revocations that were requested then or later.
	Since time.Time
	// By selects those of one actor or, if it ends with a colon, through one source,
	// such as "cli:"; see Requester.
	By             string
	IncludeExpired bool
	Limit          int    // maximum entries per page, up to 1000; 0 means 100
	After          string // cursor that List returned; empty: from the beginning
}

// ByMatches reports whether By selects a revocation that actor requested.
func (f Filter) ByMatches(actor string) bool {
	return f.By == "" || actor == f.By || strings.HasSuffix(f.By, ":") && strings.HasPrefix(actor, f.By)
}

// Requester reads a Revocation's RevokedBy: who requested it, and through what. Both are
// as the way to revoke has stated them; a writer with SQL can state anything.
func Requester(actor string) (name, through string) {
	source, name, ok := strings.Cut(actor, ":")
	if through, known := sources[source]; ok && known {
		return name, through
	}
	if actor == "local" {
		return "someone on this machine", "page or API, without a token"
	}
	return cmp.Or(actor, "unknown"), "SQL"
}

// sources are the beginnings of actors.
var sources = map[string]string{
	"cli": "command line", "api": "HTTP API", "page": "page", "client": "RFC 7009 (OAuth revocation)", "logout": "back-channel logout",
	"ssf": "Shared Signals event", "keycloak": "Keycloak", "gtr": "Global Token Revocation",
}

// Lister is the read side for people, newest first.
type Lister interface {
	// List returns one page and the cursor of the next one; "" after the last.
	List(ctx context.Context, filter Filter) (page []Revocation, next string, err error)
}
