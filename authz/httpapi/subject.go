package httpapi

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"jwtbouncer/authz"
)

// eventRequests turns the events of one Security Event Token into
// revocations. An event that has an effect but names nobody who can be found
// in a token is an error: it must not be acknowledged as if it were enforced.
func (a *api) eventRequests(t *authz.Token, events map[string]any, now time.Time) ([]authz.RevocationRequest, error) {
	var out []authz.RevocationRequest
	for _, uri := range sortedNames(events) {
		payload, ok := events[uri].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("event %s is not an object", eventName(uri))
		}
		what := effects[uri]
		if what == noEffect || what == endOnlyIfWorn && text(payload, "change_type") == "create" {
			continue
		}
		s := subject{issuers: a.scope(t.Issuer), transmitter: t.Issuer, session: what == endSession, before: before(eventTime(t, payload), now), reason: eventReason(uri, payload)}
		subjects := 0 // of this event: another's do not answer for it
		for _, named := range []any{t.Claims["sub_id"], payload["subject"]} {
			if named == nil {
				continue
			}
			subjects++
			found, err := s.requests(named, 0)
			if err != nil {
				return nil, fmt.Errorf("subject of %s: %w", eventName(uri), err)
			}
			out = append(out, found...)
		}
		if subjects == 0 {
			return nil, fmt.Errorf("event %s has no subject (sub_id)", eventName(uri))
		}
	}
	return out, nil
}

// scope returns the issuers that a transmitter may speak of.
func (a *api) scope(transmitter string) []string {
	if list := a.events.SpeaksFor[transmitter]; len(list) > 0 {
		return list
	}
	return []string{transmitter}
}

// eventTime is when it happened: event_timestamp (CAEP), toe (RFC 8417), or
// else when it was told.
func eventTime(t *authz.Token, payload map[string]any) int64 {
	if at, ok := secondsOf(payload["event_timestamp"]); ok {
		return at
	}
	if at, ok := secondsOf(t.Claims["toe"]); ok {
		return at
	}
	return t.IssuedAt
}

func eventReason(uri string, payload map[string]any) string {
	reason := eventName(uri)
	if why, ok := payload["reason_admin"].(map[string]any); ok {
		if s := text(why, "en"); s != "" && !authz.HoldsToken(s) {
			reason += ": " + shorten(s)
		}
	}
	return reason
}

// subject reads subject identifiers (RFC 9493, and those that the Shared
// Signals Framework adds).
type subject struct {
	issuers     []string // those it may name; never empty
	transmitter string
	session     bool // a session is meant, where one is named
	before      time.Time
	reason      string
}

var errUnmappable = errors.New("its format identifies nobody in a token; iss_sub, opaque, jwt_id, complex and aliases of these can be used")

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
		return s.make(authz.KindSub, text(id, "iss"), text(id, "sub"))
	case "jwt_id":
		return s.make(authz.KindJTI, text(id, "iss"), text(id, "jti"))
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

// opaque is the issuer's own name for somebody: the sub, or in an event about
// sessions perhaps a sid. Both are ended then; a sub that equals a sid does
// not occur by chance.
func (s subject) opaque(id string) ([]authz.RevocationRequest, error) {
	out, err := s.make(authz.KindSub, s.transmitter, id)
	if err != nil || !s.session {
		return out, err
	}
	more, err := s.make(authz.KindSID, s.transmitter, id)
	return append(out, more...), err
}

func (s subject) aliases(v any, depth int) ([]authz.RevocationRequest, error) {
	list, _ := v.([]any)
	var out []authz.RevocationRequest
	if len(list) > 20 {
		return nil, errors.New("has more than 20 aliases")
	}
	for _, one := range list {
		found, err := s.requests(one, depth+1)
		if err != nil && !errors.Is(err, errUnmappable) {
			return nil, err
		}
		out = append(out, found...)
	}
	if len(out) == 0 {
		return nil, errUnmappable
	}
	return out, nil
}

// complex names what several identifiers have in common. A session alone is
// narrow enough; otherwise the whole user is ended, though the event may mean
// only one of the user's devices: too much rather than too little.
func (s subject) complex(id map[string]any, depth int) ([]authz.RevocationRequest, error) {
	user, session := id["user"], id["session"]
	if session != nil && (s.session || user == nil) {
		one, _ := session.(map[string]any)
		if text(one, "format") == "opaque" {
			return s.make(authz.KindSID, s.transmitter, text(one, "id"))
		}
		if user == nil {
			return s.requests(session, depth+1)
		}
	}
	if user == nil {
		return nil, errUnmappable
	}
	s.session = false // an opaque user is a user
	return s.requests(user, depth+1)
}

// make returns the revocation for every issuer meant by iss. One issuer can
// never end another's tokens.
func (s subject) make(kind authz.Kind, iss, value string) ([]authz.RevocationRequest, error) {
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
			out[i].NotBefore = s.before
		}
	}
	return out, nil
}
