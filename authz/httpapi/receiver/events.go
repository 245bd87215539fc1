package receiver

import (
	"net/http"
	"strings"

	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/sharedsignals"
)

// eventError is an error response of RFC 8935, section 2.3.
type eventError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

// receiveEvent receives one security event token, pushed according to RFC 8935.
func (c *receiver) receiveEvent(w http.ResponseWriter, r *http.Request) {
	p := httpapi.RequireType(r, "application/secevent+jwt")
	var body []byte
	if p == nil {
		body, p = httpapi.ReadBody(w, r, httpapi.MaxForm)
	}
	if p != nil {
		refuseEvent(w, p.Status, c.signals.Refuse(sharedsignals.CodeInvalidRequest, p.Detail))
		return
	}
	switch result := c.signals.Receive(r.Context(), strings.TrimSpace(string(body))); {
	case result.Outcome.Acknowledged():
		w.WriteHeader(http.StatusAccepted)
	case result.Outcome == sharedsignals.Refused:
		refuseEvent(w, http.StatusBadRequest, result)
	default: // not the event's fault: section 2.4 has the transmitter send it again
		p := httpapi.ProblemOf(result.Err)
		p.Detail = result.Description
		p.Write(w)
	}
}

func refuseEvent(w http.ResponseWriter, status int, result sharedsignals.Result) {
	w.Header().Set("Content-Language", "en") // of the description: required by section 2.3
	httpapi.WriteJSON(w, status, "application/json", eventError{result.Code, result.Description})
}
