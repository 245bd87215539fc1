package receiver

import (
	"fmt"
	"net/http"
	"unicode/utf8"

	"jwtbouncer/authz/httpapi"
)

// maxState bounds the state of a verification event that is asked for.
const maxState = 1024

// verification is the response of GET /ssf/verification.
type verification struct {
	Received bool `json:"received"`
}

// RegisterVerification adds the endpoint that says whether a verification event (SSF
// 1.0, section 8.1.4) has been received. received is asked by the event's state, which
// only who requested the event knows: no other authorization is needed.
func RegisterVerification(api *httpapi.API, received func(state string) bool) {
	api.Handle(httpapi.Endpoint{Method: "GET", Path: "/ssf/verification", Source: httpapi.SourceEvents, Access: httpapi.AccessOpen, Serve: func(w http.ResponseWriter, r *http.Request) {
		state := r.URL.Query().Get("state")
		if state == "" || utf8.RuneCountInString(state) > maxState {
			httpapi.Fail(http.StatusBadRequest, fmt.Sprintf("the parameter state must have 1 to %d characters", maxState)).Write(w)
			return
		}
		httpapi.WriteJSON(w, http.StatusOK, "application/json", verification{received(state)})
	}})
}
