package sharedsignals

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// effect is what an event does to the tokens of its subject.
type effect uint8

const (
	noEffect            effect = iota // acknowledged; no token is revoked
	revokeSession                     // the session's tokens, or the subject's if no session is named
	revokeSubject                     // the subject's tokens issued up to the event
	revokeUnlessCreated               // like revokeSubject, unless a credential was merely added
)

const (
	caep  = "https://schemas.openid.net/secevent/caep/event-type/"
	risc  = "https://schemas.openid.net/secevent/risc/event-type/"
	oauth = "https://schemas.openid.net/secevent/oauth/event-type/"
	ssf   = "https://schemas.openid.net/secevent/ssf/event-type/"
)

// effects of the known events. Others are acknowledged and counted as ignored:
// the transmitter did its part.
var effects = map[string]effect{
	caep + "session-revoked":                    revokeSession,
	caep + "credential-change":                  revokeUnlessCreated,
	caep + "token-claims-change":                revokeSubject,
	risc + "account-disabled":                   revokeSubject,
	risc + "account-purged":                     revokeSubject,
	risc + "account-credential-change-required": revokeSubject,
	risc + "credential-compromise":              revokeSubject,
	risc + "sessions-revoked":                   revokeSubject,
	oauth + "tokens-revoked":                    revokeSubject,
	risc + "account-enabled":                    noEffect,
	ssf + "verification":                        noEffect,
	ssf + "stream-updated":                      noEffect,
}

// eventRequests derives revocation requests from the events of one token. It is
// an error if an event that has an effect identifies no token: it must not be
// acknowledged as if it were enforced.
func (r *Receiver) eventRequests(t *authz.Token, events map[string]any) ([]authz.RevocationRequest, error) {
	issuers := r.o.Config.SpeaksFor[t.Issuer] // that the transmitter may report about
	if len(issuers) == 0 {
		issuers = []string{t.Issuer}
	}
	var out []authz.RevocationRequest
	for _, uri := range slices.Sorted(maps.Keys(events)) {
		payload, ok := events[uri].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("event %s is not an object", eventName(uri))
		}
		effect := effects[uri]
		if effect == noEffect || effect == revokeUnlessCreated && text(payload, "change_type") == "create" {
			continue
		}
		s := subject{
			issuers: issuers, transmitter: t.Issuer, session: effect == revokeSession,
			notBefore: authz.IssuedThrough(eventTime(t, payload)), reason: eventReason(uri, payload),
		}
		subjects := slices.DeleteFunc([]any{t.Claims["sub_id"], payload["subject"]}, func(id any) bool { return id == nil })
		for _, id := range subjects {
			requests, err := s.requests(id, 0)
			if err != nil {
				return nil, fmt.Errorf("subject of %s: %w", eventName(uri), err)
			}
			out = append(out, requests...)
		}
		if len(subjects) == 0 {
			return nil, fmt.Errorf("event %s has no subject (sub_id)", eventName(uri))
		}
	}
	return out, nil
}

// eventTime returns when the event happened, in Unix seconds: event_timestamp
// (CAEP), else toe (RFC 8417), else iat. An event is not later than its message.
func eventTime(t *authz.Token, payload map[string]any) int64 {
	for _, claim := range []any{payload["event_timestamp"], t.Claims["toe"]} {
		if at, ok := authz.MessageTime(claim); ok {
			return min(at, t.IssuedAt)
		}
	}
	return t.IssuedAt
}

func eventReason(uri string, payload map[string]any) string {
	reason := eventName(uri)
	if admin, ok := payload["reason_admin"].(map[string]any); ok {
		if s := text(admin, "en"); s != "" && !authz.HoldsToken(s) {
			reason += ": " + authz.Shorten(s)
		}
	}
	return reason
}

// eventName is the last part of an event's URI, for people.
func eventName(uri string) string { return authz.Shorten(uri[strings.LastIndexByte(uri, '/')+1:]) }

// tellStream hands events about the stream itself to whoever manages it.
func (r *Receiver) tellStream(t *authz.Token, events map[string]any) {
	id, _ := t.Claims["sub_id"].(map[string]any)
	for uri, tell := range map[string]func(payload map[string]any){
		ssf + "verification": func(payload map[string]any) {
			if r.o.Verified != nil {
				r.o.Verified(t.Issuer, text(id, "id"), text(payload, "state"))
			}
		},
		ssf + "stream-updated": func(payload map[string]any) {
			r.o.Logger.Warn("the transmitter changed the status of a stream", "iss", t.Issuer, "status", authz.Shorten(streamStatus(payload)))
			if r.o.Updated != nil {
				r.o.Updated(t.Issuer, text(id, "id"), streamStatus(payload))
			}
		},
	} {
		if payload, ok := events[uri].(map[string]any); ok {
			tell(payload)
		}
	}
}

// streamStatus returns the status in a stream updated event. Keycloak 26 wraps it in
// an object that is the body of the status endpoint.
func streamStatus(payload map[string]any) string {
	if wrapped, ok := payload["status"].(map[string]any); ok {
		payload = wrapped
	}
	return text(payload, "status")
}

// text returns a claim that is text; "" for any other.
func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}
