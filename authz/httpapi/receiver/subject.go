package receiver

import (
	"errors"
	"slices"
	"time"

	"jwtbouncer/authz"
)

// subject turns subject identifiers (RFC 9493, and the ones that the Shared
// Signals Framework adds) into revocation requests.
type subject struct {
	issuers     []string // issuers whose subjects it may name; never empty
	transmitter string
	session     bool // the event is about the session, if the identifier names one
	notBefore   time.Time
	reason      string
}

var errUnmappable = errors.New("its format identifies no token; use iss_sub, opaque, jwt_id, complex, or aliases of these")

// requests returns the requests for one identifier. depth is its nesting.
func (s subject) requests(v any, depth int) ([]authz.RevocationRequest, error) {
	id, ok := v.(map[string]any)
	if !ok || depth > 2 {
		return nil, errors.New("is not a subject identifier (RFC 9493)")
	}
	format := text(id, "format")
	if legacy := text(id, "subject_type"); format == "" && legacy == "iss-sub" { // RISC before RFC 9493
		format = "iss_sub"
	}
	switch format {
	case "iss_sub":
		return s.request(authz.KindSub, text(id, "iss"), text(id, "sub"))
	case "jwt_id":
		return s.request(authz.KindJTI, text(id, "iss"), text(id, "jti"))
	case "opaque":
		return s.opaque(text(id, "id"))
	case "aliases":
		return s.aliases(id["identifiers"], depth)
	case "complex":
		return s.complex(id, depth)
	case "":
		if id["user"] != nil || id["session"] != nil { // complex subjects had no format in earlier drafts
			return s.complex(id, depth)
		}
	}
	return nil, errUnmappable
}

// opaque is an identifier of the issuer's own: the sub or, in an event about a
// session, possibly the sid. Both are revoked then.
func (s subject) opaque(id string) ([]authz.RevocationRequest, error) {
	out, err := s.request(authz.KindSub, s.transmitter, id)
	if err != nil || !s.session {
		return out, err
	}
	more, err := s.request(authz.KindSID, s.transmitter, id)
	return append(out, more...), err
}

func (s subject) aliases(v any, depth int) ([]authz.RevocationRequest, error) {
	var out []authz.RevocationRequest
	list, _ := v.([]any)
	if len(list) > 20 {
		return nil, errors.New("has more than 20 aliases")
	}
	for _, alias := range list {
		requests, err := s.requests(alias, depth+1)
		if err != nil && !errors.Is(err, errUnmappable) {
			return nil, err
		}
		out = append(out, requests...)
	}
	if len(out) == 0 {
		return nil, errUnmappable
	}
	return out, nil
}

// everySession is the id of a session by which Keycloak 26.7 names all sessions of
// the user that a complex subject also names. Its administrators log users out so.
const everySession = "ALL"

// complex is the intersection of several identifiers. Without a session, it
// revokes all of the user's tokens, although the event may be about one device.
func (s subject) complex(id map[string]any, depth int) ([]authz.RevocationRequest, error) {
	user, session := id["user"], id["session"]
	one, _ := session.(map[string]any)
	switch {
	case user != nil && text(one, "id") == everySession:
		s.session = false
		return s.requests(user, depth+1)
	case text(one, "format") == "opaque" && (s.session || user == nil):
		return s.request(authz.KindSID, s.transmitter, text(one, "id"))
	case user != nil:
		s.session = false // an opaque user is a user
		return s.requests(user, depth+1)
	case session != nil:
		return s.requests(session, depth+1)
	}
	return nil, errUnmappable
}

// request returns one request for every issuer that iss stands for. No issuer
// can revoke the tokens of another.
func (s subject) request(kind authz.Kind, iss, value string) ([]authz.RevocationRequest, error) {
	issuers := s.issuers
	switch {
	case value == "":
		return nil, errors.New("is empty")
	case slices.Contains(s.issuers, iss):
		issuers = []string{iss}
	case iss != s.transmitter:
		return nil, errors.New("belongs to an issuer that this transmitter does not speak for")
	}
	out := make([]authz.RevocationRequest, len(issuers))
	for i := range issuers {
		out[i] = authz.RevocationRequest{Issuer: &issuers[i], Reason: s.reason, FromClaims: true}
		out[i].Select(kind, value)
		if kind == authz.KindSub {
			out[i].NotBefore = s.notBefore
		}
	}
	return out, nil
}
