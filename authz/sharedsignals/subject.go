package sharedsignals

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// Subject turns subject identifiers into revocation requests: those of RFC 9493 and
// of the Shared Signals Framework (SSF 1.0, sections 3.2 to 3.5). What it cannot turn
// into requests that end every token that the identifier stands for is an error.
type Subject struct {
	Issuers []string // whose tokens Speaker may end; never empty
	Speaker string   // the transmitter's iss; empty: Issuers only are named
	// Claims are the claims of tokens that hold what an identifier of a format, or a
	// member of a complex subject, names; see Config.SubjectClaims.
	Claims    map[string]string
	NotBefore time.Time
	Reason    string

	session     bool // the event is about the session, if the identifier names one
	alsoSubject bool // a session's user loses all tokens
}

// Errors of Subject.Requests.
var (
	// ErrUnmappable: nothing in a token, as configured here, holds the identifier.
	ErrUnmappable = errors.New("identifies no token here")
	// ErrOtherIssuer: the identifier is one of an issuer that Speaker does not speak for.
	ErrOtherIssuer = errors.New("belongs to an issuer that the sender does not speak for")

	errNoIdentifier = errors.New("is not a subject identifier (RFC 9493)")
	errEmpty        = errors.New("is empty")
)

const maxAliases = 20

// Requests returns the revocation requests for one identifier as JSON decodes it.
func (s Subject) Requests(v any) ([]authz.RevocationRequest, error) { return s.requests(v, 0) }

// requests is Requests for an identifier at a depth of nesting.
func (s Subject) requests(v any, depth int) ([]authz.RevocationRequest, error) {
	id, ok := v.(map[string]any)
	if !ok || depth > 2 {
		return nil, errNoIdentifier
	}
	if err := checkIssuer(id); err != nil {
		return nil, err
	}
	switch format := formatOf(id); format {
	case "jwt_id":
		return s.request(authz.KindJTI, text(id, "iss"), text(id, "jti"))
	case "opaque":
		return s.opaque(id)
	case "iss_sub":
		out, err := s.request(authz.KindSub, text(id, "iss"), text(id, "sub"))
		return s.orClaim(out, err, id)
	case "account", "email", "phone_number", "did", "uri":
		return s.byClaim(format, id)
	case "aliases":
		return s.aliases(id["identifiers"], depth)
	case "complex":
		return s.complex(id, depth)
	}
	return nil, fmt.Errorf("has the format %q, which %w", authz.Shorten(formatOf(id)), ErrUnmappable)
}

// formatOf returns the format of an identifier. RISC had subject_type before RFC
// 9493, and transmitters use it still (RISC 1.0, section 3); complex subjects had
// no format in earlier drafts.
func formatOf(id map[string]any) string {
	if _, named := id["format"]; named {
		return text(id, "format")
	}
	if legacy := text(id, "subject_type"); legacy != "" {
		return strings.ReplaceAll(legacy, "-", "_")
	}
	if id["user"] != nil || id["session"] != nil {
		return "complex"
	}
	return ""
}

// checkIssuer refuses an identifier that must name its issuer, and does not: without
// a name it would be one of every issuer that the speaker speaks for.
func checkIssuer(id map[string]any) error {
	if format := formatOf(id); (format == "iss_sub" || format == "jwt_id") && text(id, "iss") == "" {
		return errEmpty
	}
	return nil
}

// opaque is an identifier of the issuer's own: the sub or, in an event about a
// session, possibly the sid. Both are revoked then.
func (s Subject) opaque(id map[string]any) ([]authz.RevocationRequest, error) {
	out, err := s.request(authz.KindSub, s.Speaker, text(id, "id"))
	if err != nil || !s.session {
		return s.orClaim(out, err, id)
	}
	more, err := s.request(authz.KindSID, s.Speaker, text(id, "id"))
	return s.orClaim(append(out, more...), err, id)
}

// orClaim adds the requests by the claim that is configured for the identifier's
// format, if any, to those by sub.
func (s Subject) orClaim(out []authz.RevocationRequest, err error, id map[string]any) ([]authz.RevocationRequest, error) {
	if err != nil || s.Claims[formatOf(id)] == "" {
		return out, err
	}
	more, err := s.byClaim(formatOf(id), id)
	return append(out, more...), err
}

// byClaim returns the requests for the tokens whose claim holds the identifier. name
// is its format, or its member of a complex subject.
func (s Subject) byClaim(name string, id map[string]any) ([]authz.RevocationRequest, error) {
	claim := s.Claims[name]
	if claim == "" {
		return nil, fmt.Errorf("names a token by its %s, which %w: api.events.subject_claims names no claim for it", name, ErrUnmappable)
	}
	iss, spellings := s.spellings(id)
	if len(spellings) == 0 {
		return nil, errEmpty
	}
	var out []authz.RevocationRequest
	for _, value := range spellings {
		kind := authz.KindSub
		if claim != "sub" {
			kind, value = authz.KindClaim, authz.ClaimValue(claim, value)
		}
		requests, err := s.request(kind, iss, value)
		if err != nil {
			return nil, err
		}
		out = append(out, requests...)
	}
	return out, nil
}

// spellings returns the issuer of a simple identifier, and the values by which a
// claim may hold it. Claims are compared byte by byte, so an address is tried as
// given and in lower case, and a telephone number as given and without what
// people put between its digits.
func (s Subject) spellings(id map[string]any) (iss string, values []string) {
	iss = s.Speaker
	add := func(all ...string) {
		for _, value := range all {
			if value != "" && !slices.Contains(values, value) {
				values = append(values, value)
			}
		}
	}
	switch formatOf(id) {
	case "iss_sub": // RFC 9493, section 3.2.3
		iss = text(id, "iss")
		add(text(id, "sub"))
	case "opaque": // section 3.2.4
		add(text(id, "id"))
	case "account": // section 3.2.1: an acct URI (RFC 7565)
		uri := text(id, "uri")
		account := strings.TrimPrefix(uri, "acct:")
		add(account, strings.ToLower(account), uri)
	case "email": // section 3.2.2
		add(text(id, "email"), strings.ToLower(text(id, "email")))
	case "phone_number": // section 3.2.5
		add(text(id, "phone_number"), strings.NewReplacer(" ", "", "-", "", ".", "", "(", "", ")", "").Replace(text(id, "phone_number")))
	case "did": // section 3.2.6
		add(text(id, "url"))
	case "uri": // section 3.2.7
		add(text(id, "uri"))
	}
	return iss, values
}

// aliases are identifiers of one subject (RFC 9493, section 3.2.8). Those that name
// no token here are left out, unless all are.
func (s Subject) aliases(v any, depth int) ([]authz.RevocationRequest, error) {
	list, _ := v.([]any)
	if len(list) == 0 || len(list) > maxAliases {
		return nil, fmt.Errorf("has %d aliases, not 1 to %d", len(list), maxAliases)
	}
	var out []authz.RevocationRequest
	var unmappable error
	for _, alias := range list {
		requests, err := s.requests(alias, depth+1)
		switch {
		case errors.Is(err, ErrUnmappable):
			unmappable = cmp.Or(unmappable, err)
		case err != nil:
			return nil, err
		}
		out = append(out, requests...)
	}
	if len(out) == 0 {
		return nil, unmappable
	}
	return out, nil
}

// complex is one principal that has all of its members (SSF 1.0, section 3.3). A
// revocation names one of them, and so ends at least the tokens of the principal:
// the session if the event is about one, else the user, else the device. Only a
// subject without these is about an application, a group, an organizational unit or
// a tenant, whose tokens are those of many.
func (s Subject) complex(id map[string]any, depth int) ([]authz.RevocationRequest, error) {
	var unmappable error
	for _, member := range []struct {
		is       bool
		requests func() ([]authz.RevocationRequest, error)
	}{
		{id["session"] != nil && (s.session && !isEverySession(id["session"]) || id["user"] == nil), func() ([]authz.RevocationRequest, error) { return s.memberSession(id, depth) }},
		{id["user"] != nil, func() ([]authz.RevocationRequest, error) { return s.memberUser(id["user"], depth) }},
		{id["device"] != nil, func() ([]authz.RevocationRequest, error) { return s.member("device", id["device"]) }},
	} {
		if !member.is {
			continue
		}
		out, err := member.requests()
		if !errors.Is(err, ErrUnmappable) {
			return out, err
		}
		unmappable = cmp.Or(unmappable, err)
	}
	if unmappable != nil {
		return nil, unmappable
	}
	for _, name := range []string{"application", "group", "org_unit", "tenant"} {
		if id[name] != nil {
			return s.member(name, id[name])
		}
	}
	return nil, fmt.Errorf("has no member that is known, and %w", ErrUnmappable)
}

// isEverySession reports whether the session of a complex subject stands for all
// sessions of its user: Keycloak 26.7 names none then, but "ALL".
func isEverySession(session any) bool {
	id, _ := session.(map[string]any)
	return text(id, "id") == "ALL"
}

func (s Subject) memberUser(user any, depth int) ([]authz.RevocationRequest, error) {
	s.session = false // an opaque user is a user
	return s.requests(user, depth+1)
}

// memberSession is the session of a complex subject: its id is the sid. An iss_sub
// may also name its user.
func (s Subject) memberSession(id map[string]any, depth int) ([]authz.RevocationRequest, error) {
	session, ok := id["session"].(map[string]any)
	if !ok {
		return nil, errNoIdentifier
	}
	if err := checkIssuer(session); err != nil {
		return nil, err
	}
	var out []authz.RevocationRequest
	var err error
	switch formatOf(session) {
	case "opaque":
		out, err = s.request(authz.KindSID, s.Speaker, text(session, "id"))
	case "iss_sub":
		if out, err = s.request(authz.KindSID, text(session, "iss"), text(session, "sub")); err == nil {
			var more []authz.RevocationRequest
			more, err = s.request(authz.KindSub, text(session, "iss"), text(session, "sub"))
			out = append(out, more...)
		}
	default:
		out, err = s.requests(session, depth+1)
	}
	if err != nil || !s.alsoSubject || id["user"] == nil {
		return out, err
	}
	more, err := s.memberUser(id["user"], depth)
	return append(out, more...), err
}

// member is a device, application, group, organizational unit or tenant of a
// complex subject. An application is the client of tokens.
func (s Subject) member(name string, v any) ([]authz.RevocationRequest, error) {
	id, ok := v.(map[string]any)
	if !ok {
		return nil, errNoIdentifier
	}
	if err := checkIssuer(id); err != nil {
		return nil, err
	}
	if name != "application" || s.Claims[name] != "" {
		return s.byClaim(name, id)
	}
	switch formatOf(id) {
	case "opaque", "iss_sub", "uri":
		iss, clients := s.spellings(id)
		return s.request(authz.KindClient, iss, strings.Join(clients, "")) // it has one spelling
	}
	return nil, fmt.Errorf("names an application by its %s, which %w", authz.Shorten(formatOf(id)), ErrUnmappable)
}

// request returns one request for every issuer that iss stands for. No issuer
// can revoke the tokens of another.
func (s Subject) request(kind authz.Kind, iss, value string) ([]authz.RevocationRequest, error) {
	issuers := s.Issuers
	switch {
	case value == "":
		return nil, errEmpty
	case slices.Contains(s.Issuers, iss):
		issuers = []string{iss}
	case iss != s.Speaker:
		return nil, ErrOtherIssuer
	}
	out := make([]authz.RevocationRequest, len(issuers))
	for i := range issuers {
		out[i] = authz.RevocationRequest{Issuer: &issuers[i], Reason: s.Reason, FromClaims: true}
		out[i].Select(kind, value)
		if kind.ByTime() {
			out[i].NotBefore = s.NotBefore
		}
	}
	return out, nil
}
