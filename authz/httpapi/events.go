package httpapi

import (
	"net/http"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// effect is what an event does to the tokens of its subject.
type effect uint8

const (
	noEffect      effect = iota // acknowledged; no token has to end
	endSession                  // the session's tokens, or the subject's where no session is named
	endSubject                  // the subject's tokens issued up to the event
	endOnlyIfWorn               // as endSubject, unless a credential was merely added
)

const (
	caep  = "https://schemas.openid.net/secevent/caep/event-type/"
	risc  = "https://schemas.openid.net/secevent/risc/event-type/"
	oauth = "https://schemas.openid.net/secevent/oauth/event-type/"
	ssf   = "https://schemas.openid.net/secevent/ssf/event-type/"
)

// effects of the events that are known. What is not listed is acknowledged and
// counted as ignored: the transmitter did its part.
var effects = map[string]effect{
	caep + "session-revoked":                    endSession,
	caep + "credential-change":                  endOnlyIfWorn,
	caep + "token-claims-change":                endSubject,
	risc + "account-disabled":                   endSubject,
	risc + "account-purged":                     endSubject,
	risc + "account-credential-change-required": endSubject,
	risc + "credential-compromise":              endSubject,
	risc + "sessions-revoked":                   endSubject,
	oauth + "tokens-revoked":                    endSubject,
	risc + "account-enabled":                    noEffect,
	ssf + "verification":                        noEffect,
	ssf + "stream-updated":                      noEffect,
}

// securityEventError is an error answer of RFC 8935, section 2.3.
type securityEventError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

// receiveEvents takes one Security Event Token pushed as RFC 8935 describes.
func (a *api) receiveEvents(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, description string) {
		a.metrics.events.WithLabelValues("refused").Inc()
		w.Header().Set("Content-Language", "en") // of the description: section 2.3 demands it
		writeJSON(w, status, "application/json", securityEventError{code, description})
	}
	if p := needType(r, "application/secevent+jwt"); p != nil {
		refuse(p.Status, "invalid_request", p.Detail)
		return
	}
	body, p := readBody(w, r, maxForm)
	if p != nil {
		refuse(p.Status, "invalid_request", p.Detail)
		return
	}
	raw := strings.TrimSpace(string(body))
	t, err := a.verifier.VerifySecurityEvent(r.Context(), raw, authz.SecurityEventRules{
		Types: []string{"secevent+jwt"}, Audiences: a.events.Audiences, ExpOptional: true, // RFC 8417, section 2.2
	})
	if err != nil {
		a.log.InfoContext(r.Context(), "security event refused", "error", err)
		if a.couldNotFindOut(err, raw) {
			a.retryLater(w, unavailable("the event could not be verified for now"))
			return
		}
		refuse(http.StatusBadRequest, eventErrorCode(reasonOf(err)), "the security event token is not valid: "+reasonOf(err).String())
		return
	}
	events, ok := t.Claims["events"].(map[string]any)
	// Without iat (section 2.2 of RFC 8417) nothing says which tokens are older.
	if t.ID == "" || t.IssuedAt == 0 || !ok || len(events) == 0 {
		refuse(http.StatusBadRequest, "invalid_request", "jti, iat or events is missing")
		return
	}
	now := a.clock.Now()
	id := messageID(t.Issuer, t.ID)
	if a.pushed.has(id, now) { // section 2.2: acknowledged like the first
		a.metrics.events.WithLabelValues("repeated").Inc()
		w.WriteHeader(http.StatusAccepted)
		return
	}
	requests, err := a.eventRequests(t, events, now)
	if err != nil {
		refuse(http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	if len(requests) == 0 {
		a.metrics.events.WithLabelValues("ignored").Inc()
		a.log.InfoContext(r.Context(), "security event acknowledged without effect", "iss", t.Issuer, "jti", t.ID)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if _, p := a.revoke(r, doorEvents, "ssf:"+t.Issuer, requests); p != nil {
		if p.Status == http.StatusBadRequest {
			refuse(p.Status, "invalid_request", p.Errors[0].Detail)
			return
		}
		a.retryLater(w, p)
		return
	}
	a.pushed.add(id, now)
	a.metrics.events.WithLabelValues("enforced").Inc()
	w.WriteHeader(http.StatusAccepted)
}

// retryLater answers what is no fault of the event's: section 2.4 has the
// transmitter send it again.
func (a *api) retryLater(w http.ResponseWriter, p *problem) {
	a.metrics.events.WithLabelValues("postponed").Inc()
	p.write(w)
}

func eventErrorCode(r authz.Reason) string {
	switch r {
	case authz.ReasonUnknownIssuer:
		return "invalid_issuer"
	case authz.ReasonWrongAudience:
		return "invalid_audience"
	case authz.ReasonUnknownKey, authz.ReasonRevoked:
		return "invalid_key"
	case authz.ReasonBadSignature:
		return "authentication_failed"
	}
	return "invalid_request"
}

// eventName is the last part of an event's URI, for people.
func eventName(uri string) string { return shorten(uri[strings.LastIndexByte(uri, '/')+1:]) }

func sortedNames(events map[string]any) []string {
	names := make([]string, 0, len(events))
	for name := range events {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
