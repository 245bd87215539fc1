package httpapi

import (
	"net/http"
	"strings"
)

// readiness is the answer of /readyz.
type readiness struct {
	Status string       `json:"status"` // ready, not_ready or draining
	Parts  []partStatus `json:"parts"`
}

type partStatus struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitzero"` // left out for callers who may not see it
}

// livez stays OK through every outage: restarting would not bring a lost
// dependency back, and would lose the keys and revocations in memory.
func (a *api) livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// readyz answers 503 while a part is not ready or the process is stopping.
// Probes carry no token and see names only; reasons may name hosts.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) {
	status := a.readiness()
	if _, p := a.admit(r); p != nil {
		for i := range status.Parts {
			status.Parts[i].Reason = ""
		}
	}
	code := http.StatusOK
	if status.Status != "ready" {
		code = http.StatusServiceUnavailable
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/plain") {
		writeJSON(w, code, "application/json", status)
		return
	}
	var text strings.Builder
	text.WriteString(status.Status + "\n")
	for _, p := range status.Parts {
		mark := "+"
		if !p.Ready {
			mark = "-"
		}
		text.WriteString(strings.TrimRight(mark+" "+p.Name+" "+strings.ReplaceAll(p.Reason, "\n", "; "), " ") + "\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text.String()))
}

func (a *api) readiness() readiness {
	out := readiness{Status: "ready", Parts: make([]partStatus, 0, len(a.parts))}
	for _, p := range a.parts {
		s := partStatus{Name: p.Name, Ready: true}
		if err := p.Ready(); err != nil {
			s.Ready, s.Reason = false, err.Error()
			out.Status = "not_ready"
		}
		out.Parts = append(out.Parts, s)
	}
	select {
	case <-a.draining:
		out.Status = "draining"
	default:
	}
	return out
}
