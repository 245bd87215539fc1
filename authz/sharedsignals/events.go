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
	noEffect      effect = iota // acknowledged; no token is revoked
	revokeSession               // the session's tokens, or the subject's if no session is named
	revokeSubject               // the subject's tokens issued up to the event
	byChange                    // CAEP 1.0, section 3.3: revokeSubject, unless a credential was merely added
	byAssurance                 // section 3.4: Policy.AssuranceLevel decides
	byCompliance                // section 3.5: Policy.DeviceCompliance decides
	byRisk                      // section 3.8: Policy.RiskLevel decides
)

const (
	caep  = "https://schemas.openid.net/secevent/caep/event-type/"
	risc  = "https://schemas.openid.net/secevent/risc/event-type/"
	oauth = "https://schemas.openid.net/secevent/oauth/event-type/"
	ssf   = "https://schemas.openid.net/secevent/ssf/event-type/"
)

// effects of the events of CAEP 1.0 (section 3), RISC 1.0 (section 2), SSF 1.0 and
// the OAuth event types. Others are acknowledged and counted as ignored: the
// transmitter did its part.
var effects = map[string]effect{
	caep + "session-revoked":          revokeSession,
	caep + "token-claims-change":      revokeSubject,
	caep + "credential-change":        byChange,
	caep + "assurance-level-change":   byAssurance,
	caep + "device-compliance-change": byCompliance,
	caep + "risk-level-change":        byRisk,
	caep + "session-established":      noEffect,
	caep + "session-presented":        noEffect,

	risc + "account-credential-change-required": revokeSubject,
	risc + "account-purged":                     revokeSubject,
	risc + "account-disabled":                   revokeSubject,
	risc + "account-enabled":                    noEffect,
	risc + "identifier-changed":                 revokeSubject, // the subject is the old value: tokens with it are out of date
	risc + "identifier-recycled":                revokeSubject, // it is somebody else's from now on
	risc + "credential-compromise":              revokeSubject,
	risc + "opt-in":                             noEffect,
	risc + "opt-out-initiated":                  noEffect,
	risc + "opt-out-cancelled":                  noEffect,
	risc + "opt-out-effective":                  noEffect, // the transmitter falls silent about the account; its tokens stay good
	risc + "recovery-activated":                 noEffect,
	risc + "recovery-information-changed":       noEffect,
	risc + "sessions-revoked":                   revokeSubject,

	oauth + "tokens-revoked": revokeSubject,

	ssf + "verification":   noEffect,
	ssf + "stream-updated": noEffect,
}

// effectOf returns what an event does under the policy: noEffect, revokeSession or
// revokeSubject. What the event does not say is read strictly.
func (p Policy) effectOf(uri string, payload map[string]any) effect {
	var spared bool
	switch e := effects[uri]; e {
	case byChange:
		spared = text(payload, "change_type") == "create"
	case byAssurance:
		spared = p.AssuranceLevel == never || p.AssuranceLevel != onChange && text(payload, "change_direction") == "increase"
	case byCompliance:
		spared = p.DeviceCompliance == never || text(payload, "current_status") == "compliant"
	case byRisk:
		level := strings.ToUpper(text(payload, "current_level"))
		spared = p.RiskLevel == never || level == "LOW" || level == "MEDIUM" && p.RiskLevel != onMedium
	default:
		return e
	}
	if spared {
		return noEffect
	}
	return revokeSubject
}

// eventRequests derives revocation requests from the events of one token. It is
// an error if an event that has an effect identifies no token: it must not be
// acknowledged as if it were enforced.
func (r *Receiver) eventRequests(t *authz.Token, events map[string]any) ([]authz.RevocationRequest, error) {
	var out []authz.RevocationRequest
	for _, uri := range slices.Sorted(maps.Keys(events)) {
		payload, ok := events[uri].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("event %s is not an object", eventName(uri))
		}
		effect := r.o.Config.RevokeOn.effectOf(uri, payload)
		if effect == noEffect {
			continue
		}
		s := r.o.Config.Subject(t.Issuer)
		s.session, s.alsoSubject = effect == revokeSession, r.o.Config.AlsoSubject
		s.NotBefore, s.Reason = authz.IssuedThrough(eventTime(t, payload)), eventReason(uri, payload)
		subjects := slices.DeleteFunc([]any{t.Claims["sub_id"], payload["subject"]}, func(id any) bool { return id == nil })
		for _, id := range subjects {
			requests, err := s.Requests(id)
			if err != nil {
				return nil, fmt.Errorf("the subject of %s %w", eventName(uri), err)
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
