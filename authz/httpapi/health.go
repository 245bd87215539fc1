package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// State is the state of a Condition.
type State string

// The states, from good to bad. StateNotReady is the only one that makes /readyz
// answer 503.
const (
	StateOK       State = "ok"
	StateDegraded State = "degraded"  // the part does not work; others may make up for it, or requests are denied
	StateNotReady State = "not_ready" // no request can be decided without the part
)

// Condition is the state of one part of the process at one moment, for /readyz
// and the operator's page.
type Condition struct {
	Part  string // such as "revocations", "store", or "issuer https://issuer.example"
	State State
	// Reason says in one line what is wrong and what callers get meanwhile. It
	// names no host besides configured issuers, so that anyone may read it. Empty
	// if State is StateOK.
	Reason string
	// Detail is the error behind Reason. It may name hosts, and is for
	// authenticated callers only. Empty: there is none.
	Detail string
	Age    time.Duration // of what the part knows, or since it last answered; negative: never
	Bound  time.Duration // the age from which on what the part knows is no longer used; 0: none
}

// text returns Reason, and after it Detail if the caller may read it.
func (c Condition) text(authenticated bool) string {
	if c.Detail == "" || !authenticated {
		return c.Reason
	}
	return strings.TrimPrefix(c.Reason+": "+c.Detail, ": ")
}

// Values of Health.Status besides those of State.
const (
	StatusReady    = "ready"
	StatusDegraded = string(StateDegraded)
	StatusNotReady = string(StateNotReady)
	StatusDraining = "draining"
)

// Health is the state of the whole process at one moment.
type Health struct {
	Status     string // StatusReady, StatusDegraded, StatusNotReady or StatusDraining
	Conditions []Condition
}

// Health returns the state of the process and of each part.
func (a *API) Health() Health {
	h := Health{Status: StatusReady}
	if a.o.Conditions != nil {
		h.Conditions = a.o.Conditions()
	}
	for _, c := range h.Conditions {
		switch {
		case c.State == StateNotReady:
			h.Status = StatusNotReady
		case c.State == StateDegraded && h.Status == StatusReady:
			h.Status = StatusDegraded
		}
	}
	select {
	case <-a.o.Draining:
		h.Status = StatusDraining
	default:
	}
	return h
}

// Status returns the Status of Health.
func (a *API) Status() string { return a.Health().Status }

// readiness is the response of /readyz.
type readiness struct {
	Status string       `json:"status"`
	Parts  []partResult `json:"parts"`
}

type partResult struct {
	Name   string   `json:"name"`
	Ready  bool     `json:"ready"` // false: State is StateNotReady
	State  State    `json:"state"`
	Reason string   `json:"reason,omitzero"`
	Age    *float64 `json:"age_seconds,omitzero"` // nil: never
	Bound  float64  `json:"bound_seconds,omitzero"`
}

// livez stays OK through every outage: a restart would not bring a lost
// dependency back, and would lose the keys and revocations in memory.
func (a *API) livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// readyz answers 503 while a part is not ready or the process is stopping. It
// answers 200 while the process is degraded, because taking every sidecar out of
// service at once would help nobody; the body says so. Probes carry no token and
// see no errors, because those may name hosts.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) {
	h := a.Health()
	_, refused := a.Admit(r)
	code := http.StatusOK
	if h.Status != StatusReady && h.Status != StatusDegraded {
		code = http.StatusServiceUnavailable
	}
	out := readiness{Status: h.Status, Parts: make([]partResult, len(h.Conditions))}
	for i, c := range h.Conditions {
		out.Parts[i] = partResult{Name: c.Part, Ready: c.State != StateNotReady, State: c.State, Reason: c.text(refused == nil), Bound: c.Bound.Seconds()}
		if age := c.Age.Seconds(); age >= 0 {
			out.Parts[i].Age = &age
		}
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/plain") {
		WriteJSON(w, code, "application/json", out)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(out.text()))
}

// text returns the response as text: one line per part, which begins with "+", or
// with "~" if the part is degraded, or with "-" if it is not ready.
func (r readiness) text() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.Status)
	marks := map[State]string{StateDegraded: "~", StateNotReady: "-"}
	for _, p := range r.Parts {
		line := cmp.Or(marks[p.State], "+") + " " + p.Name
		if p.Reason != "" {
			line += " " + strings.ReplaceAll(p.Reason, "\n", "; ")
		}
		fmt.Fprintln(&b, line)
	}
	return b.String()
}
