package httpapi

import (
	"net/http"
	"strings"
)

// ReadinessCheck is one condition for the process to be ready.
type ReadinessCheck struct {
	Name  string       // short, lower case
	Ready func() error // nil: ready. Must not block
}

// readiness is the response of /readyz.
type readiness struct {
	Status string        `json:"status"` // ready, not_ready or draining
	Checks []checkResult `json:"parts"`
}

type checkResult struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitzero"` // only for authenticated callers
}

// livez stays OK through every outage: a restart would not bring a lost
// dependency back, and would lose the keys and revocations in memory.
func (a *API) livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// readyz answers 503 while a check fails or the process is stopping. Probes
// carry no token and see names only, because reasons may name hosts.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) {
	status := a.readiness()
	if _, p := a.Admit(r); p != nil {
		for i := range status.Checks {
			status.Checks[i].Reason = ""
		}
	}
	code := http.StatusOK
	if status.Status != "ready" {
		code = http.StatusServiceUnavailable
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/plain") {
		WriteJSON(w, code, "application/json", status)
		return
	}
	text := status.Status + "\n"
	for _, c := range status.Checks {
		mark := "+"
		if !c.Ready {
			mark = "-"
		}
		text += strings.TrimRight(mark+" "+c.Name+" "+strings.ReplaceAll(c.Reason, "\n", "; "), " ") + "\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}

// Status returns ready, not_ready or draining.
func (a *API) Status() string { return a.readiness().Status }

func (a *API) readiness() readiness {
	out := readiness{Status: "ready", Checks: make([]checkResult, 0, len(a.o.Checks))}
	for _, c := range a.o.Checks {
		result := checkResult{Name: c.Name, Ready: true}
		if err := c.Ready(); err != nil {
			result.Ready, result.Reason = false, err.Error()
			out.Status = "not_ready"
		}
		out.Checks = append(out.Checks, result)
	}
	select {
	case <-a.o.Draining:
		out.Status = "draining"
	default:
	}
	return out
}
