package receiver

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
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

func newEventCounter() *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_security_events_total", Help: "Security event tokens received, by outcome (enforced, ignored, repeated, refused, postponed).",
	}, []string{"outcome"})
	for _, outcome := range []string{"enforced", "ignored", "repeated", "refused", "postponed"} {
		c.WithLabelValues(outcome) // rate and increase miss the first event of a series that begins with it
	}
	return c
}

// eventError is an error response of RFC 8935, section 2.3.
type eventError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

// receiveEvent receives one security event token, pushed according to RFC 8935.
func (c *receiver) receiveEvent(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, description string) {
		c.countEvent("refused")
		w.Header().Set("Content-Language", "en") // of the description: required by section 2.3
		httpapi.WriteJSON(w, status, "application/json", eventError{code, description})
	}
	acknowledge := func(outcome string) {
		c.countEvent(outcome)
		w.WriteHeader(http.StatusAccepted)
	}
	p := httpapi.RequireType(r, "application/secevent+jwt")
	var body []byte
	if p == nil {
		body, p = httpapi.ReadBody(w, r, httpapi.MaxForm)
	}
	if p != nil {
		refuse(p.Status, "invalid_request", p.Detail)
		return
	}
	raw := strings.TrimSpace(string(body))
	t, p, reason := c.verify(r, raw, "security event token", authz.SecurityEventRules{
		Types: []string{"secevent+jwt"}, Audiences: c.events.Audiences, ExpOptional: true, // RFC 8417, section 2.2
	})
	switch {
	case p != nil && p.Status == http.StatusServiceUnavailable:
		c.postpone(w, p)
		return
	case p != nil:
		refuse(p.Status, cmp.Or(eventErrorCodes[reason], "invalid_request"), p.Detail)
		return
	}
	events, ok := t.Claims["events"].(map[string]any)
	// iat is required (RFC 8417, section 2.2): without it, nothing says which
	// tokens are older.
	if t.ID == "" || t.IssuedAt == 0 || !ok || len(events) == 0 {
		refuse(http.StatusBadRequest, "invalid_request", "jti, iat or events is missing")
		return
	}
	now := c.clock.Now()
	id := messageID(t.Issuer, t.ID)
	if c.pushed.has(id, now) { // section 2.2: acknowledged like the first
		acknowledge("repeated")
		return
	}
	requests, err := c.eventRequests(t, events)
	if err != nil {
		refuse(http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	if len(requests) == 0 {
		c.log.InfoContext(r.Context(), "security event acknowledged without effect", "iss", t.Issuer, "jti", t.ID)
		acknowledge("ignored")
		return
	}
	if _, p := c.api.Revoke(r, httpapi.SourceEvents, "ssf:"+t.Issuer, requests); p != nil {
		if p.Status == http.StatusBadRequest {
			refuse(p.Status, "invalid_request", p.Errors[0].Detail)
			return
		}
		c.postpone(w, p)
		return
	}
	c.pushed.add(id, now)
	acknowledge("enforced")
}

// postpone sends a problem for which the event is not to blame: section 2.4 has
// the transmitter send it again.
func (c *receiver) postpone(w http.ResponseWriter, p *httpapi.Problem) {
	c.countEvent("postponed")
	p.Write(w)
}

func (c *receiver) countEvent(outcome string) { c.eventCounter.WithLabelValues(outcome).Inc() }

// eventErrorCodes are the error codes of RFC 8935, section 2.4, by reason. Other
// reasons have invalid_request.
var eventErrorCodes = map[authz.Reason]string{
	authz.ReasonUnknownIssuer: "invalid_issuer", authz.ReasonWrongAudience: "invalid_audience",
	authz.ReasonUnknownKey: "invalid_key", authz.ReasonRevoked: "invalid_key", authz.ReasonBadSignature: "authentication_failed",
}

// eventRequests derives revocation requests from the events of one token. It is
// an error if an event that has an effect identifies no token: it must not be
// acknowledged as if it were enforced.
func (c *receiver) eventRequests(t *authz.Token, events map[string]any) ([]authz.RevocationRequest, error) {
	issuers := c.events.SpeaksFor[t.Issuer] // that the transmitter may report about
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
			notBefore: notBefore(eventTime(t, payload)), reason: eventReason(uri, payload),
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
		if at, ok := secondsOf(claim); ok {
			return min(at, t.IssuedAt)
		}
	}
	return t.IssuedAt
}

func eventReason(uri string, payload map[string]any) string {
	reason := eventName(uri)
	if admin, ok := payload["reason_admin"].(map[string]any); ok {
		if s := text(admin, "en"); s != "" && !authz.HoldsToken(s) {
			reason += ": " + httpapi.Shorten(s)
		}
	}
	return reason
}

// eventName is the last part of an event's URI, for people.
func eventName(uri string) string { return httpapi.Shorten(uri[strings.LastIndexByte(uri, '/')+1:]) }
